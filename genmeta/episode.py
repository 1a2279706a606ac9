"""The two forms of a meta-batch: a plan (a few kilobytes, made on the CPU) and the batch rendered from it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from genmeta.errors import UserError


@dataclass(frozen=True)
class EpisodeShape:
    """Size of an episode: `n_shot` support and `n_query` query images **per class**.

    Raises:
        UserError: fewer than two classes, or no support or query image.
    """

    n_way: int
    n_shot: int
    n_query: int

    def __post_init__(self) -> None:
        if self.n_way < 2 or self.n_shot < 1 or self.n_query < 1:
            raise UserError(
                f"an episode needs n_way >= 2, n_shot >= 1, n_query >= 1; "
                f"found n_way={self.n_way}, n_shot={self.n_shot}, n_query={self.n_query}"
            )

    @property
    def n_images(self) -> int:
        """Images of one class, support and query."""
        return self.n_shot + self.n_query

    def __str__(self) -> str:
        return f"{self.n_way}w{self.n_shot}s"


class _Movable:
    """Moves every tensor of a dataclass to a device (Lightning calls this on a batch)."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        moved = {k: v.to(device, non_blocking=non_blocking) if isinstance(v, Tensor) else v for k, v in values.items()}
        return type(self)(**moved)


@dataclass(frozen=True)
class EpisodePlan(_Movable):
    """A meta-batch as indices and codes. The first `n_shot` images of a class slot are its support images.

    Attributes:
        n_shot: support images per class.
        rows: int64 `[task, way, shot + query]`, rows of the image table; 0 and unused in generated slots.
        turns: int64 `[task, way]`, quarter turns (0 to 3) that make a rotated class of a real one.
        labels: int64 `[task, way]`, the label of each class slot, a permutation of `0 … way - 1`.
        is_latent: bool `[task, way]`, which class slots are generated.
        z: float32 `[is_latent.sum(), shot + query, latent_dim]`, codes of the generated slots in row-major order.
    """

    n_shot: int
    rows: Tensor
    turns: Tensor
    labels: Tensor
    is_latent: Tensor
    z: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, tasks: slice) -> "EpisodePlan":
        """Return the tasks of a slice, with the codes that belong to them."""
        slots_before = self.is_latent.sum(1).cumsum(0) - self.is_latent.sum(1)
        chosen = torch.arange(len(self))[tasks]
        slots = [torch.arange(int(slots_before[t]), int(slots_before[t] + self.is_latent[t].sum())) for t in chosen]
        z = self.z[torch.cat(slots)] if slots else self.z[:0]
        return EpisodePlan(
            self.n_shot, self.rows[tasks], self.turns[tasks], self.labels[tasks], self.is_latent[tasks], z
        )


def concatenate(plans: Sequence[EpisodePlan]) -> EpisodePlan:
    """Join plans of one shape along the task axis. Plans without generated slots may have any latent dim."""
    with_codes = [plan.z for plan in plans if len(plan.z)]
    return EpisodePlan(
        n_shot=plans[0].n_shot,
        rows=torch.cat([plan.rows for plan in plans]),
        turns=torch.cat([plan.turns for plan in plans]),
        labels=torch.cat([plan.labels for plan in plans]),
        is_latent=torch.cat([plan.is_latent for plan in plans]),
        z=torch.cat(with_codes) if with_codes else plans[0].z,
    )


def plan_hash(plan: EpisodePlan) -> str:
    """Return 16 hex digits of SHA-256 over everything that decides what the episodes look like."""
    digest = hashlib.sha256(str(plan.n_shot).encode())
    for tensor in (plan.rows, plan.turns, plan.labels, plan.is_latent, plan.z):
        digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class EpisodeBatch(_Movable):
    """A meta-batch as images.

    Attributes:
        support_x: float32 `[task, way * shot, C, H, W]` in [0, 1].
        support_y: int64 `[task, way * shot]` in `[0, way)`.
        query_x, query_y: the same with `way * query` images.
        is_latent: bool `[task, way]`, indexed by **label**: was the class with this label generated?
        support_weight: float32 `[task, way * shot]`, how much each support image counts in its class; None: all alike.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    is_latent: Tensor
    support_weight: Tensor | None = None

    @property
    def n_way(self) -> int:
        """Classes of an episode."""
        return self.is_latent.shape[1]

    @property
    def query_is_latent(self) -> Tensor:
        """Bool `[task, way * query]`: was the query image generated?"""
        return self.is_latent.gather(1, self.query_y)
