"""Two-stage search, guards and priors on small knowledge bases, against a plain numpy search written out here."""

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from countryreward.retrieval.bulk_priors import build_priors, build_priors_of_ks, with_ks
from countryreward.retrieval.prior import PriorRetriever, retrieval_hash
from countryreward.retrieval.retrieval_config import PriorConfig, RetrievalConfig, SearchConfig
from countryreward.retrieval.search import Query, TwoStageSearch
from countryreward.scoring.contracts import Product
from countryreward.scoring.prior_lookup import EncodedImage, MarketPair, MarketPrior, PriorLookup, shared_searches


def query_of(source, product: str, creatives: list[str], market: str = "KR", **options) -> Query:
    texts = source.products.set_index("product_id")["text_row"]
    images = source.images.set_index("content_hash")
    names = [f"hash-{name}" for name in creatives]
    return Query(
        market=market,
        text=np.asarray(source.texts[texts[product]]),
        images=np.asarray(source.image_vectors[images.loc[names, "image_row"].to_numpy()]),
        content_hashes=names,
        perceptual_hashes=np.array([int(text, 16) for text in images.loc[names, "perceptual_hash"]], dtype=np.uint64),
        product_id=product,
        **options,
    )


def plain_search(base, query: Query, k: int, m: int) -> tuple[list[int], list[list[str]]]:
    """Eq. 1 by brute force over every product and every image of the market."""
    market = base.market(query.market)
    own = base.product_row(query.product_id)
    texts = base.texts[base.products["text_row"].to_numpy()]
    products = [row for row in market.product_rows.tolist() if row != own]
    score = {row: float((texts[row].astype(np.float64) * query.text.astype(np.float64)).sum()) for row in products}
    products = sorted(products, key=lambda row: (-score[row], row))[:k]
    lists = []
    for image in query.images:
        entries = [entry for entry in range(len(market.creative_id)) if market.product_row[entry] in set(products)]
        similarity = {
            entry: float(
                (base.image_vectors[market.image_row[entry]].astype(np.float64) * image.astype(np.float64)).sum()
            )
            for entry in entries
        }
        lists.append(
            [str(market.creative_id[entry]) for entry in sorted(entries, key=lambda e: (-similarity[e], e))[:m]]
        )
    return products, lists


@pytest.mark.parametrize(("k", "m", "seed"), [(1, 1, 0), (7, 5, 1), (20, 39, 2), (45, 10, 3), (127, 39, 4)])
def test_two_stage_search_equals_plain_numpy_with_many_ties(make_world, k: int, m: int, seed: int):
    base, source = make_world(seed=seed)
    search = TwoStageSearch(base, SearchConfig(text_k=k, image_k=m, near_duplicate_bits=-1))
    for product, creatives in [
        ("q0", ["q0-c1", "q0-c2"]),
        ("q1", ["q1-c1", "q1-c2"]),
        ("p003", ["p003-c0", "p003-c1"]),
    ]:
        query = query_of(source, product, creatives)
        found = search.candidates(query)
        products, lists = plain_search(base, query, k, m)
        assert found.product_rows.tolist() == products
        market = base.market("KR")
        for image, expected in enumerate(lists):
            if product.startswith("q"):  # no guard can fire: these images are in no base
                got = found.entry[search.neighbours(found, image, (0, 1))]
                assert [str(name) for name in market.creative_id[got]] == expected


def test_search_is_exact_where_float32_cannot_tell_texts_apart(hand_world):
    """200 products whose texts differ in the 8th digit: FAISS's own order is noise, ours must be the float64 one."""
    rng = np.random.default_rng(11)
    centre = rng.normal(size=512)
    text = {f"p{n:03d}": (centre + 1e-6 * rng.normal(size=512)) for n in range(200)} | {"new": centre}
    text = {name: (vector / np.linalg.norm(vector)).astype(np.float32) for name, vector in text.items()}
    creatives = [(f"{name}-a", name) for name in text if name != "new"]
    rows = [counted(name, 100) for name, _ in creatives]
    image = {name: A for name, _ in creatives} | {"new-a": A, "new-b": B}
    base, source = hand_world(
        products=[p for _, p in creatives], creatives=creatives, rows=rows, text=text, image=image
    )
    query = query_of(source, "new", ["new-a", "new-b"])
    found = TwoStageSearch(base, SearchConfig(text_k=5)).candidates(query)
    assert found.product_rows.tolist() == plain_search(base, query, 5, 1)[0]


