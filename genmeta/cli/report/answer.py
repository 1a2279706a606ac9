"""The top of a report: the answer of a comparison, a sentence and a plot of dots."""

from collections.abc import Collection, Mapping
from typing import Any

from genmeta.evaluation.tables import percent, shape_title
from genmeta.experiments.answer import DotPlot, dot_plot
from genmeta.experiments.results import Arm
from genmeta.pages.blocks import Block, DotRow, Dots, Text
from genmeta.pages.charts import ticks


def answer_blocks(results: Mapping[str, Any], arms: Mapping[str, Arm]) -> list[Block]:
    """Return the sentence and a plot for each kind of episodes; nothing for results without an answer.

    Args:
        results: `results.json`.
        arms: its arms, by name.
    """
    sentence, controls = results.get("answer"), [name for name in results.get("controls") or [] if name in arms]
    if not sentence or not controls:
        return []
    shapes = [shape for shape in arms[controls[0]].shapes if any(shape in arms[name].shapes for name in arms)]
    return [Text(str(sentence), strong=True), *(_dots(arms, controls, shape) for shape in shapes)]


def _dots(arms: Mapping[str, Arm], controls: Collection[str], shape: str) -> Dots:
    plot = dot_plot(arms, controls, shape)
    return Dots(
        title=f"{shape_title(shape)}, accuracy in % ↑",
        rows=[_row(plot, number) for number in range(len(plot.dots))],
        ticks=[(_place(plot, value / 100), label) for value, label in ticks(100 * plot.low, 100 * plot.high)],
        line=_place(plot, plot.line),
        caption=f"Rings: controls; dashed: the best of them. Bars: {plot.interval}. Small dots: seeds.",
    )


def _row(plot: DotPlot, number: int) -> DotRow:
    dot = plot.dots[number]
    at, low, high = (_place(plot, value) for value in (dot.mean, dot.mean - dot.half, dot.mean + dot.half))
    return DotRow(
        title=dot.title,
        value=percent(dot.mean, dot.half or None),
        at=at,
        low=min(1.0, max(0.0, low)),
        high=min(1.0, max(0.0, high)),
        hollow=dot.is_control,
        beyond="left" if at < 0 else "right" if at > 1 else "",
        small=[place for place in (_place(plot, seed) for seed in dot.seeds) if 0 <= place <= 1 and len(dot.seeds) > 1],
    )


def _place(plot: DotPlot, value: float) -> float:
    return (value - plot.low) / (plot.high - plot.low)
