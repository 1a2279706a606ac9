"""The form of numbers: one Markdown table, one form of means with their intervals, one of p-values."""

import re
from collections.abc import Sequence
from math import isfinite
from statistics import mean


def shape_title(name: str) -> str:
    """Return the name of episodes (`20w1s_within`) in words: `20-way 1-shot within`."""
    return re.sub(r"^(\d+)w(\d+)s_?", r"\1-way \2-shot ", name).strip()


def accuracy_title(name: str) -> str:
    """Return the heading of a column of accuracies, `20-way 1-shot (%) ↑`; the arrow shows which values are better."""
    return f"{shape_title(name)} (%) ↑"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a Markdown table, aligned for a terminal; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def percent(middle: float, *halves: float | None, digits: int = 2, sign: str = "") -> str:
    """Return a mean and half widths of its intervals in percent: `50.70 ± 5.04 ± 0.69`; `–` is not known, or infinite.

    Args:
        middle: the mean, in [-1, 1].
        halves: over seeds, then over episodes.
        digits: after the point.
        sign: `+` for a difference.
    """
    return " ± ".join([f"{100 * middle:{sign}.{digits}f}", *(number(half, digits) for half in halves)])


def number(value: float | None, digits: int = 2) -> str:
    """Return one number in percent, `–` if it is not known, or infinite."""
    return "–" if value is None or not isfinite(value) else f"{100 * value:.{digits}f}"


def p_value(p: float | None) -> str:
    """Return a p-value with three digits: `< 0.001`, `0.243`; `–` if it is not known."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_text(p: float) -> str:
    """Return a p-value in a sentence: `p < 0.001`, `p = 0.243`."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def half_range(values: Sequence[float], digits: int) -> str:
    """Return the mean of few values ± half their range; "" if there are none."""
    return f"{mean(values):.{digits}f} ± {(max(values) - min(values)) / 2:.{digits}f}" if values else ""