def test_a_smaller_k_is_a_filter_on_the_same_search(make_world):
    base, source = make_world(seed=5)
    query = query_of(source, "q1", ["q1-c1", "q1-c2"])
    wide = TwoStageSearch(base, SearchConfig(text_k=50, image_k=39))
    found = wide.candidates(query)
    for k, m in [(3, 4), (20, 10), (50, 39)]:
        narrow = TwoStageSearch(base, SearchConfig(text_k=k, image_k=m))
        alone = narrow.candidates(query)
        for image in (0, 1):
            expected = alone.entry[narrow.neighbours(alone, image, (0, 1))]
            assert found.entry[wide.neighbours(found, image, (0, 1), text_k=k, image_k=m)].tolist() == expected.tolist()


def test_queries_of_the_same_images_share_scores_and_find_what_each_finds_alone(make_world):
    base, source = make_world(seed=10)
    search = TwoStageSearch(base, SearchConfig(text_k=20, near_duplicate_bits=30))
    first = query_of(source, "q1", ["q1-c0", "q1-c1", "q1-c2"])
    asked = [
        replace(first, **change)
        for change in ({}, {"market": "BR"}, {"market": "FR"}, {"as_of": dt.date(2026, 2, 1)}, {"product_id": "p003"})
    ]
    for query, found in zip(asked, search.candidates_of(asked), strict=True):
        alone = search.candidates(query)
        for name in ("product_rows", "text_similarity", "entry", "text_rank", "similarity", "leaks"):
            np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))


def market_pair(title: str, a: str, b: str, market: str, as_of: dt.date | None = None) -> MarketPair:
    image = {
        name: EncodedImage(content_hash=name, perceptual_hash=ord(name), vector=np.full(2, ord(name))) for name in a + b
    }
    return MarketPair(product=Product(title=title), images=(image[a], image[b]), market=market, as_of=as_of)


def test_pairs_of_one_product_share_searches():
    day = dt.date(2026, 2, 1)
    pairs = [
        *(market_pair("lamp", a, b, market) for market in ("KR", "BR") for a, b in ("xy", "xz", "yz")),
        market_pair("lamp", "x", "y", "KR", day),
        market_pair("desk", "y", "x", "KR"),
    ]
    lamp, desk = np.array([1.0, 0.0], dtype=np.float32), np.array([0.0, 1.0], dtype=np.float32)
    ranked, dated, other = shared_searches(pairs, {"lamp": lamp, "desk": desk})
    assert [(one.query.market, one.pairs) for one in ranked] == [
        ("KR", [(0, 0, 1), (1, 0, 2), (2, 1, 2)]),
        ("BR", [(3, 0, 1), (4, 0, 2), (5, 1, 2)]),
    ]
    assert ranked[0].query.content_hashes == ("x", "y", "z")
    assert ranked[0].query.images is ranked[1].query.images
    assert [(one.query.as_of, one.query.content_hashes, one.pairs) for one in dated] == [(day, ("x", "y"), [(6, 0, 1)])]
    assert [(one.query.text is desk, one.query.content_hashes, one.pairs) for one in other] == [
        (True, ("y", "x"), [(7, 0, 1)])
    ]


@pytest.mark.slow
@pytest.mark.parametrize("reading", ["paper", "repaired"])
def test_permuting_the_base_changes_nothing(make_world, reading):
    config = RetrievalConfig(search=SearchConfig(text_k=15, image_k=9), prior=PriorConfig(reading=reading))
    answers = []
    for order in (0, 1, 2):
        base, source = make_world(seed=6, order=order)
        query = query_of(source, "q2", ["q2-c0", "q2-c1", "q2-c2"])
        answers.append(
            [prior.log_odds for prior in PriorRetriever(base, config).priors(query, [(0, 1), (1, 2), (0, 2)])]
        )
    assert answers[0] == answers[1] == answers[2]
    assert any(answers[0])


