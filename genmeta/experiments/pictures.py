"""The results of a comparison as a picture: arms with their intervals, or curves over an axis."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from genmeta.evaluation.tables import shape_title
from genmeta.experiments.answer import dot_plot
from genmeta.experiments.results import Arm
from genmeta.experiments.tables import Points

_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive")


def draw_arms(arms: Mapping[str, Arm], controls: Sequence[str], path: Path) -> None:
    """Draw a plot of dots for each kind of episodes; small dots are seeds. Writes a PNG."""
    shapes = max((arm.shapes for arm in arms.values()), key=len)
    figure, panels = _panels(shapes, width=4.6, height=0.42 * len(arms) + 1.3, sharey=True)
    for panel, shape in zip(panels, shapes, strict=True):
        plot = dot_plot(arms, controls, shape)
        panel.axvline(100 * plot.line, color="tab:blue", linewidth=0.8, linestyle="--")
        rows = [row for row, arm in enumerate(arms.values()) if shape in arm.shapes]
        for row, dot in zip(rows, plot.dots, strict=True):
            colour = _COLOURS[0 if dot.is_control else 1]
            seeds = [100 * one for one in dot.seeds]
            panel.plot(seeds, [row + 0.22] * len(seeds), ".", color=colour, alpha=0.6, markersize=5)
            at, mark = 100 * min(max(dot.mean, plot.low), plot.high), "o"
            if not plot.low <= dot.mean <= plot.high:  # far from most: a triangle at the end of the scale
                mark = "<" if dot.mean < plot.low else ">"
            half = 100 * dot.half if mark == "o" else 0
            panel.errorbar(at, row, xerr=half, fmt=mark, color=colour, capsize=3, markersize=5, clip_on=mark == "o")
        panel.set_xlim(100 * plot.low, 100 * plot.high)
        panel.set_title(shape_title(shape))
        panel.set_xlabel(f"accuracy (%), {plot.interval}\nblue: controls, line: the best of them")
        panel.grid(axis="x", alpha=0.25)
    panels[0].set_yticks(range(len(arms)), [arm.title for arm in arms.values()])
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=110)


def draw_curves(points: Points, label: str, path: Path) -> None:
    """Draw accuracy against the values of an axis, a line for each arm with its interval over seeds. Writes a PNG."""
    values = [value for value in points if value is not None]
    arms = points[values[0]]
    shapes = next(iter(arms.values())).shapes
    figure, panels = _panels(shapes, width=5, height=3.8)
    for panel, shape in zip(panels, shapes, strict=True):
        for number, (name, arm) in enumerate(arms.items()):
            at = [points[value][name] for value in values]
            middles, halves = zip(*(arm_there.over_seeds(shape) for arm_there in at), strict=True)
            if not all(map(isfinite, halves)):
                halves = tuple(arm_there.over_episodes(shape)[1] for arm_there in at)
            colour = _COLOURS[number % len(_COLOURS)]
            low = [100 * (m - h) for m, h in zip(middles, halves, strict=True)]
            high = [100 * (m + h) for m, h in zip(middles, halves, strict=True)]
            panel.plot(values, [100 * m for m in middles], "o-", color=colour, label=arm.title, markersize=4)
            panel.fill_between(values, low, high, color=colour, alpha=0.15, linewidth=0)
        if values[0] > 0 and values[-1] >= 8 * values[0]:
            panel.set_xscale("log")
        panel.set_xticks(values, [f"{value:g}" for value in values])
        panel.minorticks_off()
        panel.set(title=shape_title(shape), xlabel=label, ylabel=f"accuracy (%), {_interval_of(arms)}")
        panel.grid(alpha=0.25)
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _interval_of(arms: Mapping[str, Arm]) -> str:
    first = next(iter(arms.values()))
    several = len(first.accuracies[first.shapes[0]]) > 1
    return f"95 % interval over {'seeds' if several else 'episodes (one seed)'}"


def _panels(shapes: Sequence[str], width: float, height: float, sharey: bool = False) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # here: matplotlib is slow to import

    figure = Figure(figsize=(width * len(shapes) + (1.6 if sharey else 0), height), layout="constrained")
    return figure, figure.subplots(1, len(shapes), squeeze=False, sharey=sharey)[0]
