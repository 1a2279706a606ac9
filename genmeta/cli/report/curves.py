"""Training curves of runs from their `metrics.csv`."""

from collections.abc import Sequence
from dataclasses import replace

from genmeta.cli.report.folders import Run
from genmeta.modules.pictures import panel_of
from genmeta.pages.blocks import Block, Charts, Table
from genmeta.pages.charts import Chart, Series, chart

_INTERVAL = "_ci95"
_MOST_BANDS = 6  # more would hide each other
_BY_PROVENANCE = (
    "train/acc_real",
    "train/acc_redrawn",
    "train/acc_decoded",
    "train/redrawn_share",
    "train/decoded_share",
)
_FIRST = ("val/acc", "train/loss", "train/acc", *_BY_PROVENANCE, "train/made_up_share", "val/loss")


def curves(runs: Sequence[Run]) -> list[Block]:
    """Return charts and a table of the values.

    For one run, metrics of the same kind (`train/loss`, `val/loss`) share a chart. For several runs every metric has a
    chart, with a line for each run.

    Args:
        runs: trainings; those without metrics are left out. Runs of one arm have one colour.
    """
    runs = [run for run in runs if any(len(points) > 1 for points in run.metrics.values())]
    if not runs:
        return []
    charts = _of_one(runs[0]) if len(runs) == 1 else _of_several(runs)
    drawn = [one for one in charts if one]
    caption = (
        "A band is the 95 % interval over episodes. " if any(line.band for one in drawn for line in one.lines) else ""
    )
    if any(one.smoothed for one in drawn):
        caption += "Strong lines of many values are running means over a twentieth of them; faint lines are as logged. "
    caption += "Values: under the pointer, or with the arrow keys on a chart that has the focus."
    return [Charts(drawn, caption), _values(runs)]


def _of_one(run: Run) -> list[Chart | None]:
    panels: dict[str, list[str]] = {}
    for name in _names([run]):
        panels.setdefault(panel_of(name), []).append(name)
    return [
        chart(title if len(names) > 1 else names[0], [_series(run, name, name, i) for i, name in enumerate(names)])
        for title, names in panels.items()
    ]


def _of_several(runs: Sequence[Run]) -> list[Chart | None]:
    group_of = {run.label: run.arm or run.label for run in runs}
    colours = {group: number for number, group in enumerate(dict.fromkeys(group_of.values()))}

    def line(run: Run, name: str) -> Series:
        series = _series(run, name, run.label, colours[group_of[run.label]])
        return replace(series, group=group_of[run.label], halves=series.halves if len(runs) <= _MOST_BANDS else ())

    return [chart(name, [line(run, name) for run in runs if name in run.metrics]) for name in _names(runs)]


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the metrics to draw, the most important first."""
    names = dict.fromkeys(name for run in runs for name in sorted(run.metrics) if not name.endswith(_INTERVAL))
    return sorted(names, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))


def _series(run: Run, name: str, label: str, colour: int) -> Series:
    halves = dict(run.metrics.get(name + _INTERVAL, []))
    points = run.metrics[name]
    return Series(label, points, colour, [halves.get(step, 0.0) for step, _ in points] if halves else ())


def _values(runs: Sequence[Run]) -> Table:
    rows = []
    for name in _names(runs):
        for run in runs:
            if points := run.metrics.get(name):
                low, high = min(points, key=lambda p: p[1]), max(points, key=lambda p: p[1])
                ends = (f"{points[0][1]:.4g}", f"{points[-1][1]:.4g}")
                rows.append([name, run.label, *ends, *(f"{y:.4g} (step {x:g})" for x, y in (low, high))])
    return Table(["metric", "run", "first", "last", "lowest", "highest"], rows, folded="the same in numbers")
