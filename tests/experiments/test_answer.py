"""One sentence and one plot: the best arm against the best control."""

import re

import pytest

from genmeta.experiments.answer import answer_of, dot_plot
from genmeta.experiments.results import Arm

SHAPE = "20w1s_within"


def arm(title, *of_seeds, **more):
    """An arm with ten episodes a seed, which are easy and hard in turns."""
    hard = [0.1 * (-1) ** i for i in range(10)]
    return Arm(title, {SHAPE: {s: [value + h for h in hard] for s, value in enumerate(of_seeds)}}, **more)


def test_the_best_arm_is_held_to_the_best_control():
    """Bug: an arm that beats the weakest control, or the one that is called `control`, is said to pay."""
    arms = {"weak": arm("weak", 0.5, 0.5), "strong": arm("strong", 0.75, 0.76), "a": arm("a", 0.6, 0.61)}
    arms |= {"b": arm("b", 0.7, 0.7)}
    answer = answer_of(arms, ["weak", "strong"], SHAPE)
    assert (answer.difference.arm, answer.difference.control) == ("b", "strong")
    assert answer.difference.difference == pytest.approx(-0.055)
    assert answer.sentence.startswith(
        "20-way 1-shot within: no arm is better than the best of 2 controls, 'strong' (75.5 %) by a difference that "
        "these episodes can show; the highest of the others, 'b', has 70.0 %: -5.50 points (± 6.35 over seeds, "
    )


def test_a_gain_says_how_much_how_sure_and_whether_seeds_agree():
    arms = {"c": arm("control", 0.5, 0.5, 0.5), "a": arm("ours", 0.6, 0.61, 0.59)}
    answer = answer_of(arms, ["c"], SHAPE)
    # each seed gains the same on every episode: no spread over episodes; over seeds t(0.975, 2) · 0.01 / sqrt(3)
    assert answer.sentence == (
        "20-way 1-shot within: 'ours' is better than 'control', 60.0 against 50.0 %: +10.00 points (± 2.48 over seeds, "
        "± 0.00 over episodes), p < 0.001; all 3 seeds agree."
    )


def test_seeds_that_disagree_and_a_single_seed_are_told():
    arms = {"c": arm("control", 0.5, 0.5), "a": arm("ours", 0.9, 0.49)}
    assert "the two seeds disagree, and two do not tell" in answer_of(arms, ["c"], SHAPE).sentence
    arms = {"c": arm("control", 0.5), "a": arm("ours", 0.9)}
    assert "one seed, so how much trainings differ is not known" in answer_of(arms, ["c"], SHAPE).sentence


def test_a_gain_that_other_trainings_may_not_show_says_so():
    arms = {"c": arm("control", 0.5, 0.5, 0.5), "a": arm("ours", 0.51, 0.6, 0.69)}
    sentence = answer_of(arms, ["c"], SHAPE).sentence
    assert sentence.endswith("all 3 seeds agree, but their interval holds 0: other trainings may not show it.")


def test_an_arm_of_others_learners_is_called_by_both_titles():
    """Bug: two arms called "… and 30 elastic", and no word on whose they are."""
    arms = {"c": arm("control", 0.5), "c+": arm("… and more", 0.6, learner="c"), "a": arm("ours", 0.7)}
    arms |= {"a+": arm("… and more", 0.8, learner="a")}
    sentence = answer_of(arms, ["c", "c+"], SHAPE).sentence
    assert (
        "'ours … and more' is better than the best of 2 controls, 'control … and more', 80.0 against 60.0" in sentence
    )


def test_ensembles_that_were_tested_once_say_nothing_of_seeds():
    """Bug: one test, repeated for each seed, has no spread, and all five seeds agree."""
    arms = {"c": arm("five controls", 0.7, 0.7, once=True), "a": arm("five of ours", 0.8, 0.8, once=True)}
    answer = answer_of(arms, ["c"], SHAPE)
    sentence, difference = answer.sentence, answer.difference
    assert (difference.ci95_seeds, difference.p_seeds) == (None, None)
    assert "over seeds" not in sentence
    assert sentence.endswith("both were tested once for all seeds.")


def test_p_is_corrected_for_the_number_of_arms_that_could_have_been_the_best():
    """Bug: the best of twenty arms, judged as if it were the only one."""
    noisy = [0.5, 0.62, 0.48, 0.61, 0.55, 0.47, 0.66, 0.5, 0.58, 0.51]
    arms = {"c": arm("control", 0.5), "a": Arm("a", {SHAPE: {0: noisy}})}
    alone = answer_of(arms, ["c"], SHAPE).difference
    centred = [value - 0.048 for value in noisy]  # level with the control: p is 1
    many = arms | {f"level{i}": Arm("level", {SHAPE: {0: centred}}) for i in range(4)}
    together = answer_of(many, ["c"], SHAPE)
    assert together.difference.p == alone.p == alone.p_holm
    assert together.difference.p_holm == pytest.approx(min(1.0, 5 * alone.p))
    assert "corrected for 5 arms" in together.sentence


def test_what_was_not_tested_on_these_episodes_is_left_out():
    arms = {"c": arm("control", 0.5), "a": arm("a", 0.6), "b": Arm("b", {"5w1s": {0: [1.0] * 10}})}
    assert answer_of(arms, ["c"], SHAPE).difference.arm == "a"
    assert [dot.title for dot in dot_plot(arms, ["c"], SHAPE).dots] == ["control", "a"]


def test_the_plot_of_a_terminal_has_its_dots_where_the_scale_says():
    title = "an arm with a title that is longer than the column of titles"
    arms = {
        "c": arm("control", 0.75, 0.75, 0.75),
        "a": arm(title, 0.84, 0.86, 0.85),
        "once": arm("once", 0.8, 0.8, 0.8, once=True),
    }
    plot = dot_plot(arms | {"far": arm("far", 0.1, 0.1, 0.1)}, ["c"], SHAPE)
    assert plot.interval == "95 % interval over seeds"
    head, control, ours, once, far = plot.as_text().splitlines()
    assert max(map(len, plot.as_text().splitlines())) <= 100
    assert head.split() == [f"{100 * plot.low:.0f}", f"{100 * plot.high:.0f}", "%"]
    at = {name: row.index(mark) - 43 for name, row, mark in [("c", control, "○"), ("a", ours, "●"), ("o", once, "●")]}
    for name, mean in {"c": 0.75, "a": 0.85, "o": 0.8}.items():
        assert at[name] == round((mean - plot.low) / (plot.high - plot.low) * 33)
    assert {row.index("│") for row in (ours, once) if "│" in row} == {control.index("○")}, "the best control is a line"
    assert "◂" in far
    assert ours.startswith(title[:41] + "…")
    assert re.search(r"80\.00 ± –$", once)


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_few_seeds_have_intervals_over_episodes(n_seeds):
    """Bug: of two seeds Student's t makes an interval twelve times their spread, as wide as the plot."""
    arms = {"c": arm("control", *[0.75] * n_seeds), "a": arm("a", *[0.85] * n_seeds)}
    plot = dot_plot(arms, ["c"], SHAPE)
    assert plot.interval == "95 % interval over episodes"
    assert plot.dots[0].half == pytest.approx(1.96 * (0.1 / 0.9**0.5) / 10**0.5, rel=1e-4)
