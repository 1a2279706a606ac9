"""The base class of effects: changes of a plan's images after they were gathered."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

DrawAgain = Callable[[Tensor, Tensor], Tensor]
"""Images `[n, C, H, W]` in [0, 1] and codes `[n, k]` to other instances of the images, `[n, C, H, W]`."""


class Movable:
    """Moves every tensor of a dataclass to a device, those of its parts too (Lightning calls this on a batch)."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        def moved(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(moved(part) for part in value)
            return value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor | Movable) else value

        return type(self)(**{f.name: moved(getattr(self, f.name)) for f in fields(self)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Sources:
    """Sources that effects may render from, on the device.

    Attributes:
        table: rows of the table, int64 `[task, way, n]`, and turns of them, int64 `[task, way]`, to images, float32
            `[task, way, n, C, H, W]` in [0, 1].
        redraw: frozen redrawer, or None.
    """

    table: Callable[[Tensor, Tensor], Tensor]
    redraw: DrawAgain | None = None


@dataclass(frozen=True)
class Effect(Movable, ABC):
    """An effect on some images of a plan: a frozen dataclass that defines everything about the effect.

    Its fields are tensors `[task, way, …]`, or `[task, way, shot + query, …]` for images. A plan has them as attributes
    too, such as `plan.elastic`, which is None without the effect. Metadata of a field: `fill`, the value for tasks
    without the effect when they are joined to tasks with it; and `hashed_as`, its name in hashes of plans, if that
    differs.

    Attributes:
        rendered_at: its place in the order of rendering, the smallest first.
        hashed_at: its place in hashes of plans; a new effect comes last.
    """

    rendered_at: ClassVar[int]
    hashed_at: ClassVar[int]

    @property
    @abstractmethod
    def changes(self) -> Tensor:
        """Which images it changes, bool `[task, way, shot + query]`."""

    @abstractmethod
    def render(self, x: Tensor, sources: Sources) -> Tensor:
        """Return images `[task, way, shot + query, C, H, W]` with the effect; may write on `x`.

        Raises:
            ValueError: a needed source is missing.
        """

    def provenance(self, before: Tensor) -> Tensor:
        """Return where images come from (`genmeta.episode.PROVENANCE`), int8 `[task, way, shot + query]`, given their
        provenance before the effect; by default it does not change.
        """
        return before

    def picked(self, pick: Callable[[Tensor], Tensor]) -> Self:
        """Return the effect with `pick` applied to all of its tensors."""
        return type(self)(**{f.name: pick(getattr(self, f.name)) for f in fields(self)})

    @property
    def hashed(self) -> list[tuple[str, Tensor]]:
        """Its tensors by their names in hashes."""
        return [(f.metadata.get("hashed_as", f.name), getattr(self, f.name)) for f in fields(self)]

    @classmethod
    def joined(cls, effects: Sequence[Self | None], sizes: Sequence[int]) -> Self:
        """Join effects along the task axis. None stands for tasks without the effect; `sizes` are numbers of tasks."""
        tensors = {
            f.name: joined([None if e is None else getattr(e, f.name) for e in effects], sizes, f.metadata["fill"])
            for f in fields(cls)
        }
        return cls(**tensors)

    @classmethod
    def known(cls) -> frozenset[str]:
        """Names of the tensors of all effects."""
        return frozenset(f.name for kind in cls.__subclasses__() for f in fields(kind))


def joined(tensors: Sequence[Tensor | None], sizes: Sequence[int], fill: float) -> Tensor | None:
    """Join tensors along the task axis, with `fill` for the tasks of a None; return None if all are None."""
    some = next((x for x in tensors if x is not None), None)
    if some is None:
        return None
    full = [some.new_full((n, *some.shape[1:]), fill) if x is None else x for x, n in zip(tensors, sizes, strict=True)]
    return torch.cat(full)
