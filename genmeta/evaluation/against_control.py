"""Arms of several seeds against one control, on identical test episodes: what differs, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from statistics import mean

from genmeta.errors import UserError
from genmeta.evaluation.comparison import SeedsOfArm, check_same_episodes, shape_title
from genmeta.evaluation.statistics import (
    SURE,
    effect_size,
    holm,
    mean_and_t95,
    over_episodes,
    paired_bootstrap,
    paired_t_test,
)
from genmeta.rng import make_rng


@dataclass(frozen=True)
class Difference:
    """How an arm differs from the control on one kind of episodes. Accuracies and their differences are in [0, 1].

    Attributes:
        arm, control: names.
        shape: name of the episodes.
        difference: mean of arm − control, over the same seeds and the same episodes.
        ci95_episodes: half width of its 95 % interval over episodes, for these trained learners.
        ci95_seeds: that over seeds, of the seeds' mean differences; None for one seed.
        p: of the paired t-test over episodes (means over seeds).
        p_holm: the same, corrected for all differences that stand in one table.
        p_bootstrap: of the paired bootstrap over episodes.
        p_seeds: of the paired t-test over seeds; None for one seed.
        effect_size: Cohen's d_z over episodes; None if it is infinite (all differences equal and not 0).
        value: of the axis, if the comparison has one.
    """

    arm: str
    control: str
    shape: str
    difference: float
    ci95_episodes: float | None
    ci95_seeds: float | None
    p: float
    p_holm: float
    p_bootstrap: float
    p_seeds: float | None
    effect_size: float | None
    value: float | None = None


def check_comparable(arms: Mapping[str, SeedsOfArm]) -> None:
    """Check that all arms have the same seeds, and all were tested on the same number of the same episodes.

    Raises:
        UserError: they have not, so that they cannot be compared in pairs.
    """
    first = next(iter(arms.values()))
    for name, arm in arms.items():
        if list(arm.seeds) != list(first.seeds):
            raise UserError(f"arm '{name}' has seeds {list(arm.seeds)}, others {list(first.seeds)}; they do not pair")
    tested = [arm for of_seeds in arms.values() for arm in of_seeds.seeds.values()]
    check_same_episodes(tested)
    for of_seed in tested:
        for shape, expected in tested[0].accuracies.items():
            if (n := len(of_seed.accuracies.get(shape, ()))) != len(expected):
                raise UserError(
                    f"'{of_seed.name}' was tested on {n} episodes of {shape}, '{tested[0].name}' on {len(expected)}; "
                    f"they do not pair"
                )


def differences(arms: Mapping[str, SeedsOfArm], control: str) -> list[Difference]:
    """Return how each arm differs from the control, for each kind of episodes, corrected for their number.

    Raises:
        UserError: as `check_comparable`.
    """
    check_comparable(arms)
    found = []
    for shape in arms[control].shapes:
        against = arms[control].accuracies(shape)
        for name, arm in arms.items():
            if name == control:
                continue
            of_seeds = [
                [a - b for a, b in zip(of_arm, of_control, strict=True)]
                for of_arm, of_control in zip(arm.accuracies(shape), against, strict=True)
            ]
            values = over_episodes(of_seeds)
            middle, half = mean_and_t95(values)
            seeds = [mean(values) for values in of_seeds]
            p = paired_t_test(values)
            several = len(seeds) > 1
            found.append(
                Difference(
                    arm=name,
                    control=control,
                    shape=shape,
                    difference=middle,
                    ci95_episodes=_finite(half),
                    ci95_seeds=mean_and_t95(seeds)[1] if several else None,
                    p=p,
                    p_holm=p,
                    p_bootstrap=paired_bootstrap(values, make_rng("bootstrap", name, shape)),
                    p_seeds=paired_t_test(seeds) if several else None,
                    effect_size=_finite(effect_size(values)),
                )
            )
    return corrected(found)


def corrected(found: Sequence[Difference]) -> list[Difference]:
    """Return differences with their p-values corrected (Holm) for all of them together."""
    return [replace(d, p_holm=p) for d, p in zip(found, holm([d.p for d in found]), strict=True)]


def verdict(found: Sequence[Difference], titles: Mapping[str, str], n_seeds: int, part: str) -> str:
    """Return in plain words which arm won, by how much, how sure: a sentence or two for each kind of episodes.

    Args:
        found: corrected differences from one control, without an axis.
        titles: of arms.
        n_seeds: how many.
        part: of the split that was tested on, `test` or `val`.
    """
    lines = []
    titles = {name: f"'{title}'" for name, title in titles.items()}
    for shape in dict.fromkeys(d.shape for d in found):
        of_shape = sorted((d for d in found if d.shape == shape), key=lambda d: -d.difference)
        control = titles[of_shape[0].control]
        best = next((d for d in of_shape if d.p_holm < SURE and d.difference > 0), None)
        worse = [d for d in of_shape if d.p_holm < SURE and d.difference < 0]
        if best:
            text = (
                f"{titles[best.arm]} wins, {points(best.difference)} points over {control} "
                f"({p_text(best.p_holm)} after Holm's correction for {len(found)} comparisons); "
                f"{_of_seeds(best, n_seeds)}."
            )
            also = [titles[d.arm] for d in of_shape if d is not best and d.p_holm < SURE and d.difference > 0]
            text += f" Also better than {control}: {', '.join(also)}." if also else ""
        else:
            first = of_shape[0]
            text = (
                f"no arm is better than {control} by a difference that these episodes can show; the highest is "
                f"{titles[first.arm]}, {points(first.difference)} points ({p_text(first.p_holm)} after Holm's "
                f"correction for {len(found)} comparisons)."
            )
        if worse:
            text += f" Worse than {control}: " + ", ".join(
                f"{titles[d.arm]} ({points(d.difference)}; {_of_seeds(d, n_seeds, short=True)})" for d in worse
            )
            text += "."
        lines.append(f"{shape_title(shape)}: {text}")
    lines.append(
        "These are test episodes: choose a default by validation episodes (part: val), not by this table."
        if part == "test"
        else "These are validation episodes, which settings may be chosen by; what is chosen is still to be tested."
    )
    return "\n".join(lines)


def _of_seeds(found: Difference, n_seeds: int, short: bool = False) -> str:
    if found.ci95_seeds is None:
        return "one seed" if short else "one seed only, so how much trainings differ is not known"
    holds = abs(found.difference) > found.ci95_seeds
    half = f"± {100 * found.ci95_seeds:.2f} over seeds"
    if short:
        return half if holds else f"{half}: not sure"
    if holds:
        return f"the {n_seeds} seeds agree ({half})"
    return f"but the {n_seeds} seeds differ so much ({half}) that another training may not show it"


def points(difference: float) -> str:
    """Return a difference of accuracies in percent points, signed."""
    return f"{100 * difference:+.2f}"


def p_text(p: float) -> str:
    """Return a p-value in words that claim no more digits than it has."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
