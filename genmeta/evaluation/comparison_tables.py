"""The results of a comparison as Markdown, CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import mean

from genmeta.evaluation.against_control import Difference, p_text, points
from genmeta.evaluation.comparison import SeedsOfArm, markdown_table, shape_title
from genmeta.evaluation.statistics import SURE

Points = Mapping[float | None, Mapping[str, SeedsOfArm]]
"""Arms by value of the axis; one value, None, without an axis."""

_LATEX = {"±": r"$\pm$", "−": "--", "–": "--", "…": r"\dots{}", "×": r"$\times$", "<": "$<$", ">": "$>$"}


def accuracy_rows(found: Points, axis: str) -> list[list[str]]:
    """Return a head and a row for each arm (and value of the axis): mean ± over seeds ± over episodes, in percent,
    and what training took.
    """
    shapes = _shapes(found)
    timed = any(arm.training_seconds is not None for arms in found.values() for arm in arms.values())
    head = [*([axis] if axis else []), "arm", *(f"{shape_title(s)} (%)" for s in shapes)]
    rows = [[*head, *(["training (min)"] if timed else [])]]
    for value, arms in found.items():
        for arm in arms.values():
            cells = [accuracy_cell(arm, shape) for shape in shapes]
            took = "–" if arm.training_seconds is None else f"{arm.training_seconds / 60:.1f}"
            where = [f"{value:g}"] if value is not None else []
            rows.append([*where, arm.title, *cells, *([took] if timed else [])])
    return rows


def accuracy_cell(arm: SeedsOfArm, shape: str) -> str:
    """Return mean, half width of the 95 % interval over seeds, and that over episodes, in percent."""
    middle, seeds = arm.over_seeds(shape)
    _, episodes = arm.over_episodes(shape)
    return f"{100 * middle:.2f} ± {_half(seeds)} ± {_half(episodes)}"


def difference_rows(found: Sequence[Difference], titles: Mapping[str, str], axis: str) -> list[list[str]]:
    """Return a head and a row for each difference from the control, in percent points, with what speaks for it."""
    control = titles[found[0].control]
    head = [*([axis] if axis else []), f"arm − {control}", "episodes", "points", "p", "p (Holm)", "p (bootstrap)"]
    rows = [[*head, "p (seeds)", "d_z"]]
    for d in found:
        seeds = "–" if d.ci95_seeds is None else f"{100 * d.ci95_seeds:.2f}"
        episodes = "–" if d.ci95_episodes is None else f"{100 * d.ci95_episodes:.2f}"
        p_values = [p_text(p).removeprefix("p ").removeprefix("= ") for p in (d.p, d.p_holm, d.p_bootstrap)]
        of_seeds = "–" if d.p_seeds is None else p_text(d.p_seeds).removeprefix("p ").removeprefix("= ")
        size = "–" if d.effect_size is None else f"{d.effect_size:+.2f}"
        where = [f"{d.value:g}"] if d.value is not None else []
        change = f"{points(d.difference)} ± {seeds} ± {episodes}"
        rows.append([*where, titles[d.arm], shape_title(d.shape), change, *p_values, of_seeds, size])
    return rows


def markdown(
    found: Points, differences: Sequence[Difference], titles: Mapping[str, str], verdict: str, notes: str, axis: str
) -> str:
    """Return the whole page: verdict, accuracies, differences, what the numbers are of."""
    blocks = [verdict] if verdict else []
    blocks += [markdown_table(accuracy_rows(found, axis)), markdown_table(difference_rows(differences, titles, axis))]
    return "\n\n".join([*blocks, notes]) + "\n"


def as_csv(found: Points, differences: Sequence[Difference]) -> str:
    """Return one line for each arm and kind of episodes (and value of the axis); numbers in [0, 1]."""
    seeds = list(next(iter(next(iter(found.values())).values())).seeds)
    by_place = {(d.value, d.arm, d.shape): d for d in differences}
    fields = ["difference", "ci95_episodes", "ci95_seeds", "p", "p_holm", "p_bootstrap", "p_seeds", "effect_size"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    of_accuracy = ["accuracy", "accuracy_ci95_seeds", "accuracy_ci95_episodes", *(f"seed_{seed}" for seed in seeds)]
    of_difference = [field if field.startswith("difference") else f"difference_{field}" for field in fields]
    writer.writerow(["value", "arm", "title", "shape", *of_accuracy, *of_difference, "training_seconds"])
    for value, arms in found.items():
        for name, arm in arms.items():
            for shape in arm.shapes:
                middle, over_seeds = arm.over_seeds(shape)
                of_seeds = [mean(values) for values in arm.accuracies(shape)]
                numbers = [middle, over_seeds if isfinite(over_seeds) else None, arm.over_episodes(shape)[1], *of_seeds]
                d = by_place.get((value, name, shape))
                more = [getattr(d, field) if d else None for field in fields]
                writer.writerow([value, name, arm.title, shape, *numbers, *more, arm.training_seconds])
    return buffer.getvalue()


def as_latex(found: Points, differences: Sequence[Difference], axis: str, caption: str) -> str:
    """Return a table for a paper, with the rules of the package booktabs; * marks a corrected p-value below SURE."""
    sure = {(d.value, d.arm, d.shape) for d in differences if d.p_holm < SURE}
    shapes = _shapes(found)
    head = [*([axis] if axis else []), "arm", *(f"{shape_title(s)} (%)" for s in shapes)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(caption)}}}",
        rf"\begin{{tabular}}{{{'r' if axis else ''}l{'r' * len(shapes)}}}",
        r"\toprule",
        " & ".join(map(escaped, head)) + r" \\",
    ]
    for value, arms in found.items():
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


def _shapes(found: Points) -> list[str]:
    return next(iter(next(iter(found.values())).values())).shapes


def _half(half: float) -> str:
    return f"{100 * half:.2f}" if isfinite(half) else "–"
