"""Arms of an experiment on identical test episodes: the table, the paired differences, what they say."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from genmeta.errors import UserError
from genmeta.evaluation.accuracy import mean_and_ci95
from genmeta.evaluation.statistics import mean_and_t95, over_episodes


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


@dataclass(frozen=True)
class SeedsOfArm:
    """An arm that was trained and tested with several seeds.

    Attributes:
        title: what a table says.
        seeds: what each seed's test found.
        once: whether it was tested once for all seeds, so that it has no spread over them.
        training_seconds: mean over seeds of what its training took, that of all it was made of included; None if that
            is not known.
    """

    title: str
    seeds: Mapping[int, Arm]
    once: bool = False
    training_seconds: float | None = None

    @property
    def shapes(self) -> list[str]:
        """Names of the test episodes."""
        return list(next(iter(self.seeds.values())).accuracies)

    def accuracies(self, shape: str) -> list[Sequence[float]]:
        """Return the accuracies of all episodes, a list for each seed."""
        return [arm.accuracies[shape] for arm in self.seeds.values()]

    def over_seeds(self, shape: str) -> tuple[float, float]:
        """Return the mean accuracy and the half width of its 95 % interval over seeds; infinite for one seed, and
        for an arm that was tested once.
        """
        means = [mean(values) for values in self.accuracies(shape)]
        return mean_and_t95(means[:1] if self.once else means)

    def over_episodes(self, shape: str) -> tuple[float, float]:
        """Return the mean accuracy and the half width of its 95 % interval over episodes, of the seeds' means."""
        return mean_and_ci95(over_episodes(self.accuracies(shape)))


def hashes_of(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes of what a run (content of `run.json`) was tested on: episodes, and `images`, the pictures that
    these are of, if the run says.
    """
    content = summary.get("split", {}).get("content")
    return {**summary["episodes"], **({"images": content} if content else {})}


def check_same_episodes(arms: Sequence[Arm]) -> None:
    """Raise UserError if two arms were not tested on the same episodes of the shapes that both were tested on, or on
    other pictures.
    """
    for arm in arms[1:]:
        both = arm.hashes.keys() & arms[0].hashes.keys()
        if not both - {"images"} or any(arm.hashes[name] != arms[0].hashes[name] for name in both):
            raise UserError(f"'{arm.name}' and '{arms[0].name}' were tested on different episodes; they do not compare")


def percent(values: Sequence[float], sign: str = "") -> str:
    """Return `mean ± half width` of the 95 % interval in percent."""
    mean, half = mean_and_ci95(values)
    return f"{100 * mean:{sign}.2f} ± {100 * half:.2f}"


def table(arms: Sequence[SeedsOfArm]) -> str:
    """Return the accuracies of all arms, means over their seeds, as a Markdown table, aligned for a terminal."""
    shapes = arms[0].shapes
    rows = [["", *map(shape_title, shapes)]]
    for arm in arms:
        cells = [percent(over_episodes(arm.accuracies(s)).tolist()) if s in arm.shapes else "" for s in shapes]
        rows.append([arm.title, *cells])
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


@dataclass(frozen=True)
class Paired:
    """The mean paired difference of two arms on one kind of episodes, in [-1, 1].

    Pairing takes the difficulty of the episodes out of the comparison.

    Attributes:
        first, second: titles of the arms.
        shape: name of the episodes.
        difference: mean of first − second over episodes and seeds.
        ci95: half width of its 95 % interval over episodes, for these trained learners. How much trainings differ it
            does not tell.
        of_seeds: the difference of each seed.
    """

    first: str
    second: str
    shape: str
    difference: float
    ci95: float
    of_seeds: Mapping[int, float]

    @property
    def word(self) -> str:
        """What it says: `more`, `less`, or why neither."""
        if abs(self.difference) <= self.ci95:
            return "no difference that these episodes can show"
        if any(one * self.difference <= 0 for one in self.of_seeds.values()):
            return "the seeds disagree"
        return "more" if self.difference > 0 else "less"

    @property
    def numbers(self) -> str:
        """The difference with its interval, in points."""
        return f"{100 * self.difference:+.2f} ± {100 * self.ci95:.2f}"

    def __str__(self) -> str:
        seeds = ", ".join(f"seed {seed} {100 * one:+.2f}" for seed, one in self.of_seeds.items())
        return (
            f"{self.shape}: {self.first} - {self.second} = {self.numbers} points "
            f"({self.word}{f'; {seeds}' if len(self.of_seeds) > 1 else ''})"
        )


def paired(first: SeedsOfArm, second: SeedsOfArm) -> list[Paired]:
    """Return how two arms differ on the episodes that both were tested on.

    Raises:
        UserError: the episodes are not the same.
    """
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    check_same_episodes([arm.seeds[seed] for arm in (first, second) for seed in seeds])
    found = []
    for shape in (shape for shape in first.shapes if shape in second.shapes):
        # a test that was cut short (limit_test_batches) has fewer, but from the same first one on
        deltas = [
            [a - b for a, b in zip(first.seeds[s].accuracies[shape], second.seeds[s].accuracies[shape], strict=False)]
            for s in seeds
        ]
        middle, half = mean_and_ci95(over_episodes(deltas))
        of_seeds = {seed: mean(values) for seed, values in zip(seeds, deltas, strict=True)}
        found.append(Paired(first.title, second.title, shape, middle, half, of_seeds))
    return found


def credit(found: Sequence[Paired]) -> str:
    """Return in plain words whether an arm was better than its controls, a line for each kind of episodes.

    It gets credit only where it was better than each of them with each seed; and two seeds are never sure.

    Args:
        found: one arm's differences from all controls.
    """
    n_seeds = len(found[0].of_seeds)
    if n_seeds == 1:
        return "one seed: undecided until `make compare`"
    lines = []
    for shape in dict.fromkeys(one.shape for one in found):
        of_shape = [one for one in found if one.shape == shape]
        least = min(of_shape, key=lambda one: one.difference)
        against = f"{least.numbers} points against '{least.second}'"
        if all(one.word == "more" for one in of_shape):
            text = f"more than each control with each of {n_seeds} seeds, at least {against}"
        elif least.word == "less":
            text = f"{against}, less with each of {n_seeds} seeds"
        else:
            text = f"undecided: {against} ({least.word})"
        lines.append(f"{shape_title(shape)}: {found[0].first}: {text}")
    return "\n".join([*lines, f"{n_seeds} seeds do not tell how much another training would differ: `make compare`"])
