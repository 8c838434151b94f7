"""Choosing which products the gallery shows, and filling their cards with the past ads that spoke."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from countryreward import markets as countries
from countryreward.evaluation.gallery import FlipCard, Letter, MarketVerdict, Neighbour
from countryreward.retrieval.bulk_priors import queries
from countryreward.retrieval.embedding_table import Embeddings
from countryreward.retrieval.prior import Prior, PriorRetriever


def telling_items(test: pd.DataFrame, logits: NDArray[np.float64], *, most: int, most_wrong: int = 1) -> list[str]:
    """Pair ids for the gallery: products whose winner changes with the country, best judged first, one pair per product.

    Items where at least a fifth of the markets disagree with the rest come first, in observed winners and in answers; then
    the share of markets judged right decides, then the mean log-odds in favour of the observed winner (bounded at 1). The
    last `most_wrong` are the worst judged: a gallery of successes only would mislead.
    """
    right = (logits >= 0) == (test["label"] == 1)
    margin = np.clip(np.where(test["label"] == 1, logits, -logits), -1, 1)
    items = (
        test.assign(right=right, margin=margin, answer=logits >= 0)
        .groupby("pair_id")
        .agg(
            product_id=("product_id", "first"),
            right=("right", "mean"),
            margin=("margin", "mean"),
            observed=("label", "mean"),
            answers=("answer", "mean"),
        )
    )
    minority = np.minimum(items[["observed", "answers"]], 1 - items[["observed", "answers"]]).min(axis=1)
    order = ["telling", "right", "margin"]
    flips = items.assign(telling=minority >= 0.2)[minority > 0].sort_values(order, ascending=False)
    flips = flips.loc[~flips["product_id"].duplicated()]
    wrong = flips.sort_values(["right", "margin"]).head(min(most_wrong, max(0, len(flips) - 1))).index.tolist()
    wrong = wrong if most > 1 else []
    return [*[name for name in flips.index if name not in wrong][: most - len(wrong)], *wrong]


def flip_cards(
    test: pd.DataFrame,
    pair_ids: list[str],
    logits: NDArray[np.float64],
    *,
    products: pd.DataFrame,
    source: Embeddings,
    retriever: PriorRetriever,
    image_bytes: Callable[[str], bytes],
    neighbours_per_market: int = 1,
) -> list[FlipCard]:
    """Cards of the chosen items. `logits` are the judge's, per row of `test`; neighbours are those of `retriever`."""
    titles = products.set_index("product_id")
    judged = test.assign(logit=logits)
    cards = []
    for pair_id in pair_ids:
        rows = judged[judged["pair_id"] == pair_id].drop_duplicates("market", keep="last").sort_values("market")
        first = rows.iloc[0]
        verdicts = tuple(
            _verdict(str(market), float(logit), int(label), n)
            for (market, logit, label), n in zip(
                rows[["market", "logit", "label"]].itertuples(index=False), _votes(rows, source, retriever), strict=True
            )
        )
        title, category = titles.loc[first["product_id"], "title"], titles.loc[first["product_id"], "category"]
        cards.append(
            FlipCard(
                title=str(title),
                category=str(category) if isinstance(category, str) else "",
                image_a=image_bytes(str(first["hash_a"])),
                image_b=image_bytes(str(first["hash_b"])),
                markets=verdicts,
                neighbours=tuple(_neighbours(rows, source, retriever, neighbours_per_market)),
            )
        )
    return cards


def lift_in_words(lift: float, kind: str) -> str:
    """A lift for a person: "+18 % vs. its product's average"; ratings in standard deviations."""
    if kind == "score":
        return f"{lift:+.1f} sd vs. its product's average"
    return f"{100 * math.expm1(lift):+.0f} % vs. its product's average"


def _verdict(market: str, logit: float, label: int, n: int) -> MarketVerdict:
    answer: Letter | None = None if logit == 0 else "A" if logit > 0 else "B"
    probability = 1 / (1 + math.exp(-logit))
    return MarketVerdict(
        market=countries.name(market),
        answer=answer,
        probability=probability,
        observed="A" if label == 1 else "B",
        evidence=n,
    )


def _priors(rows: pd.DataFrame, source: Embeddings, retriever: PriorRetriever) -> dict[str, Prior]:
    found = {}
    for query, _, pairs in queries(rows, source):
        found[query.market] = retriever.priors(query, pairs)[0]
    return found


def _votes(rows: pd.DataFrame, source: Embeddings, retriever: PriorRetriever) -> list[int]:
    found = _priors(rows, source, retriever)
    return [found[market].n for market in rows["market"]]


def _neighbours(rows: pd.DataFrame, source: Embeddings, retriever: PriorRetriever, per_market: int) -> list[Neighbour]:
    """The heaviest votes of the surest market for A and of the surest for B, so that both sides are seen."""
    found = _priors(rows, source, retriever)
    order = rows.sort_values("logit")
    shown = []
    for row in [order.iloc[-1], order.iloc[0]]:
        market, prior = retriever.base.market(row["market"]), found[row["market"]]
        if market is None or prior.n == 0:
            continue
        evidence = market.evidence(row["as_of"] if pd.notna(row["as_of"]) else None)
        for side, entries in (("A", prior.entries_a), ("B", prior.entries_b)):
            for entry in entries[:per_market]:
                lift = float(evidence.lift[entry])
                product = retriever.base.products.iloc[market.product_row[entry]]
                shown.append(
                    Neighbour(
                        image=retriever.base.thumbnails([int(market.image_row[entry])])[0],
                        title=str(product["title"]),
                        market=countries.name(str(row["market"])),
                        lift=f"looks like {side}: {lift_in_words(lift, str(row['kind']))}",
                        speaks_for="A" if (lift >= 0) == (side == "A") else "B",
                    )
                )
    return shown
