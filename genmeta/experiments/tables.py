"""The results of a comparison as rows of a Markdown table, as CSV and as LaTeX."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from math import isfinite

from genmeta.evaluation.statistics import ALPHA
from genmeta.evaluation.tables import accuracy_title, p_value, percent, shape_title
from genmeta.experiments.results import Arm, Difference
from genmeta.experiments.settings import Value

Points = Mapping[Value, Mapping[str, Arm]]
"""Arms by value of the axis; without an axis the only value is None."""

_LATEX = {
    "±": r"$\pm$",
    "−": "--",
    "–": "--",
    "…": r"\dots{}",
    "×": r"$\times$",
    "<": "$<$",
    ">": "$>$",
    "↑": r"$\uparrow$",
}


def accuracy_rows(points: Points, axis: str) -> list[list[str]]:
    """Return a head and a row for each arm (and value of the axis): mean ± over seeds ± over episodes in percent, and
    the minutes of training.
    """
    shapes = _shapes(points)
    rows = [[*([axis] if axis else []), "arm", *map(accuracy_title, shapes), "training (min)"]]
    for value, arms in points.items():
        for arm in arms.values():
            where = [f"{value:g}"] if value is not None else []
            cells = [over_both(arm, shape) for shape in shapes]
            rows.append([*where, arm.title, *cells, f"{(arm.training_seconds or 0) / 60:.1f}"])
    return rows


def over_both(arm: Arm, shape: str, digits: int = 2) -> str:
    """Return mean, half width of the 95 % interval over seeds, and that over episodes, in percent."""
    return percent(*arm.over_seeds(shape), arm.over_episodes(shape)[1], digits=digits)


def over_episodes_rows(arms: Sequence[Arm]) -> list[list[str]]:
    """Return a head and a row for each arm: mean over seeds ± over episodes, in percent."""
    shapes = arms[0].shapes
    cells = [[percent(*arm.over_episodes(s)) if s in arm.shapes else "" for s in shapes] for arm in arms]
    return [["", *map(accuracy_title, shapes)], *([arm.title, *row] for arm, row in zip(arms, cells, strict=True))]


def difference_rows(differences: Sequence[Difference], titles: Mapping[str, str], axis: str) -> list[list[str]]:
    """Return a head and a row for each difference from the control: percent points, p-values, effect size."""
    control = titles[differences[0].control]
    head = [*([axis] if axis else []), f"arm − {control}", "episodes", "points ↑", "p", "p (Holm)", "p (bootstrap)"]
    rows = [[*head, "p (seeds)", "d_z"]]
    for d in differences:
        p_values = [p_value(p) for p in (d.p, d.p_holm, d.p_bootstrap, d.p_seeds)]
        size = "–" if d.effect_size is None else f"{d.effect_size:+.2f}"
        where = [f"{d.value:g}"] if d.value is not None else []
        change = percent(d.difference, d.ci95_seeds, d.ci95_episodes, sign="+")
        rows.append([*where, titles[d.arm], shape_title(d.shape), change, *p_values, size])
    return rows


def as_csv(points: Points, differences: Sequence[Difference]) -> str:
    """Return one line for each arm and kind of episodes (and value of the axis); numbers in [0, 1]."""
    seeds = list(next(iter(next(iter(next(iter(points.values())).values())).accuracies.values())))
    by_place = {(d.value, d.arm, d.shape): d for d in differences}
    names = ["difference", "ci95_episodes", "ci95_seeds", "p", "p_holm", "p_bootstrap", "p_seeds", "effect_size"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    accuracy_columns = [
        "accuracy",
        "accuracy_ci95_seeds",
        "accuracy_ci95_episodes",
        *(f"seed_{seed}" for seed in seeds),
    ]
    difference_columns = [field if field.startswith("difference") else f"difference_{field}" for field in names]
    writer.writerow(["value", "arm", "title", "shape", *accuracy_columns, *difference_columns, "training_seconds"])
    for value, arms in points.items():
        for name, arm in arms.items():
            for shape in arm.shapes:
                middle, over_seeds = arm.over_seeds(shape)
                half = over_seeds if isfinite(over_seeds) else None
                numbers = [middle, half, arm.over_episodes(shape)[1], *arm.means(shape)]
                d = by_place.get((value, name, shape))
                more = [getattr(d, field) if d else None for field in names]
                writer.writerow([value, name, arm.title, shape, *numbers, *more, arm.training_seconds])
    return buffer.getvalue()


def as_latex(points: Points, differences: Sequence[Difference], axis: str, caption: str) -> str:
    """Return a table for a paper, with the rules of the package booktabs; * marks a corrected p-value below ALPHA."""
    sure = {(d.value, d.arm, d.shape) for d in differences if d.p_holm < ALPHA}
    shapes = _shapes(points)
    head = [*([axis] if axis else []), "arm", *map(accuracy_title, shapes)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(caption)}}}",
        rf"\begin{{tabular}}{{{'r' if axis else ''}l{'r' * len(shapes)}}}",
        r"\toprule",
        " & ".join(map(escaped, head)) + r" \\",
    ]
    for value, arms in points.items():
        lines.append(r"\midrule")
        for name, arm in arms.items():
            cells = [*([f"{value:g}"] if value is not None else []), escaped(arm.title)]
            for shape in shapes:
                middle, seeds = arm.over_seeds(shape)
                half = rf" \pm {100 * seeds:.2f}" if isfinite(seeds) else ""
                mark = "^{*}" if (value, name, shape) in sure else ""
                cells.append(f"${100 * middle:.2f}{half}{mark}$")
            lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def escaped(text: str) -> str:
    """Return plain text for LaTeX."""
    text = re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", r"\textbackslash "))
    for sign, latex in _LATEX.items():
        text = text.replace(sign, latex)
    return text.replace("~", r"\textasciitilde{}").replace("^", r"\textasciicircum{}")


def _shapes(points: Points) -> list[str]:
    return next(iter(next(iter(points.values())).values())).shapes
