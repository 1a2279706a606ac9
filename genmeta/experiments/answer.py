"""The answer of a comparison, the best arm against the best control: one sentence and one plot of dots."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite
from statistics import median

from genmeta.evaluation.statistics import ALPHA
from genmeta.evaluation.tables import number, p_text, percent, shape_title
from genmeta.experiments.results import Arm, Difference, corrected, full_title, paired

_SEEDS = 3  # fewer give no useful interval over seeds
_TITLE, _PLOT = 42, 34  # columns of a terminal; with the numbers a line has at most 100


@dataclass(frozen=True)
class Answer:
    """The best arm against the best control, on one kind of episodes.

    Attributes:
        difference: of the two; p is corrected (Holm) for the number of arms that could have been the best.
        sentence: the same in words.
    """

    difference: Difference
    sentence: str


def answer_of(arms: Mapping[str, Arm], controls: Collection[str], shape: str) -> Answer:
    """Return the answer for one kind of episodes.

    The best is the one with the highest mean. The arm is chosen by the same episodes that it is judged by: that is why
    its p-value is corrected.

    Args:
        arms: by name, with the same seeds and episodes.
        controls: names of the controls; at least one arm is a control, and at least one is not.
        shape: name of the episodes; arms that were not tested on them are left out.
    """
    tested = {name: arm for name, arm in arms.items() if shape in arm.shapes}
    mean = {name: arm.over_seeds(shape)[0] for name, arm in tested.items()}
    control = max((name for name in tested if name in controls), key=mean.__getitem__)
    others = [name for name in tested if name not in controls]
    differences = corrected([d for name in others for d in paired(tested, name, control) if d.shape == shape])
    best = max(differences, key=lambda one: mean[one.arm])
    return Answer(best, _sentence(best, tested, len(controls), len(others)))


def _sentence(best: Difference, arms: Mapping[str, Arm], n_controls: int, n_arms: int) -> str:
    arm, control = arms[best.arm], arms[best.control]
    title, control_title = full_title(arm, arms), full_title(control, arms)
    values = [percent(one.over_seeds(best.shape)[0], digits=1) for one in (arm, control)]
    rival = f"the best of {n_controls} controls, '{control_title}'" if n_controls > 1 else f"'{control_title}'"
    once = arm.once and control.once  # one test each: seeds cannot differ
    halves = {"seeds": best.ci95_seeds, "episodes": best.ci95_episodes}
    text = ", ".join(f"± {number(half)} over {what}" for what, half in halves.items() if half is not None)
    by = f"{percent(best.difference, sign='+')} points ({text})" if text else f"{percent(best.difference)} points"
    p = p_text(best.p_holm)
    for_arms = f", corrected for {n_arms} arms" if n_arms > 1 else ""
    what = f"{shape_title(best.shape)}: "
    if best.difference > 0 and best.p_holm < ALPHA:
        return (
            f"{what}'{title}' is better than {rival}, {values[0]} against {values[1]} %: {by}, {p}{for_arms}; "
            f"{'both were tested once for all seeds' if once else _of_seeds(best)}."
        )
    least = "the highest of the others" if n_arms > 1 else "the other"
    subject = "no arm is" if n_arms > 1 else f"'{title}' is not"
    return (
        f"{what}{subject} better than {rival} ({values[1]} %) by a difference that these episodes can show; {least}, "
        f"'{title}', has {values[0]} %: {by}, {p}{for_arms}."
    )


def _of_seeds(best: Difference) -> str:
    signs = [value > 0 for value in best.of_seeds.values()]
    if len(signs) == 1:
        return "one seed, so how much trainings differ is not known"
    if len(signs) < _SEEDS:
        return (
            f"the two seeds {'agree' if all(signs) else 'disagree'}, and two do not tell how much another would differ"
        )
    agree = f"all {len(signs)} seeds agree" if all(signs) else f"{sum(signs)} of {len(signs)} seeds agree"
    sure = best.ci95_seeds is not None and best.difference > best.ci95_seeds
    return agree if sure else f"{agree}, but their interval holds 0: other trainings may not show it"


@dataclass(frozen=True)
class Dot:
    """A row of the plot.

    Attributes:
        title: of the arm.
        mean, half: accuracy and the half width of its 95 % interval, in [0, 1].
        is_control: whether the arm is a control.
        seeds: mean of each seed.
    """

    title: str
    mean: float
    half: float
    is_control: bool
    seeds: Sequence[float]


@dataclass(frozen=True)
class DotPlot:
    """Arms as rows, accuracy along the line.

    Attributes:
        shape: name of the episodes.
        dots: the rows.
        low, high: ends of the scale, whole multiples of 5 %. An arm far from most lies beyond.
        line: accuracy of the best control.
        interval: what the intervals are over.
    """

    shape: str
    dots: Sequence[Dot]
    low: float
    high: float
    line: float
    interval: str

    def as_text(self) -> str:
        """Return the plot for a terminal or a text file, at most 100 columns wide."""
        ends = f"{100 * self.low:.0f}", f"{100 * self.high:.0f} %"
        head = f"{'':{_TITLE}} {ends[0]}{ends[1]:>{_PLOT - len(ends[0])}}"
        return "\n".join([head, *(self._row(dot) for dot in self.dots)])

    def _row(self, dot: Dot) -> str:
        cells = [" "] * _PLOT
        cells[self._cell(self.line)] = "│"
        for cell in range(self._cell(dot.mean - dot.half), self._cell(dot.mean + dot.half) + 1):
            cells[cell] = "─" if cells[cell] == " " else "┼"
        cells[self._cell(dot.mean)] = (
            "◂" if dot.mean < self.low else "▸" if dot.mean > self.high else "○" if dot.is_control else "●"
        )
        title = dot.title if len(dot.title) <= _TITLE else f"{dot.title[: _TITLE - 1]}…"
        return f"{title:{_TITLE}} {''.join(cells)} {percent(dot.mean, dot.half or None)}"

    def _cell(self, value: float) -> int:
        share = (value - self.low) / (self.high - self.low)
        return round(min(1.0, max(0.0, share)) * (_PLOT - 1))


def dot_plot(arms: Mapping[str, Arm], controls: Collection[str], shape: str) -> DotPlot:
    """Return the plot for one kind of episodes.

    The intervals are over seeds (Student's t). With fewer than three seeds they are over episodes. An arm that was
    tested once, among others with seeds, has none.
    """
    tested = {name: arm for name, arm in arms.items() if shape in arm.shapes}
    several = any(len(arm.means(shape)) >= _SEEDS and not arm.once for arm in tested.values())
    dots = []
    for name, arm in tested.items():
        mean, half = arm.over_seeds(shape) if several else arm.over_episodes(shape)
        dots.append(Dot(arm.title, mean, half if isfinite(half) else 0.0, name in controls, arm.means(shape)))
    low, high = scale_of([(dot.mean, dot.half) for dot in dots])
    line = max(dot.mean for dot in dots if dot.is_control)
    return DotPlot(shape, dots, low, high, line, f"95 % interval over {'seeds' if several else 'episodes'}")


def scale_of(intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the ends of a scale of accuracies, whole multiples of 5 %, for means and half widths in [0, 1].

    An arm far from most, such as an untrained one, would squeeze the others together: it lies beyond the end.
    """
    middle = median(mean for mean, _ in intervals)
    reach = 6 * median(max(abs(mean - middle), half) for mean, half in intervals)
    near = [(mean, half) for mean, half in intervals if abs(mean - middle) <= reach]
    low, high = min(mean - half for mean, half in near), max(mean + half for mean, half in near)
    low, high = floor(20 * low + 1e-9) / 20, ceil(20 * high - 1e-9) / 20
    return max(0.0, min(low, 0.95)), min(1.0, max(high, low + 0.05))  # the scale has a width, also at 100 ± 0 %
