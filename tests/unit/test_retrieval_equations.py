"""Eq. 1-3 and Appendix F, literals worked by hand, in both readings."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from countryreward.equations import retrieval as eq

PAPER = {"vote": "indicator", "ties": "letters"}
HALF = {"vote": "indicator", "ties": "half"}
LOGISTIC = {"vote": "logistic", "ties": "half"}


def test_eq_1_orders_by_score_then_id():
    scores, ids = np.array([0.5, 0.9, 0.5, 0.9]), np.array([7, 9, 2, 4])
    assert eq.top(scores, ids, 3).tolist() == [3, 1, 2]  # ids 4, 9 (0.9), then 2 (0.5)
    assert eq.top(scores, ids, 99).tolist() == [3, 1, 2, 0]


def test_eq_1_scores_of_equal_vectors_are_equal_to_the_bit():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(101, 513)).astype(np.float32)
    vectors[[3, 57, 100]] = vectors[3]
    scores = eq.canonical_scores(vectors, vectors[0])
    assert scores[3] == scores[57] == scores[100] == eq.canonical_scores(vectors[57:58], vectors[0])[0]


@pytest.mark.parametrize(
    ("kind", "n", "expected"), [("n-i", 3, [2, 1, 0]), ("n-i", 1, [1]), ("n-i+1", 3, [3, 2, 1]), ("n-i+1", 1, [1])]
)
def test_eq_2_weights(kind: str, n: int, expected: list[float]):
    assert eq.position_weights(n, kind).tolist() == expected


def test_eq_2_paper_gives_a_tie_to_a():
    a, b = np.array([0.02, 0.03, 0.01]), np.array([0.02, 0.01, 0.05])
    assert eq.votes(a, b, **PAPER).tolist() == [1, 1, 0]
    assert eq.votes_for_b(a, b, **PAPER).tolist() == [0, 0, 1]
    weights = eq.position_weights(3, "n-i")  # 2, 1, 0: the last neighbour, the only one for B, counts nothing
    assert eq.preference_scores(weights, eq.votes(a, b, **PAPER), eq.votes_for_b(a, b, **PAPER)) == (1.0, 0.0)


def test_eq_2_repaired_splits_a_tie_and_counts_the_last():
    a, b = np.array([0.02, 0.03, 0.01]), np.array([0.02, 0.01, 0.05])
    assert eq.votes(a, b, **HALF).tolist() == [0.5, 1, 0]
    weights = eq.position_weights(3, "n-i+1")  # 3, 2, 1
    assert eq.preference_scores(weights, eq.votes(a, b, **HALF), eq.votes_for_b(a, b, **HALF)) == (3.5 / 6, 2.5 / 6)


def test_eq_2_logistic_vote_on_lifts_is_the_share_of_the_rates():
    # rates 2 % and 1 %: 2 / (2 + 1)
    assert eq.votes(np.log([0.02]), np.log([0.01]), **LOGISTIC)[0] == pytest.approx(2 / 3)


def test_eq_3_letter_of_a_score_tie():
    assert eq.letter(0.5, 0.5, ties="letters") == "B"
    assert eq.letter(0.5, 0.5, ties="half") is None
    assert eq.letter(0.6, 0.4, ties="letters") == eq.letter(0.6, 0.4, ties="half") == "A"
    assert eq.letter(0.4, 0.6, ties="half") == "B"


def test_log_odds_by_hand():
    # weights 3, 2, 1, a = 2; votes 1, 1, 0: (5 + 2) / (6 + 4) = .7
    weights, votes = np.array([3.0, 2.0, 1.0]), np.array([1.0, 1.0, 0.0])
    assert eq.log_odds(weights, votes, 1 - votes) == pytest.approx(math.log(0.7 / 0.3))


def test_unanimous_vote_stays_finite_and_no_neighbour_is_no_prior():
    weights = eq.position_weights(39, "n-i+1")
    # (sum w + mean w) / (sum w + 2 mean w) = 40 / 41 whatever the weights
    assert eq.log_odds(weights, np.ones(39), np.zeros(39)) == pytest.approx(math.log(40))
    assert eq.log_odds(np.zeros(0), np.zeros(0), np.zeros(0)) == 0.0
    assert eq.preference_scores(np.zeros(0), np.zeros(0), np.zeros(0)) == (0.5, 0.5)


lifts = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=39)


@given(lifts, st.sampled_from(["n-i", "n-i+1"]), st.sampled_from([HALF, LOGISTIC]))
def test_swapping_a_and_b_negates_the_log_odds_exactly(
    pairs: list[tuple[float, float]], kind: str, options: dict[str, str]
):
    a, b = np.array(pairs).T
    weights = eq.position_weights(len(a), kind)
    forward = eq.log_odds(weights, eq.votes(a, b, **options), eq.votes_for_b(a, b, **options))
    backward = eq.log_odds(weights, eq.votes(b, a, **options), eq.votes_for_b(b, a, **options))
    assert forward == -backward
    assert math.isfinite(forward)


@given(lifts, st.sampled_from([PAPER, HALF, LOGISTIC]))
def test_votes_of_both_sides_sum_to_one(pairs: list[tuple[float, float]], options: dict[str, str]):
    a, b = np.array(pairs).T
    assert eq.votes(a, b, **options) + eq.votes_for_b(a, b, **options) == pytest.approx(1.0)


def test_appendix_f_by_hand():
    mean = np.array([1.0, 0.8, 0.5, 0.4, 0.2])  # span .8; drops 0, .25, .625, .75, 1
    assert eq.cumulative_decay(mean) == pytest.approx([0, 0.25, 0.625, 0.75, 1])
    assert eq.choose_k(mean, threshold=0.8) == 5
    assert eq.choose_k(mean, threshold=0.6) == 3
    assert eq.choose_k(mean[:4], threshold=0.8) == 3  # K is part of the answer: drops 0, 1/3, 5/6
    assert eq.choose_k(np.ones(4)) == 4  # flat: nothing says where to stop


def test_top_sorts_only_what_can_be_among_the_best_and_finds_the_same():
    rng = np.random.default_rng(3)
    for size in (0, 1, 5, 40, 200):
        scores, ids = rng.integers(0, 12, size) / 8, rng.permutation(size)  # many ties, also at the last place
        for k in (1, 5, 39, 500):
            np.testing.assert_array_equal(eq.top(scores, ids, k), np.lexsort((ids, -scores))[:k])


def test_scores_of_several_queries_are_those_of_each():
    rng = np.random.default_rng(4)
    vectors, queries = rng.normal(size=(77, 516)).astype(np.float32), rng.normal(size=(3, 516)).astype(np.float32)
    plain = np.stack([(vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1) for query in queries])
    np.testing.assert_array_equal(eq.canonical_scores(vectors, queries), plain)
    np.testing.assert_array_equal(eq.canonical_scores(vectors, queries[1]), plain[1])
    assert eq.canonical_scores(vectors[:0], queries).shape == (3, 0)