def test_swapping_the_images_negates_the_log_odds_and_flips_the_letter(make_world):
    base, source = make_world(seed=7)
    retriever = PriorRetriever(base, RetrievalConfig(search=SearchConfig(text_k=30)))
    query = query_of(source, "q3", ["q3-c0", "q3-c1", "q3-c2"])
    pairs = [(0, 1), (0, 2), (1, 2)]
    for (a, b), prior in zip(pairs, retriever.priors(query, pairs), strict=True):
        back = retriever.priors(query, [(b, a)])[0]
        assert back.log_odds == -prior.log_odds != 0
        assert {prior.letter, back.letter} == {"A", "B"}


def test_an_unknown_market_is_exactly_no_prior(make_world):
    base, source = make_world(seed=8)
    prior = PriorRetriever(base, RetrievalConfig()).priors(
        query_of(source, "q0", ["q0-c1", "q0-c2"], market="FR"), [(0, 1)]
    )[0]
    assert (prior.log_odds, prior.n, prior.letter) == (0.0, 0, None)


def test_everything_guarded_away_is_exactly_no_prior(make_world):
    base, source = make_world(seed=8)
    config = RetrievalConfig(search=SearchConfig(image_min_similarity=1.5))
    prior = PriorRetriever(base, config).priors(query_of(source, "q0", ["q0-c1", "q0-c2"]), [(0, 1)])[0]
    assert (prior.log_odds, prior.n, prior.letter) == (0.0, 0, None)


# A world written out: one query product "new" with images A and B, past products p1 and p2 in Korea. Image vectors are
# [1, 0] (like A) and [0, 1] (like B); ads like A won in both products.
A, B = np.array([1.0, 0.0]), np.array([0.0, 1.0])
NEAR_A = np.array([0.999, np.sqrt(1 - 0.999**2)])


def counted(creative: str, clicks: int, month: int = 1, market: str = "KR") -> dict:
    return {
        "creative_id": creative, "market": market, "kind": "counts", "impressions": 10_000, "clicks": clicks,
        "period_start": dt.date(2026, month, 1), "period_end": dt.date(2026, month, 28),
    }  # fmt: skip


def planted(hand_world, *, extra_creatives=(), extra_rows=(), extra_images=None, **options):
    creatives = [("p1-a", "p1"), ("p1-b", "p1"), ("p2-a", "p2"), ("p2-b", "p2"), *extra_creatives]
    rows = [counted("p1-a", 300), counted("p1-b", 100), counted("p2-a", 300), counted("p2-b", 100), *extra_rows]
    image = {"p1-a": A, "p1-b": B, "p2-a": A, "p2-b": B, "new-a": A, "new-b": B, **(extra_images or {})}
    text = {name: np.array([1.0, 0.0]) for name in ("p1", "p2", "new", *(name for _, name in extra_creatives))}
    products = sorted({product for _, product in creatives})
    return hand_world(products=products, creatives=creatives, rows=rows, text=text, image=image, **options)


def test_past_ads_of_one_picture_show_their_own_headlines(hand_world):
    base, source = planted(
        hand_world,
        extra_creatives=[("p3-a", "p3"), ("p3-b", "p3")],
        extra_rows=[counted("p3-a", 900), counted("p3-b", 100)],
        extra_images={"p3-a": A, "p3-b": A},
        hashes={"p3-a": "same", "p3-b": "same"},
        headlines={"p3-a": "Warm light", "p3-b": "Cold light"},
    )
    query = query_of(source, "new", ["new-a", "new-b"])
    prior = PriorRetriever(base, RetrievalConfig()).priors(query, [(0, 1)])[0]
    lookup = PriorLookup.__new__(PriorLookup)
    lookup.base = base
    shown = {
        ad.creative_id: ad for each in lookup.evidence(MarketPrior(query, prior)) for ad in (each.like_a, each.like_b)
    }
    assert {name: ad.headline for name, ad in sorted(shown.items())} == {
        "p1-a": None,
        "p1-b": None,
        "p2-a": None,
        "p2-b": None,
        "p3-a": "Warm light",
        "p3-b": "Cold light",
    }
    assert shown["p3-a"].value == pytest.approx(9 * shown["p3-b"].value)


def names(base, entries) -> list[str]:
    return [str(name) for name in base.market("KR").creative_id[entries]]


