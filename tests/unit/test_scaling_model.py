"""The cost model of a knowledge-base build: what it finds in times made by known terms."""

import pytest

from countryreward.retrieval.scaling import ScalingModel, fit_scaling

NODES = [1, 2, 4, 8]


def test_the_terms_are_found_again():
    truth = ScalingModel(start=3.0, serial=2.0, work=64.0, per_node=0.5)
    assert truth.seconds(8) == 3 + 2 + 8 + 4
    found = fit_scaling(NODES, [truth.seconds(n) for n in NODES], start=3.0)
    assert (found.start, found.serial, found.work, found.per_node) == pytest.approx((3.0, 2.0, 64.0, 0.5))
    assert found.seconds(16) == pytest.approx(3 + 2 + 4 + 8)
    assert found.most_nodes() == pytest.approx(128**0.5)


def test_no_term_is_negative():
    found = fit_scaling(NODES, [70.0, 36.0, 18.0, 8.0], start=1.0)  # better than work / n: a term below 0 would fit
    assert min(found.serial, found.work, found.per_node) == 0.0
    assert found.seconds(1) == pytest.approx(70.0, rel=0.06)
    assert ScalingModel(start=1.0, serial=0.0, work=9.0, per_node=0.0).most_nodes() == float("inf")


def test_noise_at_one_node_does_not_decide_alone():
    truth = ScalingModel(start=0.0, serial=1.0, work=64.0, per_node=0.25)
    times = [truth.seconds(n) for n in NODES]
    found = fit_scaling([*NODES, *NODES], [1.02 * times[0], *times[1:], 0.98 * times[0], *times[1:]], start=0.0)
    assert found.seconds(16) == pytest.approx(truth.seconds(16), rel=0.01)


def test_two_node_counts_are_too_few():
    with pytest.raises(ValueError, match="at least three"):
        fit_scaling([1, 2, 2], [3.0, 2.0, 2.0], start=0.0)
