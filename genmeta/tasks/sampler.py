"""What every task sampler is given, and the one method it has."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from genmeta.data.table import ImageTable
from genmeta.episode import EpisodePlan, EpisodeShape
from genmeta.errors import UserError
from genmeta.tasks.prior import GaussianMixture


@dataclass(frozen=True)
class TaskPool:
    """Where tasks are drawn from: the classes of one part of a split, and the generator's prior.

    Attributes:
        starts, counts: int64 `[n_classes]`, first table row of each class and its number of images.
        group_ids: int64 `[n_classes]`, the group of each class, numbers `0 … n_groups - 1`.
        prior: distribution of the codes; None if there is no generator.
        rows: int64, the table rows that are used, class by class, if these are not all; `starts` are places in it.
    """

    starts: Tensor
    counts: Tensor
    group_ids: Tensor
    prior: GaussianMixture | None = None
    rows: Tensor | None = None

    @classmethod
    def of(cls, table: ImageTable, class_ids: Tensor, rows: Sequence[Tensor] | None = None) -> "TaskPool":
        """Return the pool of some classes of a table, of all their images or of some rows of each, int64 `[n]`."""
        names = [table.groups[number] for number in class_ids.tolist()]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        group_ids = torch.tensor([numbers[name] for name in names])
        if rows is None:
            return cls(table.starts[class_ids], table.counts[class_ids], group_ids)
        counts = torch.tensor([len(of_class) for of_class in rows])
        return cls(counts.cumsum(0) - counts, counts, group_ids, rows=torch.cat(list(rows)))

    def table_rows(self, classes: Tensor, images: Tensor) -> Tensor:
        """Return the table rows of the i-th images of classes of the pool: int64 `[..., k]` for `[...]`, `[..., k]`."""
        places = self.starts[classes][..., None] + images
        return places if self.rows is None else self.rows[places]

    @property
    def latent_dim(self) -> int:
        """Size of a code; 0 if there is no generator."""
        return self.prior.dim if self.prior else 0

    @cached_property
    def groups(self) -> "Groups":
        """The classes by group."""
        sizes = torch.bincount(self.group_ids)
        order = sizes.argsort(stable=True)
        sizes = sizes[order]
        return Groups(order.argsort()[self.group_ids].argsort(stable=True), sizes.cumsum(0) - sizes, sizes)


@dataclass(frozen=True)
class Groups:
    """The classes of a pool by group, the smallest group first, so that the groups of enough classes are the last ones.

    Attributes:
        classes: int64 `[n_classes]`, numbers of the pool's classes, group by group.
        starts, sizes: int64 `[n_groups]`, first place of each group in `classes` and its number of classes; sizes do
            not fall.
    """

    classes: Tensor
    starts: Tensor
    sizes: Tensor


class TaskSampler(ABC):
    """Draws meta-batches. It never touches a pixel or a network, and keeps no state."""

    @property
    def uses_latents(self) -> bool:
        """Whether the sampler needs a generator (False unless overridden)."""
        return False

    @property
    def uses_turns(self) -> bool:
        """Whether the sampler turns images by quarter turns (False unless overridden)."""
        return False

    @property
    def latent_share(self) -> float:
        """Share of the tasks that are generated, in [0, 1]."""
        return float(self.uses_latents)

    @abstractmethod
    def check(self, pool: TaskPool, shape: EpisodeShape) -> None:
        """Raise UserError, with the numbers, if episodes of this shape cannot be drawn from the pool."""

    @abstractmethod
    def sample(self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, rng: torch.Generator) -> EpisodePlan:
        """Draw the `n_tasks` tasks of optimiser step `step`; every draw is made with `rng`."""


def draw_distinct(counts: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """Draw `k` distinct indices below each count, in random order, uniformly over all such tuples.

    The cost does not grow with the counts: few candidates are ranked by random keys, many are drawn and the tuples
    with a repetition drawn again (which happens to fewer than half of them).

    Args:
        counts: int64 `[...]`, every one at least `k`.

    Returns:
        int64 `[..., k]`.
    """
    largest = int(counts.max())
    if largest <= max(k * k, 32):
        keys = torch.rand(*counts.shape, largest, generator=rng)
        if int(counts.min()) < largest:
            keys = keys.masked_fill(torch.arange(largest) >= counts[..., None], 2.0)
        return argsort_rows(keys)[..., :k]
    flat = counts.numpy().reshape(-1, 1)  # numpy: these are many small operations, which cost torch twice as much
    picks = (torch.rand(len(flat), k, generator=rng, dtype=torch.float64).numpy() * flat).astype(np.int64)
    while True:
        ordered = np.sort(picks, 1)
        again = (ordered[:, 1:] == ordered[:, :-1]).any(1).nonzero()[0]
        if again.size == 0:
            return torch.from_numpy(picks).view(*counts.shape, k)
        fresh = torch.rand(len(again), k, generator=rng, dtype=torch.float64).numpy()
        picks[again] = (fresh * flat[again]).astype(np.int64)


def draw_labels(n_tasks: int, n_way: int, rng: torch.Generator) -> Tensor:
    """Return a random permutation of the labels for each task, int64 `[task, way]`."""
    return argsort_rows(torch.rand(n_tasks, n_way, generator=rng))


def argsort_rows(keys: Tensor) -> Tensor:
    """Return what `keys.argsort(dim=-1, stable=True)` does, for float32 keys of at least 0.

    numpy sorts short rows of whole numbers with vector instructions, four times as fast as torch sorts pairs: so a key
    and its place are packed into one number, as the bits of floats of at least 0 have the order of the floats.
    """
    packed = keys.view(torch.int32).numpy().astype(np.int64)
    packed <<= 32
    packed |= np.arange(keys.shape[-1])
    packed.sort(-1)
    packed &= 0xFFFFFFFF
    return torch.from_numpy(packed)


def check_ways(n_available: int, what: str, shape: EpisodeShape) -> None:
    """Raise UserError if an episode asks for more classes than there are."""
    if shape.n_way > n_available:
        raise UserError(f"n_way is {shape.n_way}, but there are only {n_available} {what}; n_way must be at most that")


def shuffle_tasks(plan: EpisodePlan, order: Sequence[int] | Tensor) -> EpisodePlan:
    """Return the plan with its tasks in another order, codes included."""
    order = torch.as_tensor(order)
    slot_numbers = torch.full(plan.is_latent.shape, -1).masked_scatter(plan.is_latent, torch.arange(len(plan.z)))
    moved = slot_numbers[order]
    return EpisodePlan(
        n_shot=plan.n_shot,
        rows=plan.rows[order],
        turns=plan.turns[order],
        labels=plan.labels[order],
        is_latent=plan.is_latent[order],
        z=plan.z[moved[moved >= 0]],
    )
