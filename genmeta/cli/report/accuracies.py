"""Tables of accuracies and of paired differences, with their intervals, as numbers and as strips."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from statistics import median
from typing import Any

from genmeta.evaluation.accuracy import mean_and_ci95
from genmeta.evaluation.tables import accuracy_title, number, p_value, percent, shape_title
from genmeta.experiments.answer import scale_of
from genmeta.experiments.results import Arm
from genmeta.experiments.settings import Value
from genmeta.pages.blocks import Block, Cell, Charts, Strip, Table
from genmeta.pages.charts import Series, chart

Accuracies = Mapping[str, Mapping[str, Sequence[float]]]
"""By arm and shape of the episodes, the accuracy of each episode in [0, 1]."""

Rows = list[list[Cell | str]]

EPISODES = "mean ± 95 % interval over test episodes"


def accuracy_table(titles: Mapping[str, str], accuracies: Accuracies, caption: str) -> Table:
    """Return a table of accuracies in percent: a row for each arm, a column with one scale for each shape."""
    shapes = list(dict.fromkeys(shape for by_shape in accuracies.values() for shape in by_shape))
    scales = {s: _scale([mean_and_ci95(by[s]) for by in accuracies.values() if s in by]) for s in shapes}
    rows: Rows = [
        [titles.get(arm, arm), *[_accuracy_cell(by_shape.get(shape), scales[shape]) for shape in shapes]]
        for arm, by_shape in accuracies.items()
    ]
    columns = ["", *map(accuracy_title, shapes)]
    return Table(columns, rows, caption, scales=_in_words(scales))


def seeds_table(arms: Mapping[str, Arm]) -> Table:
    """Return the accuracies of arms that were trained with several seeds: the mean, and each seed's as a dot."""
    shapes = list(dict.fromkeys(shape for arm in arms.values() for shape in arm.shapes))
    scales = {s: _scale([arm.over_episodes(s) for arm in arms.values() if s in arm.shapes]) for s in shapes}
    rows: Rows = []
    for arm in arms.values():
        row: list[Cell | str] = [arm.title]
        for shape in shapes:
            if shape not in arm.shapes:
                row += ["", ""]
                continue
            (mean, half), seeds = arm.over_episodes(shape), arm.means(shape)
            strip = _strip(mean, half, scales[shape], [_place(seed, scales[shape]) for seed in seeds])
            row += [Cell(percent(mean, half), strip), Cell(f"{100 * min(seeds):.2f} to {100 * max(seeds):.2f}")]
        rows.append(row)
    columns = ["", *(title for shape in shapes for title in (accuracy_title(shape), "seeds"))]
    caption = f"accuracy in %: {EPISODES} of the mean of the seeds; beside it the lowest and highest seed (dots)"
    return Table(columns, rows, caption, scales=_in_words(scales))


def axis_blocks(title: str, points: Mapping[Value, Mapping[str, Arm]]) -> list[Block]:
    """Return charts and tables of accuracies against an axis, such as the number of real classes.

    Args:
        title: of the axis.
        points: the arms by name, by value.
    """
    names = list(dict.fromkeys(name for arms in points.values() for name in arms))
    shapes = list(dict.fromkeys(s for arms in points.values() for arm in arms.values() for s in arm.shapes))
    charts = []
    for shape in shapes:
        lines = []
        for place, name in enumerate(names):
            here = {value: arms[name] for value, arms in points.items() if name in arms and shape in arms[name].shapes}
            intervals = {float(value or 0): arm.over_episodes(shape) for value, arm in here.items()}
            values = [(value, 100 * mean) for value, (mean, _) in intervals.items()]
            label = next((arm.title for arm in here.values()), name)
            lines.append(Series(label, values, place, [100 * _half(half) for _, half in intervals.values()]))
        charts.append(chart(f"{shape_title(shape)}, %", lines, x_label=title))
    drawn = [one for one in charts if one]
    caption = f"Mean accuracy of the seeds against {title}; bands: 95 % interval over test episodes."
    tables = [replace(seeds_table(arms), folded=f"{title} = {value}") for value, arms in points.items()]
    return [*([Charts(drawn, caption)] if drawn else []), *tables]


