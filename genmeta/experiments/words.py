"""The results of a comparison in plain words."""

from collections.abc import Mapping, Sequence

from genmeta.evaluation.statistics import ALPHA
from genmeta.evaluation.tables import number, p_text, percent, shape_title
from genmeta.experiments.results import Arm, Difference


def verdict(differences: Sequence[Difference], arms: Mapping[str, Arm], n_seeds: int, part: str) -> str:
    """Return which arm won, by how much, and how sure that is: a sentence or two for each kind of episodes.

    Args:
        differences: corrected differences from one control, without an axis.
        arms: by name.
        n_seeds: number of seeds.
        part: the tested part of the split, `test` or `val`.
    """
    lines = []
    titles = {name: f"'{arm.title}'" for name, arm in arms.items()}
    for shape in dict.fromkeys(d.shape for d in differences):
        of_shape = sorted((d for d in differences if d.shape == shape), key=lambda d: -d.difference)
        control = titles[of_shape[0].control]
        best = next((d for d in of_shape if d.p_holm < ALPHA and d.difference > 0), None)
        worse = [d for d in of_shape if d.p_holm < ALPHA and d.difference < 0]
        if best:
            text = (
                f"{titles[best.arm]} wins, {percent(best.difference, sign='+')} points over {control} "
                f"({p_text(best.p_holm)} after Holm's correction for {len(differences)} comparisons); "
                f"{_of_seeds(best, n_seeds)}."
            )
            also = [titles[d.arm] for d in of_shape if d is not best and d.p_holm < ALPHA and d.difference > 0]
            text += f" Also better than {control}: {', '.join(also)}." if also else ""
        else:
            first = of_shape[0]
            text = (
                f"no arm is better than {control} by a difference that these episodes can show; the highest is "
                f"{titles[first.arm]}, {percent(first.difference, sign='+')} points ({p_text(first.p_holm)} after "
                f"Holm's correction for {len(differences)} comparisons)."
            )
        if worse:
            text += f" Worse than {control}: " + ", ".join(
                f"{titles[d.arm]} ({percent(d.difference, sign='+')}; {_of_seeds(d, n_seeds, short=True)})"
                for d in worse
            )
            text += "."
        lines.append(f"{shape_title(shape)}: {text}")
    lines.append(
        "These are test episodes: choose a default by validation episodes (part: val), not by this table."
        if part == "test"
        else "These are validation episodes: choose settings by them, then test what you chose."
    )
    return "\n".join(lines)


def _of_seeds(difference: Difference, n_seeds: int, short: bool = False) -> str:
    if difference.ci95_seeds is None and n_seeds > 1:
        return "both were tested once for all seeds"
    if difference.ci95_seeds is None:
        return "one seed" if short else "one seed only, so how much trainings differ is not known"
    holds = abs(difference.difference) > difference.ci95_seeds
    half = f"± {number(difference.ci95_seeds)} over seeds"
    if short:
        return half if holds else f"{half}: not sure"
    if holds:
        return f"the {n_seeds} seeds agree ({half})"
    return f"but the {n_seeds} seeds differ so much ({half}) that another training may not show it"


def in_one_line(difference: Difference, arms: Mapping[str, Arm]) -> str:
    """Return one difference of few seeds: its value, what it means, and its value for each seed."""
    seeds = ", ".join(f"seed {seed} {percent(one, sign='+')}" for seed, one in difference.of_seeds.items())
    pair = f"{arms[difference.arm].title} - {arms[difference.control].title}"
    each = f"; {seeds}" if len(difference.of_seeds) > 1 else ""
    return f"{difference.shape}: {pair} = {_points(difference)} points ({_word(difference)}{each})"


def _points(difference: Difference) -> str:
    return percent(difference.difference, difference.ci95_episodes, sign="+")


def _word(difference: Difference) -> str:
    """Return what a difference of few seeds means: `more`, `less`, or why neither."""
    if difference.ci95_episodes is None or abs(difference.difference) <= difference.ci95_episodes:
        return "no difference that these episodes can show"
    if any(one * difference.difference <= 0 for one in difference.of_seeds.values()):
        return "the seeds disagree"
    return "more" if difference.difference > 0 else "less"


def credit(differences: Sequence[Difference], arms: Mapping[str, Arm]) -> str:
    """Return whether an arm was better than its controls, a line for each kind of episodes.

    It must be better than each control with each seed. Two seeds are never enough to be sure.

    Args:
        differences: one arm's differences from all controls.
        arms: by name.
    """
    n_seeds = len(differences[0].of_seeds)
    if n_seeds == 1:
        return "one seed: undecided until `genmeta compare`"
    lines = []
    for shape in dict.fromkeys(one.shape for one in differences):
        of_shape = [one for one in differences if one.shape == shape]
        least = min(of_shape, key=lambda one: one.difference)
        against = f"{_points(least)} points against '{arms[least.control].title}'"
        if all(_word(one) == "more" for one in of_shape):
            text = f"more than each control with each of {n_seeds} seeds, at least {against}"
        elif _word(least) == "less":
            text = f"{against}, less with each of {n_seeds} seeds"
        else:
            text = f"undecided: {against} ({_word(least)})"
        lines.append(f"{shape_title(shape)}: {arms[least.arm].title}: {text}")
    return "\n".join([*lines, f"{n_seeds} seeds do not tell how much another training would differ: `genmeta compare`"])