def test_prior_by_hand_in_both_readings(hand_world):
    base, source = planted(hand_world)
    query = query_of(source, "new", ["new-a", "new-b"])
    paper = PriorRetriever(base, RetrievalConfig(prior=PriorConfig(reading="paper"))).priors(query, [(0, 1)])[0]
    # N_A = p1-a, p2-a, p1-b, p2-b; N_B = p1-b, p2-b, p1-a, p2-a. Votes 1, 1, 0, 0; weights 3, 2, 1, 0; mean 1.5.
    assert names(base, paper.entries_a) == ["p1-a", "p2-a", "p1-b", "p2-b"]
    assert names(base, paper.entries_b) == ["p1-b", "p2-b", "p1-a", "p2-a"]
    assert paper.log_odds == pytest.approx(np.log((5 + 1.5) / (1 + 1.5)))
    assert paper.letter == "A"
    repaired = PriorRetriever(base, RetrievalConfig()).priors(query, [(0, 1)])[0]
    # lifts: the product's rate is 2 %, the base's concentration decides how far .03 and .01 are shrunk towards it
    lift = base.market("KR").evidence(None).lift
    vote = 1 / (1 + np.exp(lift[1] - lift[0]))
    assert lift[0] > 0 > lift[1]
    up = 4 * vote + 3 * vote + 2 * (1 - vote) + (1 - vote)
    assert repaired.log_odds == pytest.approx(np.log((up + 2.5) / (10 - up + 2.5)))


def test_planted_leak_same_product(hand_world):
    base, source = planted(
        hand_world,
        extra_creatives=[("new-x", "new")],
        extra_rows=[counted("new-x", 9000)],
        extra_images={"new-x": NEAR_A},
    )
    query = query_of(source, "new", ["new-a", "new-b"])
    prior = PriorRetriever(base, RetrievalConfig()).priors(query, [(0, 1)])[0]
    assert "new-x" not in names(base, prior.entries_a) + names(base, prior.entries_b)
    stranger = Query(**{**query.__dict__, "product_id": None})
    leaked = PriorRetriever(base, RetrievalConfig()).priors(stranger, [(0, 1)])[0]
    assert "new-x" in names(base, leaked.entries_a)  # without knowing whose it is, the plant would be found


def test_planted_leak_same_bytes_in_another_product(hand_world):
    plant = {"extra_creatives": [("p3-a", "p3")], "extra_rows": [counted("p3-a", 9000)], "extra_images": {"p3-a": A}}
    base, source = planted(hand_world, **plant, hashes={"p3-a": "hash-new-a"})
    prior = PriorRetriever(base, RetrievalConfig(search=SearchConfig(near_duplicate_bits=-1))).priors(
        query_of(source, "new", ["new-a", "new-b"]), [(0, 1)]
    )[0]
    assert "p3-a" not in names(base, prior.entries_a) + names(base, prior.entries_b)


def test_planted_leak_near_duplicate(hand_world):
    plant = {
        "extra_creatives": [("p3-a", "p3")],
        "extra_rows": [counted("p3-a", 9000)],
        "extra_images": {"p3-a": NEAR_A},
    }
    perceptual = {"hash-new-b": f"{0xFFFF:016x}", "hash-p3-a": f"{0xFFFF ^ 0b1111:016x}"}  # four bits from B's
    base, source = planted(hand_world, **plant, perceptual=perceptual)
    query = query_of(source, "new", ["new-a", "new-b"])
    for bits, expected in ((4, False), (3, True)):
        prior = PriorRetriever(base, RetrievalConfig(search=SearchConfig(near_duplicate_bits=bits))).priors(
            query, [(0, 1)]
        )[0]
        assert ("p3-a" in names(base, prior.entries_a)) is expected  # a copy of B must not speak for A either


def test_planted_leak_evidence_after_the_query(hand_world):
    rows = [counted("p3-a", 9000, month=6), counted("p1-a", 9000, month=6)]
    base, source = planted(hand_world, extra_creatives=[("p3-a", "p3")], extra_rows=rows, extra_images={"p3-a": NEAR_A})
    retriever = PriorRetriever(base, RetrievalConfig(prior=PriorConfig(reading="paper")))
    creatives = ["new-a", "new-b"]
    prior = retriever.priors(query_of(source, "new", creatives, as_of=dt.date(2026, 3, 1)), [(0, 1)])[0]
    assert "p3-a" not in names(base, prior.entries_a) + names(base, prior.entries_b)
    known = base.market("KR").evidence(dt.date(2026, 3, 1))
    assert known.value[0] == 0.03  # p1-a: January only
    assert base.market("KR").evidence(None).value[0] == (300 + 9000) / 20_000
    on_the_last_day = retriever.priors(query_of(source, "new", creatives, as_of=dt.date(2026, 1, 28)), [(0, 1)])[0]
    assert on_the_last_day.n == 0  # a period that ends on the day of the query has not ended before it