def comparisons_table(titles: Mapping[str, str], comparisons: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Return the comparisons of arms with the control, from results.json."""
    if not comparisons:
        return []
    scale = _around_zero([(one["difference"], _half(one.get("ci95_episodes"))) for one in comparisons])
    rows: Rows = []
    for one in comparisons:
        mean, half = one["difference"], _half(one.get("ci95_episodes"))
        rows.append(
            [
                f"{titles.get(one['arm'], one['arm'])} − {titles.get(one['control'], one['control'])}"
                + (f" at {one['value']:g}" if one.get("value") is not None else ""),
                shape_title(one["shape"]),
                Cell(percent(mean, half, sign="+"), _strip(mean, half, scale)),
                _known(one.get("ci95_seeds"), number),
                *(_known(one.get(name), p_value) for name in ("p", "p_holm", "p_seeds")),
                _known(one.get("effect_size"), "{:+.2f}".format),
                ", ".join(f"{seed}: {100 * value:+.2f}" for seed, value in (one.get("of_seeds") or {}).items()),
            ]
        )
    columns = ["difference", "episodes", "points ↑", "± over seeds", "p", "p (Holm)", "p over seeds", "effect size"]
    columns.append("each seed")
    meanings = {
        "± over seeds": "half width of the 95 % interval over seeds",
        "p (Holm)": "p corrected for several arms by Holm",
        "effect size": "Cohen's d of the paired differences",
    }
    used = [i for i in range(len(columns)) if any(row[i] for row in rows)]  # an experiment has no p-values
    caption = "; ".join(
        [
            f"points (of 100) on the same episodes, {EPISODES}",
            *(meanings[c] for c in meanings if columns.index(c) in used),
        ]
    )
    return [Table([columns[i] for i in used], [[row[i] for i in used] for row in rows], caption, scales=_range(scale))]


Scale = tuple[float, float]


def _scale(intervals: Sequence[tuple[float, float]]) -> Scale:
    return scale_of([(mean, _half(half)) for mean, half in intervals])


def _around_zero(intervals: Sequence[tuple[float, float]]) -> Scale:
    sizes = [abs(mean) + _half(half) for mean, half in intervals]
    reach = min(max(sizes), 3 * median(sizes)) or 0.01
    return -reach, reach


def _place(value: float, scale: Scale) -> float:
    return (value - scale[0]) / (scale[1] - scale[0])


def _strip(mean: float, half: float, scale: Scale, dots: Sequence[float] = ()) -> Strip:
    low, high = (min(1.0, max(0.0, _place(end, scale))) for end in (mean - _half(half), mean + _half(half)))
    inside = tuple(dot for dot in dots if 0 <= dot <= 1)
    return Strip(_place(mean, scale), low, high, inside, _place(0, scale) if scale[0] < 0 else None)


def _accuracy_cell(values: Sequence[float] | None, scale: Scale) -> Cell:
    return Cell(percent(*mean_and_ci95(values)), _strip(*mean_and_ci95(values), scale)) if values else Cell("")


def _in_words(scales: Mapping[str, Scale]) -> dict[str, str]:
    return {
        accuracy_title(shape): f"strip: {100 * low:.0f} to {100 * high:.0f} %" for shape, (low, high) in scales.items()
    }


def _range(scale: Scale) -> dict[str, str]:
    return {"points ↑": f"strip: {100 * scale[0]:+.1f} to {100 * scale[1]:+.1f}"}


def _half(half: Any) -> float:
    return float(half) if isinstance(half, int | float) and isfinite(half) else 0.0


def _known(value: Any, form: Callable[[float], str]) -> str:
    """Return a number in its form, "" if there is none."""
    return form(value) if isinstance(value, int | float) else ""
