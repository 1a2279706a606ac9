"""What every task sampler is given, and the one method it has."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genmeta.data.table import ImageTable
from genmeta.episode import EpisodePlan, EpisodeShape
from genmeta.errors import UserError


@dataclass(frozen=True)
class TaskPool:
    """Where tasks are drawn from: the classes of one part of a split, and the size of the latent space.

    Attributes:
        starts, counts: int64 `[n_classes]`, first table row of each class and its number of images.
        latent_dim: size of a code; 0 if there is no generator.
        rows: int64, the table rows that are used, class by class, if these are not all; `starts` are positions in it.
    """

    starts: Tensor
    counts: Tensor
    latent_dim: int = 0
    rows: Tensor | None = None

    @classmethod
    def of(cls, table: ImageTable, class_ids: Tensor, latent_dim: int = 0) -> "TaskPool":
        """Return the pool of some classes of a table."""
        return cls(table.starts[class_ids], table.counts[class_ids], latent_dim)

    @classmethod
    def of_rows(cls, rows: Sequence[Tensor], latent_dim: int = 0) -> "TaskPool":
        """Return the pool of classes of which some table rows are used, int64 `[n]` for each class."""
        counts = torch.tensor([len(of_class) for of_class in rows])
        return cls(counts.cumsum(0) - counts, counts, latent_dim, torch.cat(list(rows)))

    def table_rows(self, classes: Tensor, images: Tensor) -> Tensor:
        """Return the table rows of the i-th images of classes of the pool: int64 `[..., k]` for `[...]`, `[..., k]`."""
        places = self.starts[classes][..., None] + images
        return places if self.rows is None else self.rows[places]


class TaskSampler(ABC):
    """Draws meta-batches. It never touches a pixel or a network, and keeps no state."""

    @property
    def uses_latents(self) -> bool:
        """Whether the sampler needs a generator (False unless overridden)."""
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
        keys = keys.masked_fill(torch.arange(largest) >= counts[..., None], 2.0)
        return keys.argsort(-1)[..., :k]
    flat = counts.flatten()[:, None]
    picks = (torch.rand(len(flat), k, generator=rng, dtype=torch.float64) * flat).long()
    while True:
        ordered = picks.sort(1).values
        again = (ordered[:, 1:] == ordered[:, :-1]).any(1).nonzero().flatten()
        if len(again) == 0:
            return picks.unflatten(0, counts.shape) if counts.dim() != 1 else picks
        fresh = torch.rand(len(again), k, generator=rng, dtype=torch.float64)
        picks[again] = (fresh * flat[again]).long()


def draw_labels(n_tasks: int, n_way: int, rng: torch.Generator) -> Tensor:
    """Return a random permutation of the labels for each task, int64 `[task, way]`."""
    return torch.rand(n_tasks, n_way, generator=rng).argsort(1)


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
