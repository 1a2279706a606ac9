"""The two forms of a meta-batch: a plan (a few kilobytes, made on the CPU) and the batch rendered from it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from genmeta.effect import Effect, Movable, joined
from genmeta.errors import UserError

E = TypeVar("E", bound=Effect)


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


TABLE, DECODER, BANK = 0, 1, 2  # where an image of a plan comes from

REAL, REDRAWN, DECODED = 0, 1, 2
PROVENANCE = {"real": REAL, "redrawn": REDRAWN, "decoded": DECODED}
"""The provenance of an image. `REAL`: of the data, maybe turned, or deformed at random. `REDRAWN`: of the data, drawn
again by a learned redrawer. `DECODED`: made by a generator from a code, and maybe drawn again then. An image that is
joined from halves of two of the data is real.

It is of the image alone. A class may be made up of real images: a cluster of them, a single one, or a class deformed as
a whole. Its images are real or redrawn, and `is_generated` of its slot says that the class is none of the data's.
"""


@dataclass(frozen=True)
class EpisodePlan(Movable):
    """A meta-batch as indices and codes. The first `n_shot` images of a class slot are its support images.

    An image is a row of the table, a decoded code or a row of the bank of generated images; turned with its class; then
    changed by the effects that the plan has (`genmeta.effect`). Their tensors are attributes of the plan too, such as
    `plan.elastic`: None where it has no such effect.

    Attributes:
        n_shot: support images per class.
        rows: int64 `[task, way, shot + query]`, rows of the image table, or of the bank; 0 and unused where decoded.
        turns: int64 `[task, way]`, what makes another class of a class: so many quarter turns (0 to 3), or 4 to 7: the
            mirror image, left and right exchanged, and then `turns - 4` quarter turns.
        labels: int64 `[task, way]`, the label of each class slot, a permutation of `0 … way - 1`.
        is_generated: bool `[task, way]`, which class slots are made-up classes, none of the data's: decoded from codes,
            or real images under a label that is not theirs.
        source: int8 `[task, way, shot + query]`, where each image comes from: `TABLE`, `DECODER` or `BANK`.
        z: float32 `[(source == DECODER).sum(), latent_dim]`, their codes in row-major order.
        effects: each of another kind; in the order in which they are hashed.
        support_weight: float32 `[task, way, shot]`, how much each support image counts in its class; None: all alike.
        period: which filling of the bank its rows mean; None if it has no rows of a bank.
        first_task: place of the first task in the meta-batch that this is a part of.
    """

    n_shot: int
    rows: Tensor
    turns: Tensor
    labels: Tensor
    is_generated: Tensor
    source: Tensor
    z: Tensor
    effects: tuple[Effect, ...] = ()
    support_weight: Tensor | None = None
    period: int | None = None
    first_task: int = 0

    def __post_init__(self) -> None:
        in_order = sorted(self.effects, key=lambda effect: effect.hashed_at)
        object.__setattr__(self, "effects", tuple(in_order))

    if not TYPE_CHECKING:  # code that is checked asks for the effect

        def __getattr__(self, name: str) -> Tensor | None:
            for effect in self.__dict__.get("effects", ()):
                if name in effect.__dict__:
                    return effect.__dict__[name]
            if name in Effect.known():
                return None
            raise AttributeError(f"a plan has no '{name}', nor has an effect")

    @classmethod
    def of_rows(cls, n_shot: int, rows: Tensor, turns: Tensor, labels: Tensor, latent: bool = False) -> "EpisodePlan":
        """Return a plan of images of the table; all of its classes count as generated or none does."""
        return cls(
            n_shot=n_shot,
            rows=rows,
            turns=turns,
            labels=labels,
            is_generated=torch.full(labels.shape, latent),
            source=torch.zeros(rows.shape, dtype=torch.int8),
            z=torch.empty(0, 0),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, tasks: slice) -> "EpisodePlan":
        """Return the tasks of a slice of successive ones, with the codes that belong to them."""
        first, _, _ = tasks.indices(len(self))
        return replace(self.take(torch.arange(len(self))[tasks]), first_task=self.first_task + first)

    def take(self, tasks: Tensor) -> "EpisodePlan":
        """Return these tasks (int64 `[n]`), in this order."""
        return self._reindexed(lambda x: x[tasks])

    def take_images(self, images: Tensor, n_shot: int) -> "EpisodePlan":
        """Return the plan with these images (int64 `[m]`, repetitions allowed) of each slot; the first are support."""
        plan = self._reindexed(lambda x: x[:, :, images] if x.dim() > 2 else x)
        return replace(plan, n_shot=n_shot)

    @property
    def is_plain(self) -> bool:
        """Whether all images are rows of the table, as they are there but for the turns."""
        return len(self.z) == 0 and self.period is None and not self.effects

    def effect(self, kind: type[E]) -> E | None:
        """Return the effect of a kind, if the plan has it."""
        return next((effect for effect in self.effects if isinstance(effect, kind)), None)

    def having(self, effect: Effect) -> "EpisodePlan":
        """Return the plan with an effect, in the place of the one of its kind."""
        others = [other for other in self.effects if type(other) is not type(effect)]
        return replace(self, effects=(*others, effect))

    @property
    def has_generated(self) -> Tensor:
        """Which class slots have a generated image, or one that an effect changes, bool `[task, way]`."""
        some = self.is_generated | (self.source != TABLE).any(2)
        for effect in self.effects:
            some = some | effect.changes.any(2)
        return some

    def provenance(self, bank: Tensor | None = None) -> Tensor:
        """Return `REAL`, `REDRAWN` or `DECODED` for each image, int8 `[task, way, shot + query]`.

        Args:
            bank: that of the bank's images, int8 `[M]`; None: all of them are decoded.
        """
        found = (self.source != TABLE).to(torch.int8) * DECODED
        if bank is not None:
            of_bank = self.source == BANK
            found[of_bank] = bank[self.rows[of_bank]]
        for effect in self.in_rendering_order:
            found = effect.provenance(found)
        return found

    @property
    def in_rendering_order(self) -> list[Effect]:
        """The effects, the one that is rendered first at first."""
        return sorted(self.effects, key=lambda effect: effect.rendered_at)

    @property
    def code_numbers(self) -> Tensor:
        """Which code each image is decoded from, int64 `[task, way, shot + query]`; -1 for images that are not."""
        decoded = self.source == DECODER
        return torch.where(decoded, decoded.flatten().cumsum(0).view(decoded.shape) - 1, -1)

    def _reindexed(self, pick: Callable[[Tensor], Tensor]) -> "EpisodePlan":
        """Return the plan with `pick` applied to every tensor with a task axis."""
        numbers = pick(self.code_numbers)
        picked: dict[str, Any] = {name: pick(getattr(self, name)) for name in _WITH_TASK_AXIS}
        effects = tuple(effect.picked(pick) for effect in self.effects)
        weight = None if self.support_weight is None else pick(self.support_weight)
        z = self.z[numbers[numbers >= 0]]
        return replace(self, z=z, effects=effects, support_weight=weight, **picked)


_WITH_TASK_AXIS = ("rows", "turns", "labels", "is_generated", "source")  # that every plan has


def concatenate(plans: Sequence[EpisodePlan]) -> EpisodePlan:
    """Join plans of one shape along the task axis; what one plan has and another has not is filled in."""
    with_codes = [plan.z for plan in plans if len(plan.z)]
    sizes = [len(plan) for plan in plans]
    always: dict[str, Any] = {name: torch.cat([getattr(plan, name) for plan in plans]) for name in _WITH_TASK_AXIS}
    kinds = dict.fromkeys(type(effect) for plan in plans for effect in plan.effects)
    return EpisodePlan(
        plans[0].n_shot,
        z=torch.cat(with_codes) if with_codes else plans[0].z,
        effects=tuple(kind.joined([plan.effect(kind) for plan in plans], sizes) for kind in kinds),
        support_weight=joined([plan.support_weight for plan in plans], sizes, fill=1.0),
        period=next((plan.period for plan in plans if plan.period is not None), None),
        **always,
    )


def choose_slots(first: EpisodePlan, second: EpisodePlan, take_second: Tensor) -> EpisodePlan:
    """Return the plan with the class slots of `second` where `take_second` (bool `[task, way]`), else of `first`.

    The labels are those of `first`.
    """
    n = len(first)
    both = concatenate([first, second])
    # slots as tasks of one slot each, picked, and put together again
    number = torch.arange(n)[:, None] + n * take_second
    way = torch.arange(take_second.shape[1])
    plan = both._reindexed(lambda x: x[number, way])
    return replace(plan, labels=first.labels)


# hashes of episodes stand in documents and in results: they stay what they are when a field is called something else
_HASHED_AS = {"is_generated": "is_latent"}


def plan_hash(plan: EpisodePlan) -> str:
    """Return 16 hex digits of SHA-256 over everything that decides what the episodes look like."""
    digest = hashlib.sha256(f"{plan.n_shot}/{plan.period}".encode())
    parts = [(_HASHED_AS.get(name, name), getattr(plan, name)) for name in _WITH_TASK_AXIS]
    parts += [part for effect in plan.effects for part in effect.hashed]
    parts += [] if plan.support_weight is None else [("support_weight", plan.support_weight)]
    for name, tensor in [*parts, ("z", plan.z)]:
        digest.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class EpisodeBatch(Movable):
    """A meta-batch as images.

    Attributes:
        support_x: float32 `[task, way * shot, C, H, W]` in [0, 1].
        support_y: int64 `[task, way * shot]` in `[0, way)`.
        query_x, query_y: the same with `way * query` images.
        is_generated: bool `[task, way]`, by **label**: is the class with this label made up, none of the data's?
        support_weight: float32 `[task, way * shot]`, how much each support image counts in its class; None: all alike.
        first_task: place of the first task in the meta-batch that this is a part of.
        support_provenance: int8 `[task, way * shot]`, `REAL`, `REDRAWN` or `DECODED`, of each image of `support_x`;
            None: nothing is known. Not for predictions.
        query_provenance: the same of `query_x`.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    is_generated: Tensor
    support_weight: Tensor | None = None
    first_task: int = 0
    support_provenance: Tensor | None = None
    query_provenance: Tensor | None = None

    def __len__(self) -> int:
        return len(self.support_x)

    def __getitem__(self, tasks: slice) -> "EpisodeBatch":
        """Return the tasks of a slice of successive ones."""
        first, _, _ = tasks.indices(len(self))
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        parts: dict[str, Any] = {
            name: value[tasks] if isinstance(value, Tensor) else value for name, value in values.items()
        }
        return EpisodeBatch(**{**parts, "first_task": self.first_task + first})

    @property
    def n_way(self) -> int:
        """Classes of an episode."""
        return self.is_generated.shape[1]

    @property
    def query_is_generated(self) -> Tensor:
        """Bool `[task, way * query]`: is the class of the query image made up? Its image may be real."""
        return self.is_generated.gather(1, self.query_y)
