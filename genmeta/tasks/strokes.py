"""Tasks of new characters, made of the strokes of real ones: classes of a topology that no real class has.

Deforming a character, or moving in a generator's latent space, makes few truly new classes. Here a character is a few
strokes and where each touches another (Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through
probabilistic program induction", Science 2015, whose strokes come from recorded pens; ours from thinned images, see
`genmeta.models.strokes`). A new class is a real character of which strokes were replaced, moved, mirrored, added or
removed, and the classes of a task are such near misses of one another. Its images differ as hands do: strokes bend,
grow, turn and shift a little, and what touches still does.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from genmeta.episode import DECODED, DECODER, EpisodePlan, EpisodeShape
from genmeta.errors import UserError
from genmeta.tasks.sampler import Need, Provenances, TaskPool, TaskSampler
from genmeta.tasks.sampling import draw_labels

N_STROKES = 4
"""Strokes of a character at most."""
N_POINTS = 16
"""Points of a stroke."""
CODE = N_STROKES * N_POINTS * 2 + 2
"""Numbers in the code of an image: the points of its strokes, how many of them count, and the pen's half width."""
_PEN = 0.75, 0.12  # mean and standard deviation of the pen's half width, in pixels of a 28-pixel image
_SIZE = 0.62  # half the extent of a character, as that of Omniglot's, in half widths of the image


@dataclass(frozen=True)
class Characters:
    """Characters as strokes, and what each stroke touches.

    A stroke begins at its own point 0; it is placed so that its point `own` lies at `offset` from point `on` of stroke
    `parent`, an earlier one. Strokes beyond `count` do not count.

    Attributes:
        paths: float32 `[n, stroke, point, 2]`, points less the first of the stroke, x before y, in half widths.
        count: int64 `[n]`, 1 to `N_STROKES`.
        parent, on, own: int64 `[n, stroke]`; without meaning for stroke 0.
        offset: float32 `[n, stroke, 2]`.
    """

    paths: Tensor
    count: Tensor
    parent: Tensor
    on: Tensor
    own: Tensor
    offset: Tensor

    def __len__(self) -> int:
        return len(self.count)

    def take(self, chosen: Tensor) -> "Characters":
        """Return some of them, copies, by int64 `[k]`."""
        return Characters(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @staticmethod
    def concatenate(parts: "list[Characters]") -> "Characters":
        """Return the characters of all parts, one after another."""
        return Characters(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Characters)))

    def placed(self, paths: Tensor, gaps: Tensor) -> Tensor:
        """Return the points of drawings, in the frame of stroke 0, `[n, m, stroke, point, 2]`.

        Args:
            paths: of `m` drawings of each character, `[n, m, stroke, point, 2]`, as `self.paths`.
            gaps: how far each stroke is from where it belongs, `[n, m, stroke, 2]`.
        """
        points, i = [paths[:, :, 0]], torch.arange(len(self))
        for s in range(1, N_STROKES):
            there = torch.stack(points, 2)[i, :, self.parent[:, s], self.on[:, s]]
            here = paths[i, :, s, self.own[:, s]]
            shift = there - here + self.offset[:, None, s] + gaps[:, :, s]
            points.append(paths[:, :, s] + shift[:, :, None])
        return torch.stack(points, 2)


def draw_characters(bank: Characters, n: int, rng: torch.Generator) -> Characters:
    """Return `n` of the bank's characters, whose uncounted strokes are those of others: what an edit may add."""
    made = bank.take(torch.randint(len(bank), (n,), generator=rng))
    other = torch.randint(len(bank), (n, N_STROKES), generator=rng)
    stroke = (torch.rand(n, N_STROKES, generator=rng) * bank.count[other]).long()
    spare = torch.arange(N_STROKES) >= made.count[:, None]
    made.paths[spare] = bank.paths[other, stroke][spare]
    made.parent[spare] = (torch.rand(n, N_STROKES, generator=rng) * torch.arange(N_STROKES)).long()[spare]
    for place, ends in ((made.on, 0.5), (made.own, 0.7)):  # strokes touch each other at their ends mostly
        place[spare] = _points(n, ends, rng)[spare]
    apart = (torch.rand(n, N_STROKES, generator=rng) < 0.2)[..., None] * 0.4
    made.offset[spare] = (apart * torch.randn(n, N_STROKES, 2, generator=rng))[spare]
    return made


def _points(n: int, ends: float, rng: torch.Generator) -> Tensor:
    """Return points of strokes, `[n, N_STROKES]`: a share `ends` of them is an end."""
    end = torch.randint(2, (n, N_STROKES), generator=rng) * (N_POINTS - 1)
    anywhere = torch.randint(N_POINTS, (n, N_STROKES), generator=rng)
    return torch.where(torch.rand(n, N_STROKES, generator=rng) < ends, end, anywhere)


