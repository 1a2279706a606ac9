"""Fewer training data: some of the groups, of the classes, of the images."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from genmeta.data.splits import Split
from genmeta.data.table import ImageTable
from genmeta.errors import UserError
from genmeta.rng import make_rng


@dataclass(frozen=True)
class LowData:
    """What is kept of the train part; val and test stay as they are, and so do their episodes.

    Each is a number if it is 1 or more, a share if it is below 1, and everything if it is not given. Groups are chosen
    first, then classes among those left, then images of each class. With one seed a smaller choice is contained in a
    larger one.

    Args:
        groups: groups (alphabets, super-classes) to keep.
        classes: classes to keep.
        images_per_class: images to keep of each class; a class with fewer keeps them all.
        seed: of the choice; the same for generator and learner.

    Raises:
        UserError: a number is not above 0, or is 1 or more and not whole.
    """

    groups: float | None = None
    classes: float | None = None
    images_per_class: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in self._wanted().items():
            if value <= 0 or (value >= 1 and value != int(value)):
                raise UserError(
                    f"data.low_data.{name} is {value}; expected a whole number of at least 1, "
                    "or a share above 0 and below 1"
                )

    def __bool__(self) -> bool:
        """Whether anything is left out."""
        return bool(self._wanted())

    def _wanted(self) -> dict[str, float]:
        return {k: v for k, v in asdict(self).items() if k != "seed" and v is not None}

    def keep_classes(self, split: Split, table: ImageTable) -> Split:
        """Return the split with fewer train classes, and with a hash of its own.

        Raises:
            UserError: more groups or classes are asked for than there are.
        """
        group_of = dict(zip(table.class_names, table.groups, strict=True))
        train = list(split.train)
        if self.groups is not None:
            groups = sorted({group_of[name] for name in train})
            kept = set(self._choose("groups", groups, self.groups))
            train = [name for name in train if group_of[name] in kept]
        if self.classes is not None:
            kept = set(self._choose("classes", sorted(train), self.classes))
            train = [name for name in train if name in kept]
        images = "" if self.images_per_class is None else f"{self.images_per_class:g} of each class, seed {self.seed}"
        return replace(split, train=tuple(train), images=images)

    def keep_images(self, table: ImageTable, class_ids: Tensor) -> list[Tensor]:
        """Return the table rows that are kept of each class, int64 `[n]` each, in ascending order."""
        rows = []
        for class_id in class_ids.tolist():
            start, count = int(table.starts[class_id]), int(table.counts[class_id])
            chosen = torch.arange(count)
            if self.images_per_class is not None:
                order = torch.randperm(count, generator=make_rng(self.seed, "low data", table.class_names[class_id]))
                chosen = order[: _number(self.images_per_class, count)].sort().values
            rows.append(start + chosen)
        return rows

    def facts(self, split: Split, rows: list[Tensor]) -> dict[str, Any]:
        """Return what to record of a run: the choice and what it left."""
        return {**asdict(self), "train_classes": len(split.train), "train_images": sum(len(r) for r in rows)}

    def _choose(self, what: str, names: list[str], wanted: float) -> list[str]:
        n = _number(wanted, len(names))
        if n > len(names):
            raise UserError(
                f"data.low_data.{what} is {wanted:g}, but the train part has {len(names)}; use at most that"
            )
        order = torch.randperm(len(names), generator=make_rng(self.seed, "low data", what)).tolist()
        return [names[i] for i in order[:n]]


def _number(wanted: float, there_are: int) -> int:
    """Return a number from a number or a share; of a share at least 1."""
    return int(wanted) if wanted >= 1 else max(1, round(wanted * there_are))
