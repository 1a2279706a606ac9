"""What every task sampler is given, and the one method it has."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from genmeta.data.table import ImageTable
from genmeta.episode import REAL, EpisodePlan, EpisodeShape
from genmeta.errors import UserError
from genmeta.tasks.prior import GaussianMixture
from genmeta.tasks.space import Encodings, LatentSpace

if TYPE_CHECKING:
    from genmeta.tasks.strokes import Characters

Need = Literal["decoder", "encoder", "redrawer", "strokes", "turns", "mirrors"]
"""What plans may ask for: to decode codes, encodings of the images, to draw images again, strokes, to turn or mirror
images.
"""


@dataclass(frozen=True)
class TaskPool:
    """Where tasks are drawn from: the classes of one part of a split, and the generator's latent space.

    Attributes:
        starts, counts: int64 `[n_classes]`, first table row of each class and its number of images.
        group_ids: int64 `[n_classes]`, the group of each class, numbers `0 … n_groups - 1`.
        prior: distribution of the codes; None if there is no generator.
        rows: int64, the table rows that are used, class by class, if these are not all; `starts` are places in it.
        encodings: of the images; None if there is no encoder, or no need of one.
        redraw_dim: size of a redrawer's code; 0 if there is none.
        strokes: characters in the images, of their strokes; None if there is no need of them.
    """

    starts: Tensor
    counts: Tensor
    group_ids: Tensor
    prior: GaussianMixture | None = None
    rows: Tensor | None = None
    encodings: Encodings | None = None
    redraw_dim: int = 0
    strokes: "Characters | None" = None

    @classmethod
    def of(cls, table: ImageTable, class_ids: Tensor, rows: Sequence[Tensor] | None = None) -> "TaskPool":
        """Return the pool of some classes of a table, of all their images or of some rows of each, int64 `[n]`."""
        group_ids = table.group_ids(class_ids)
        if rows is None:
            return cls(table.starts[class_ids], table.counts[class_ids], group_ids)
        return cls.of_rows(rows, group_ids)

    @classmethod
    def of_rows(cls, rows: Sequence[Tensor], group_ids: Tensor) -> "TaskPool":
        """Return the pool of classes that are table rows, int64 `[n]` each, with the number of each one's group."""
        counts = torch.tensor([len(of_class) for of_class in rows])
        return cls(counts.cumsum(0) - counts, counts, group_ids, rows=torch.cat(list(rows)))

    def table_rows(self, classes: Tensor, images: Tensor) -> Tensor:
        """Return the table rows of the i-th images of classes of the pool: int64 `[..., k]` for `[...]`, `[..., k]`."""
        places = self.starts[classes][..., None] + images
        return places if self.rows is None else self.rows[places]

    @property
    def space(self) -> LatentSpace:
        """The latent space.

        Raises:
            UserError: there is no generator.
        """
        if self.prior is None:
            raise UserError("generated tasks need a generator, but data.generator is not set")
        return LatentSpace(self.prior, self.encodings)

    @cached_property
    def all_rows(self) -> Tensor:
        """Table rows of all images, class by class, int64 `[n]`."""
        if self.rows is not None:
            return self.rows
        return torch.cat([torch.arange(int(n)) + s for s, n in zip(self.starts, self.counts, strict=True)])

    def check_images(self, shape: EpisodeShape) -> None:
        """Raise UserError if an episode asks for more images of a class than the smallest class has."""
        smallest = int(self.counts.min())
        if shape.n_images > smallest:
            raise UserError(
                f"n_shot + n_query is {shape.n_shot} + {shape.n_query} = {shape.n_images}, "
                f"but the smallest class has {smallest} images; the sum must be at most that"
            )

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


@dataclass(frozen=True)
class Provenances:
    """Which of `REAL`, `REDRAWN`, `DECODED` the support and the query images of a sampler's plans may be."""

    support: frozenset[int] = frozenset({REAL})
    query: frozenset[int] = frozenset({REAL})

    @classmethod
    def of_any(cls, some: "Sequence[Provenances]") -> "Provenances":
        """Return what images may be that are of any of these."""
        support, query = ([getattr(one, part) for one in some] for part in ("support", "query"))
        return cls(frozenset().union(*support), frozenset().union(*query))

    def with_some(
        self, new: int, instead_of: Set[int], share: float, which: Literal["all", "support", "query"] = "all"
    ) -> "Provenances":
        """Return what images may be of which a share becomes `new` that were `instead_of` before."""

        def changed(old: frozenset[int]) -> frozenset[int]:
            if not share or not old & instead_of:
                return old
            return (old - instead_of if share == 1 else old) | {new}

        return Provenances(
            self.support if which == "query" else changed(self.support),
            self.query if which == "support" else changed(self.query),
        )


class TaskSampler(ABC):
    """Draws meta-batches. It never touches a pixel or a network.

    Samplers are frozen dataclasses; those in their fields are their parts, which they draw from.
    """

    @property
    def parts(self) -> "dict[str, TaskSampler]":
        """The samplers that this one draws from, by the name of the field."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if isinstance(value, TaskSampler)}

    @property
    def needs(self) -> frozenset[Need]:
        """What the plans ask of the renderer and the pool: what the parts need unless overridden."""
        return frozenset().union(*(part.needs for part in self.parts.values()))

    @property
    def latent_range(self) -> tuple[float, float]:
        """Smallest and largest share of made-up classes among the class slots of a meta-batch, in [0, 1]."""
        ranges = [part.latent_range for part in self.parts.values()] or [(0.0, 0.0)]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    @property
    def provenances(self) -> "Provenances":
        """What the images may be: what those of the parts may be unless overridden, real ones if there are none."""
        return Provenances.of_any([part.provenances for part in self.parts.values()] or [Provenances()])

    @property
    def notes(self) -> list[str]:
        """What `check` has changed to have the tasks that were asked for, in words: what the parts have changed unless
        overridden.
        """
        return [note for part in self.parts.values() for note in part.notes]

    def walk(self) -> "Iterator[TaskSampler]":
        """Yield this sampler, its parts and theirs."""
        yield self
        for part in self.parts.values():
            yield from part.walk()

    def prepared(self, pool: TaskPool) -> "TaskSampler":
        """Return the sampler with all that is computed once from the pool (clusters, fitted mixtures)."""
        return replace(self, **{name: part.prepared(pool) for name, part in self.parts.items()})  # type: ignore[type-var]

    def check(self, pool: TaskPool, shape: EpisodeShape) -> None:
        """Raise UserError, with the numbers, if episodes of this shape cannot be drawn from the pool."""
        for part in self.parts.values():
            part.check(pool, shape)

    @abstractmethod
    def sample(self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, rng: torch.Generator) -> EpisodePlan:
        """Draw the `n_tasks` tasks of optimiser step `step`; every draw is made with `rng`."""


def check_ways(n_available: int, what: str, shape: EpisodeShape) -> None:
    """Raise UserError if an episode asks for more classes than there are."""
    if shape.n_way > n_available:
        raise UserError(f"n_way is {shape.n_way}, but there are only {n_available} {what}; n_way must be at most that")
