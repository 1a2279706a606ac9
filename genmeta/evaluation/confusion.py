"""Accuracy of each test class, and which classes are mistaken for which."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torchmetrics import Metric

from genmeta.evaluation.accuracy import Z95


class ClassConfusion(Metric):
    """Counts by class: exact sums, over batches and processes.

    A query of class a can be answered b only in episodes with both classes. So two numbers are counted:
    `offered[a, b]`, queries of a in episodes with b, and `chosen[a, b]`, those of them that were answered b. See
    `Confusion`.

    Args:
        n_classes: of the tested part; the memory is two int64 `[n_classes, n_classes]`.
    """

    full_state_update = False
    offered: Tensor
    chosen: Tensor

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        for name in ("offered", "chosen"):
            zeros = torch.zeros(n_classes, n_classes, dtype=torch.int64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, logits: Tensor, query_y: Tensor, classes: Tensor) -> None:
        """Add episodes: logits `[task, query, way]`, labels `[task, query]`, and the class of each label, int64
        `[task, way]`.
        """
        truth, given = classes.gather(1, query_y), classes.gather(1, logits.argmax(2))
        rows = truth[..., None].expand_as(logits)
        columns = classes[:, None].expand_as(logits)
        self.offered = self.offered.index_put((rows, columns), torch.ones_like(rows), accumulate=True)
        self.chosen = self.chosen.index_put((truth, given), torch.ones_like(truth), accumulate=True)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return `offered` and `chosen`, int64 `[class, class]`."""
        return self.offered, self.chosen


@dataclass(frozen=True)
class Pair:
    """A class whose queries were mistaken for another class.

    Attributes:
        truth, given: names of the right class and of the answer.
        offered: queries of `truth` in episodes that have `given`.
        chosen: those of them that were answered `given`.
    """

    truth: str
    given: str
    offered: int
    chosen: int

    @property
    def rate(self) -> float:
        """Share of the queries, in [0, 1]."""
        return self.chosen / self.offered

    @property
    def at_least(self) -> float:
        """Lower end of the rate's 95 % interval (Wilson, "Probable Inference", 1927, as if queries were independent).

        By it, one mistake in two queries counts less than fifty in a hundred.
        """
        n, p, z = self.offered, self.rate, Z95
        return (p + z**2 / (2 * n) - z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5) / (1 + z**2 / n)


@dataclass(frozen=True)
class Confusion:
    """The counts of `ClassConfusion`.

    The rate of a pair (a, b) is the share of answers b among the queries of a in episodes that offer b. It does not
    depend on how often the two meet. The rates of a class do not add up to 1, since each is over different episodes;
    among n_way identical classes each rate is 1 / n_way.

    Attributes:
        names, groups: of each class.
        offered, chosen: int64 `[class, class]`.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    offered: Tensor
    chosen: Tensor

    @property
    def queries(self) -> list[int]:
        """Queries of each class."""
        return self.offered.diagonal().tolist()

    @property
    def right(self) -> list[int]:
        """Right answers for each class."""
        return self.chosen.diagonal().tolist()

    @cached_property
    def pairs(self) -> list[Pair]:
        """Pairs of classes with mistakes, the most confused pair first (`Pair.at_least`)."""
        wrong = self.chosen.clone()
        wrong.fill_diagonal_(0)
        pairs = [
            Pair(self.names[a], self.names[b], int(self.offered[a, b]), int(self.chosen[a, b]))
            for a, b in wrong.nonzero().tolist()
        ]
        return sorted(pairs, key=lambda pair: (-pair.at_least, pair.truth, pair.given))

    def lowest(self, n: int) -> list[tuple[str, float]]:
        """Return the `n` classes with the lowest accuracies, and these accuracies; classes without queries are left
        out.
        """
        known = [
            (name, right / queries)
            for name, right, queries in zip(self.names, self.right, self.queries, strict=True)
            if queries
        ]
        return sorted(known, key=lambda entry: (entry[1], entry[0]))[:n]

    def most_confused(self, n: int) -> list[int]:
        """Return the numbers of at most `n` classes, in order: all classes, or those of the most confused pairs."""
        if len(self.names) <= n:
            return list(range(len(self.names)))
        number = {name: i for i, name in enumerate(self.names)}
        kept: dict[int, None] = {}
        for pair in self.pairs:
            both = dict.fromkeys((number[pair.truth], number[pair.given]))
            if len(kept | both) > n:
                break
            kept |= both
        return sorted(kept)


PER_CLASS = ("episodes", "class", "group", "queries", "right", "accuracy", "taken_for", "offered", "chosen", "rate")
"""Columns of `per_class_rows`."""
PAIRS = ("episodes", "class", "taken_for", "offered", "chosen", "rate")
"""Columns of `pair_rows`."""


def per_class_rows(episodes: str, confusion: Confusion) -> list[Sequence[object]]:
    """Return a row for each class, with the class that it was most often mistaken for.

    Args:
        episodes: name of the episodes, such as `5w1s`.
        confusion: the counts.
    """
    worst: dict[str, Pair] = {}
    for pair in confusion.pairs:
        worst.setdefault(pair.truth, pair)
    rows: list[Sequence[object]] = []
    for name, group, queries, right in zip(
        confusion.names, confusion.groups, confusion.queries, confusion.right, strict=True
    ):
        accuracy = f"{right / queries:.6f}" if queries else ""
        mistaken = worst.get(name)
        taken: Sequence[object] = ("",) * 4
        if mistaken:
            taken = (mistaken.given, mistaken.offered, mistaken.chosen, f"{mistaken.rate:.6f}")
        rows.append((episodes, name, group, queries, right, accuracy, *taken))
    return rows


def pair_rows(episodes: str, confusion: Confusion) -> list[Sequence[object]]:
    """Return a row for each pair with mistakes, the most confused pair first."""
    return [(episodes, p.truth, p.given, p.offered, p.chosen, f"{p.rate:.6f}") for p in confusion.pairs]