def test_a_product_known_only_later_takes_nobodys_place(hand_world):
    base, source = planted(
        hand_world,
        extra_creatives=[("p0-a", "p0"), ("p1-x", "p1")],  # a product and a creative, both first seen in June
        extra_rows=[counted("p0-a", 900, month=6), counted("p1-x", 900, month=6)],
        extra_images={"p0-a": B, "p1-x": NEAR_A},
    )
    retriever = PriorRetriever(base, RetrievalConfig(search=SearchConfig(text_k=1)))
    query = query_of(source, "new", ["new-a", "new-b"], as_of=dt.date(2026, 3, 1))
    prior = retriever.priors(query, [(0, 1)])[0]
    assert names(base, prior.entries_a) == ["p1-a", "p1-b"]  # p0 is first by id, p1-x like A: unknown in March


def test_similarity_limits(hand_world):
    base, source = planted(
        hand_world, extra_creatives=[("p3-a", "p3")], extra_rows=[counted("p3-a", 200)], extra_images={"p3-a": NEAR_A}
    )
    query = query_of(source, "new", ["new-a", "new-b"])

    def neighbours(**options) -> list[str]:
        prior = PriorRetriever(base, RetrievalConfig(search=SearchConfig(**options))).priors(query, [(0, 1)])[0]
        return names(base, prior.entries_a)

    assert neighbours(image_max_similarity=0.9995) == ["p3-a"]  # p1, p2 are copies of A or of B
    assert set(neighbours(image_min_similarity=0.9)) == {"p1-a", "p2-a"}  # n = min(3, 2)
    assert neighbours(text_max_similarity=0.5) == []
    assert neighbours(text_min_similarity=1.1) == []


def test_the_retrieval_hash_names_options_in_force():
    same = RetrievalConfig(prior=PriorConfig(reading="paper"))
    spelled = RetrievalConfig(prior=PriorConfig(weights="n-i", evidence="ctr", ties="letters", vote="indicator"))
    assert retrieval_hash(same) == retrieval_hash(spelled) != retrieval_hash(RetrievalConfig())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what a process has mapped")
def test_vectors_and_indexes_are_mapped_so_that_processes_share_them(make_world):
    base, source = make_world(seed=9)
    query = query_of(source, "q1", ["q1-c1", "q1-c2"])
    found = TwoStageSearch(base, SearchConfig(text_k=9)).candidates(query)
    assert found.product_rows.tolist() == plain_search(base, query, 9, 1)[0]
    mapped = Path("/proc/self/maps").read_text()
    for name in ("texts.npy", "images.npy", "indexes/KR.faiss"):
        assert str(base.artifact.path.resolve() / name) in mapped


@pytest.mark.slow
def test_priors_for_many_k_are_those_of_a_search_for_each(make_world):
    base, source = make_world(seed=4)
    rows = [(f"q{q}", market) for q in (1, 2) for market in ("BR", "KR")]
    records = pd.DataFrame(
        {
            "record_id": [f"{product}-{market}" for product, market in rows],
            "product_id": [product for product, _ in rows],
            "market": [market for _, market in rows],
            "as_of": None,
            "hash_a": [f"hash-{product}-c1" for product, _ in rows],
            "hash_b": [f"hash-{product}-c2" for product, _ in rows],
        }
    )
    ks = [(3, 2), (3, 9), (12, 2), (12, 9), (40, 9)]
    config = RetrievalConfig(search=SearchConfig(text_k=40, image_k=9))
    found = build_priors_of_ks(records, source, PriorRetriever(base, config), ks)
    for k in ks:
        alone = build_priors(records, source, PriorRetriever(base, with_ks(config, *k)))
        pd.testing.assert_frame_equal(found[k].frame, alone.frame)
        assert found[k].counts == alone.counts
    assert found[3, 9].frame["neighbours_a"].tolist() != found[40, 9].frame["neighbours_a"].tolist()
    with pytest.raises(AssertionError, match="as far as the largest k"):
        build_priors_of_ks(records, source, PriorRetriever(base, config), [(41, 9)])