def edited(characters: Characters, bank: Characters, rng: torch.Generator) -> Characters:
    """Return near misses: of each character one stroke is replaced, moved, removed, added or mirrored."""
    n, i = len(characters), torch.arange(len(characters))
    made, others = characters.take(i), draw_characters(bank, n, rng)
    edit = torch.randint(5, (n,), generator=rng)
    stroke = (torch.rand(n, generator=rng) * made.count).long()
    theirs = (torch.rand(n, generator=rng) * others.count).long()
    on, parent = torch.randint(N_POINTS, (n,), generator=rng), torch.rand(n, generator=rng)
    single, full = characters.count == 1, characters.count == N_STROKES

    replaced = (edit == 0) | (single & ((edit == 1) | (edit == 2)))
    moved, removed = ~single & (edit == 1), ~single & (edit == 2)
    added, mirrored = ~full & (edit == 3), (edit == 4) | (full & (edit == 3))
    made.paths[i[replaced], stroke[replaced]] = others.paths[i[replaced], theirs[replaced]]
    moving = stroke.clamp(min=1)  # the first one is where it is
    made.on[i[moved], moving[moved]] = on[moved]
    made.parent[i[moved], moving[moved]] = (parent * moving).long()[moved]
    made.count[removed] -= 1
    made.count[added] += 1
    made.paths[i[mirrored], stroke[mirrored]] *= torch.tensor([-1.0, 1.0])
    return made


@dataclass(frozen=True)
class StrokeTasks(TaskSampler):
    """Tasks of characters that are made of the strokes of the meta-train classes; any way, any shot.

    A few characters are edited into the ones that a task begins with, and these, one after another, into the others.

    Args:
        founders: share of the classes of a task that are no near miss of another, in (0, 1].
        bend: standard deviation of the smooth bending of a stroke from image to image, in half widths.
        stretch: of the entries of its linear map.
        gap: of its shift.

    Raises:
        UserError: a number is out of range.
    """

    founders: float = 0.4
    bend: float = 0.035
    stretch: float = 0.07
    gap: float = 0.035

    def __post_init__(self) -> None:
        if not 0 < self.founders <= 1 or min(self.bend, self.stretch, self.gap) < 0:
            raise UserError(
                f"StrokeTasks: founders must be in (0, 1], bend, stretch and gap at least 0; "
                f"found {self.founders}, {self.bend}, {self.stretch}, {self.gap}"
            )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"strokes"})

    @property
    def latent_range(self) -> tuple[float, float]:
        return 1.0, 1.0

    @property
    def provenances(self) -> Provenances:
        return Provenances(frozenset({DECODED}), frozenset({DECODED}))

    def check(self, pool: TaskPool, shape: EpisodeShape) -> None:
        if pool.strokes is None:
            raise UserError("StrokeTasks needs the strokes of the training images; it draws training tasks only")

    def sample(self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, rng: torch.Generator) -> EpisodePlan:
        assert pool.strokes is not None
        codes = torch.stack([self._task(pool.strokes, shape, rng) for _ in range(n_tasks)])
        of_image = (n_tasks, shape.n_way, shape.n_images)
        return EpisodePlan(
            n_shot=shape.n_shot,
            rows=torch.zeros(of_image, dtype=torch.long),
            turns=torch.randint(4, (n_tasks, 1), generator=rng).repeat(1, shape.n_way),  # as classes within a group
            labels=draw_labels(n_tasks, shape.n_way, rng),
            is_generated=torch.ones(n_tasks, shape.n_way, dtype=torch.bool),
            source=torch.full(of_image, DECODER, dtype=torch.int8),
            z=codes.flatten(0, 2),
        )

    def _task(self, bank: Characters, shape: EpisodeShape, rng: torch.Generator) -> Tensor:
        """Return the codes of a task's images, `[way, image, CODE]`."""
        n = max(1, round(shape.n_way * self.founders))
        made = edited(edited(draw_characters(bank, n, rng), bank, rng), bank, rng)
        while len(made) < shape.n_way:
            chosen = torch.randperm(len(made), generator=rng)[: shape.n_way - len(made)]
            made = Characters.concatenate([made, edited(made.take(chosen), bank, rng)])
        return self.drawn(made, shape.n_images, rng)

    def drawn(self, characters: Characters, m: int, rng: torch.Generator) -> Tensor:
        """Return the codes of `m` images of each character, `[n, m, CODE]`: all of a class in one scale."""
        n = len(characters)

        def normal(*shape: int) -> Tensor:
            return torch.randn(n, m, *shape, generator=rng)

        linear = torch.eye(2) + self.stretch * normal(N_STROKES, 2, 2)
        t = torch.linspace(0, torch.pi, N_POINTS)
        waves = torch.stack([t.sin(), (2 * t).sin(), t.cos()])
        bent = torch.einsum("nmskc,kp->nmspc", self.bend * normal(N_STROKES, 3, 2), waves)
        paths = characters.paths[:, None] @ linear.mT + bent
        points = characters.placed(paths, self.gap * normal(N_STROKES, 2))
        counts = (torch.arange(N_STROKES) < characters.count[:, None])[:, None, :, None, None]
        low = points.masked_fill(~counts, torch.inf).flatten(2, 3).amin(2)
        high = points.masked_fill(~counts, -torch.inf).flatten(2, 3).amax(2)
        extent = ((high - low) / 2).amax(2).mean(1).clamp(min=0.2)  # of a class
        fitted = (points - ((high + low) / 2)[:, :, None, None]) * (_SIZE / extent)[:, None, None, None, None]
        mean, spread = _PEN
        pen = (mean + spread * normal(1)).clamp(min=mean / 2)
        count = characters.count[:, None, None].expand(n, m, 1).to(pen.dtype)
        return torch.cat([fitted.flatten(2), count, pen], 2)
