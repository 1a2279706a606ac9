"""Arms of an experiment on identical test episodes: the table, and the paired difference."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genmeta.errors import UserError
from genmeta.evaluation.accuracy import mean_and_ci95


@dataclass(frozen=True)
class Arm:
    """One row of the table.

    Attributes:
        name: what the row says.
        accuracies: by the name of the episodes (`5w1s`, `20w1s_within`), the accuracy of each test episode in [0, 1],
            in the order of the episodes.
        hashes: by that name, the content hash of the episodes.
    """

    name: str
    accuracies: Mapping[str, Sequence[float]]
    hashes: Mapping[str, str]


def check_same_episodes(arms: Sequence[Arm]) -> None:
    """Raise UserError if two arms were not tested on the same episodes of the shapes that both were tested on."""
    for arm in arms[1:]:
        both = arm.hashes.keys() & arms[0].hashes.keys()
        if not both or any(arm.hashes[name] != arms[0].hashes[name] for name in both):
            raise UserError(f"'{arm.name}' and '{arms[0].name}' were tested on different episodes; they do not compare")


def percent(values: Sequence[float], sign: str = "") -> str:
    """Return `mean ± half width` of the 95 % interval in percent."""
    mean, half = mean_and_ci95(values)
    return f"{100 * mean:{sign}.2f} ± {100 * half:.2f}"


def table(arms: Sequence[Arm]) -> str:
    """Return the accuracies of all arms as a Markdown table, aligned for a terminal."""
    shapes = list(arms[0].accuracies)
    rows = [["", *map(shape_title, shapes)]]
    rows += [[arm.name, *(percent(arm.accuracies[s]) if s in arm.accuracies else "" for s in shapes)] for arm in arms]
    return markdown_table(rows)


def shape_title(name: str) -> str:
    """Return the name of episodes (`20w1s_within`) in words: `20-way 1-shot within`."""
    return re.sub(r"^(\d+)w(\d+)s_?", r"\1-way \2-shot ", name).strip()


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the first of which is the head, as a Markdown table that is aligned for a terminal."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def difference(first: Arm, second: Arm) -> str:
    """Return a sentence for each shape: the mean paired difference `first - second` over the episodes, and what it
    says.

    Pairing takes the difficulty of the episodes out of the comparison. The interval is over episodes, for these two
    trained learners; how much training runs differ it does not tell.
    """
    check_same_episodes([first, second])
    sentences = []
    for shape in (shape for shape in first.accuracies if shape in second.accuracies):
        # a test that was cut short (limit_test_batches) has fewer, but from the same first one on
        deltas = [a - b for a, b in zip(first.accuracies[shape], second.accuracies[shape], strict=False)]
        mean, half = mean_and_ci95(deltas)
        verdict = "no difference that these episodes can show" if abs(mean) <= half else "more" if mean > 0 else "less"
        sentences.append(f"{shape}: {first.name} - {second.name} = {percent(deltas, '+')} points ({verdict})")
    return "\n".join(sentences)
