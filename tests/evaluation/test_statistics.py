"""Statistics of comparisons: numbers by hand, parity with scipy, and the edges: identical arms, one seed."""

from math import inf, isfinite, sqrt

import pytest
import torch
from scipy import stats

from genmeta.errors import UserError
from genmeta.evaluation.statistics import effect_size, holm, mean_and_t95, paired_bootstrap, paired_t_test
from genmeta.experiments.results import Arm, against_control, corrected
from genmeta.experiments.tables import over_both
from genmeta.experiments.words import verdict
from genmeta.rng import make_rng


def test_an_interval_by_hand():
    """Of 1, 2, 3: s = 1, and t(0.975, 2) = 4.3027 in any table."""
    middle, half = mean_and_t95([1, 2, 3])
    assert middle == 2
    assert half == pytest.approx(4.3027 / sqrt(3), abs=1e-4)
    assert mean_and_t95([5]) == (5, inf)


def test_parity_with_scipy():
    rng = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 40, generator=rng, dtype=torch.float64)
    differences = a - b + 0.1
    assert paired_t_test(differences) == pytest.approx(stats.ttest_rel(a + 0.1, b).pvalue, rel=1e-10)
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    middle, half = mean_and_t95(differences)
    assert (middle - half, middle + half) == pytest.approx((low, high), rel=1e-10)
    # of so many and so well-behaved values, the bootstrap agrees with t but for its own chance
    assert paired_bootstrap(differences, make_rng(0)) == pytest.approx(paired_t_test(differences), abs=0.02)


def test_the_bootstrap_is_seeded_and_never_0():
    values = [0.1, 0.2, 0.3, 0.2, 0.1]
    assert paired_bootstrap(values, make_rng(1)) == paired_bootstrap(values, make_rng(1))
    assert 0 < paired_bootstrap([10.0] * 30 + [10.1], make_rng(1), 99) <= 0.02


def test_the_bootstrap_by_hand():
    """Of 1 and 3, centred -1 and 1: means of resamples are -1, 0, 0, 1, none as far from 0 as 2; of 0 and 2 half."""
    assert paired_bootstrap([1, 3], make_rng(0), 999) == pytest.approx(0.001)
    assert paired_bootstrap([0, 2], make_rng(0), 9999) == pytest.approx(0.5, abs=0.02)


def test_effect_size_by_hand():
    assert effect_size([1, 2, 3]) == 2
    assert effect_size([0, 0]) == 0
    assert effect_size([1, 1]) == inf


def test_holm_by_a_worked_example():
    """0.01 × 4, 0.03 × 3, 0.04 × 2 raised to the one before, 0.005 first; order is kept."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1, 1]
    assert holm([]) == []


@pytest.mark.parametrize("values", [[0.0] * 5, [0.0], [0.25]])
def test_nothing_is_not_a_difference(values):
    """No NaN of 0 / 0, and nothing follows from one value."""
    assert paired_t_test(values) == 1
    assert isfinite(effect_size([0.0] * 5))
    assert paired_bootstrap([0.0] * 5, make_rng(0)) == 1


def arm(title: str, *of_seeds: list[float]) -> Arm:
    return Arm(title, {"5w1s": dict(enumerate(of_seeds))})


def test_a_cell_by_hand():
    """Two seeds of two episodes: means 0.5 and 0.7; over episodes 0.4 and 0.8."""
    # seeds: t(0.975, 1) = 12.706 times 0.1414 / √2; episodes: 1.96 times 0.2828 / √2
    assert over_both(arm("x", [0.3, 0.7], [0.5, 0.9]), "5w1s", digits=1) == "60.0 ± 127.1 ± 39.2"
    assert over_both(arm("x", [0.3, 0.7]), "5w1s", digits=1) == "50.0 ± – ± 39.2"


def test_differences_by_hand():
    """Two seeds of three episodes. Means over seeds of the differences: 0.1, 0.2, 0.3; of episodes 0.1 and 0.3."""
    control = arm("control", [0.5, 0.5, 0.5], [0.4, 0.4, 0.4])
    better = arm("better", [0.5, 0.6, 0.7], [0.6, 0.7, 0.8])
    [found] = against_control({"control": control, "better": better}, "control")
    assert (found.arm, found.control, found.shape) == ("better", "control", "5w1s")
    assert found.difference == pytest.approx(0.2)
    assert found.ci95_episodes == pytest.approx(4.3027 * 0.1 / sqrt(3), abs=1e-4)
    assert found.ci95_seeds == pytest.approx(12.7062 * sqrt(0.02) / sqrt(2), abs=1e-4)
    assert found.p == found.p_holm == pytest.approx(stats.ttest_1samp([0.1, 0.2, 0.3], 0).pvalue)
    assert found.p_seeds == pytest.approx(stats.ttest_1samp([0.1, 0.3], 0).pvalue)
    assert found.effect_size == pytest.approx(2)


def test_identical_arms_do_not_differ():
    same = [[0.5, 0.6, 0.7], [0.2, 0.3, 0.4]]
    [found] = against_control({"a": arm("a", *same), "b": arm("b", *same)}, "a")
    assert (found.difference, found.p, found.p_holm, found.p_bootstrap, found.effect_size) == (0, 1, 1, 1, 0)
    assert (found.ci95_episodes, found.ci95_seeds, found.p_seeds) == (0, 0, 1)
    words = verdict([found], {"a": arm("arm A", *same), "b": arm("arm B", *same)}, 2, "test")
    assert "no arm is better than 'arm A' by a difference that these episodes can show" in words
    assert "choose a default by validation episodes" in words


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (arm("b", [0.5, 0.5]), "has seeds"),
        (arm("b", [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]), "on 2 and 3 episodes of 5w1s"),
    ],
)
def test_what_does_not_pair_is_refused(other, message):
    with pytest.raises(UserError, match=message):
        against_control({"a": arm("a", [0.5, 0.6], [0.5, 0.6]), "b": other}, "a")


def test_the_verdict_names_who_wins_by_how_much_and_whether_the_seeds_agree():
    rng = torch.Generator().manual_seed(0)
    base, noise = torch.rand(2, 3, 60, generator=rng, dtype=torch.float64)
    plus = {name: (0.4 * base + 0.02 * noise + more).tolist() for name, more in {"up": 0.1, "down": -0.1}.items()}
    uneven = (0.4 * base + torch.tensor([[0.5], [0.0], [-0.2]])).tolist()
    arms = {"control": arm("control", *(0.4 * base).tolist()), "up": arm("arm up", *plus["up"])}
    arms |= {"down": arm("arm down", *plus["down"]), "uneven": arm("arm uneven", *uneven)}
    found = corrected(against_control(arms, "control"))
    words = verdict(found, arms, 3, "val")
    assert words.startswith("5-way 1-shot: 'arm up' wins, +11.0")
    assert "p < 0.001 after Holm's correction for 3 comparisons); the 3 seeds agree" in words
    assert "Worse than 'control': 'arm down' (-8.99" in words
    assert "These are validation episodes" in words
    alone = verdict(corrected([d for d in found if d.arm == "uneven"]), arms, 3, "val")
    assert "but the 3 seeds differ so much" in alone
    of_one_seed = {name: arm(of.title, of.accuracies["5w1s"][0]) for name, of in arms.items()}
    one = verdict(against_control(of_one_seed, "control"), of_one_seed, 1, "val")
    assert "one seed only" in one
