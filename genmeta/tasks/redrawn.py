"""Other instances of an image: drawn again (a learned latent of deformations), or deformed at random.

A `Redrawer` learns from pairs of images of a class how the second differs from the first (`genmeta.models.redraw`);
with a code of its prior it draws *any* image again, of a class that it has never seen too. So one support image can
become many. `Elastic` deformation without learning is the control beside it.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from genmeta.episode import REAL, REDRAWN, EpisodePlan, EpisodeShape
from genmeta.errors import UserError
from genmeta.tasks.effects import Deformation, Redrawing
from genmeta.tasks.elastic import Elastic
from genmeta.tasks.sampler import Need, Provenances, TaskPool, TaskSampler
from genmeta.tasks.sampling import draw_distinct, draw_labels, draw_turns, exact_share


@dataclass(frozen=True)
class Redraw:
    """How images are drawn again.

    Args:
        learned: scale of the codes of `data.redrawer`, whose prior is N(0, I): 1 draws from it, 0 uses none.
        elastic: deformation at random on top, or in its place.

    Raises:
        UserError: neither is used.
    """

    learned: float = 1.0
    elastic: Elastic | None = None

    def __post_init__(self) -> None:
        if self.learned < 0 or (self.learned == 0 and self.elastic is None):
            raise UserError(
                f"Redraw: learned must be at least 0, and above 0 unless elastic is given; found {self.learned}"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """What plans that draw images again ask for."""
        return frozenset({"redrawer"} if self.learned else ())

    def check(self, pool: TaskPool) -> None:
        """Raise UserError if there is no redrawer, but one is needed."""
        if self.learned and not pool.redraw_dim:
            raise UserError("drawing images again needs a model for it, but data.redrawer is not set")

    def draw(self, plan: EpisodePlan, redrawn: Tensor, pool: TaskPool, rng: torch.Generator) -> EpisodePlan:
        """Return the plan with codes for the images that are `redrawn` (bool `[task, way, image]`)."""
        if self.learned:
            codes = self.learned * torch.randn(*redrawn.shape, pool.redraw_dim, generator=rng)
            before = plan.effect(Redrawing)
            others = torch.full_like(codes, torch.nan) if before is None else before.redraw_codes
            plan = plan.having(Redrawing(torch.where(redrawn[..., None], codes, others)))
        if self.elastic:
            plan = Deformation.added(plan, self.elastic.draw(*redrawn.shape, rng=rng) * redrawn[..., None])
        return plan


@dataclass(frozen=True)
class _WithRedraw(TaskSampler):
    """Tasks of another sampler, some of whose images are drawn again."""

    tasks: TaskSampler
    redraw: Redraw

    @property
    def needs(self) -> frozenset[Need]:
        return self.tasks.needs | self.redraw.needs

    def check(self, pool: TaskPool, shape: EpisodeShape) -> None:
        self.redraw.check(pool)
        super().check(pool, shape)


@dataclass(frozen=True)
class RedrawnTasks(_WithRedraw):
    """Tasks whose images are drawn again, each with codes of its own: more instances of the same classes.

    Args:
        tasks: draws the tasks.
        redraw: how images are drawn again.
        share: of the images of `which`, in [0, 1]; with 0 no redrawer is needed.
        which: `all` images, or only `support` or `query`.
    """

    share: float = 1.0
    which: Literal["all", "support", "query"] = "all"

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs if self.share else self.tasks.needs

    def check(self, pool: TaskPool, shape: EpisodeShape) -> None:
        if self.share:
            super().check(pool, shape)
        else:  # whatever would draw them again
            TaskSampler.check(self, pool, shape)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"RedrawnTasks: share must be in [0, 1], found {self.share}")
        if self.which not in ("all", "support", "query"):
            raise UserError(f"RedrawnTasks: which must be all, support or query, found '{self.which}'")

    @property
    def provenances(self) -> Provenances:
        of_tasks = self.tasks.provenances
        return of_tasks.with_some(REDRAWN, {REAL}, self.share, self.which) if self.redraw.learned else of_tasks

    def sample(self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, rng: torch.Generator) -> EpisodePlan:
        plan = self.tasks.sample(pool, shape, n_tasks, step, rng)
        if not self.share:
            return plan
        redrawn = torch.zeros(plan.rows.shape, dtype=torch.bool)
        some = {"all": slice(None), "support": slice(plan.n_shot), "query": slice(plan.n_shot, None)}[self.which]
        redrawn[..., some] = exact_share(tuple(redrawn[..., some].shape), self.share, step, rng)
        return self.redraw.draw(plan, redrawn, pool, rng)


@dataclass(frozen=True)
class RedrawnSupport(_WithRedraw):
    """Tasks with more support images: each real one, and `n` versions of it, drawn again.

    In training, or at meta-test with the one image that a class has. A prototype is then `(1 - weight)` of the mean of
    the real images' embeddings and `weight` of that of the generated ones'.

    Args:
        tasks: draws the tasks.
        redraw: how images are drawn again.
        n: generated images for each support image.
        weight: share of the generated images in a class's prototype, in [0, 1].
    """

    n: int = 30
    weight: float = 0.7

    def __post_init__(self) -> None:
        if self.n < 1 or not 0 <= self.weight <= 1:
            raise UserError(f"RedrawnSupport: n must be at least 1 and weight in [0, 1]; found {self.n}, {self.weight}")

    @property
    def provenances(self) -> Provenances:
        of_tasks = self.tasks.provenances
        share = self.n / (self.n + 1)  # of the support images
        return of_tasks.with_some(REDRAWN, {REAL}, share, "support") if self.redraw.learned else of_tasks

    def sample(self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, rng: torch.Generator) -> EpisodePlan:
        plan = self.tasks.sample(pool, shape, n_tasks, step, rng)
        support, query = torch.arange(shape.n_shot), torch.arange(shape.n_shot, shape.n_images)
        # the real ones first, then n of each
        images = torch.cat([support, support.repeat_interleave(self.n), query])
        n_support = shape.n_shot * (1 + self.n)
        plan = plan.take_images(images, n_support)
        redrawn = torch.zeros(plan.rows.shape, dtype=torch.bool)
        redrawn[..., shape.n_shot : n_support] = True
        generated = redrawn[..., :n_support].float()
        weight = generated * self.weight / self.n + (1 - generated) * (1 - self.weight)
        return replace(self.redraw.draw(plan, redrawn, pool, rng), support_weight=weight)


@dataclass(frozen=True)
class SingleImageTasks(TaskSampler):
    """Tasks of classes that are one image each: all images of a slot are the same, to be told apart by who wraps this.

    With `RedrawnTasks(which="query")` it is UMTRA (Khodadadeh, Bölöni and Shah, NeurIPS 2019): N random images are N
    classes, the query is an augmented copy. Labels are not used: two of the images may be of one class.

    Args:
        rotations: turn each class by 0, 90, 180 or 270 degrees.
        mirrors: draw the mirror image of half of the classes (left and right exchanged).
    """

    rotations: bool = False
    mirrors: bool = False

    @property
    def needs(self) -> frozenset[Need]:
        turns: frozenset[Need] = frozenset({"turns"} if self.rotations else ())
        return turns | {"mirrors"} if self.mirrors else turns

    @property
    def latent_range(self) -> tuple[float, float]:
        return 1.0, 1.0

    def check(self, pool: TaskPool, shape: EpisodeShape) -> None:
        if shape.n_way > len(pool.all_rows):
            raise UserError(f"n_way is {shape.n_way}, but there are only {len(pool.all_rows)} images")

    def sample(self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, rng: torch.Generator) -> EpisodePlan:
        rows = pool.all_rows
        chosen = rows[draw_distinct(torch.full((n_tasks,), len(rows)), shape.n_way, rng)]
        turns = draw_turns(n_tasks, shape.n_way, self.rotations, rng)
        if self.mirrors:
            turns = turns + 4 * torch.randint(2, turns.shape, generator=rng)
        repeated = chosen[..., None].repeat(1, 1, shape.n_images)
        return EpisodePlan.of_rows(shape.n_shot, repeated, turns, draw_labels(n_tasks, shape.n_way, rng), latent=True)


@dataclass(frozen=True)
class DeformedClasses(TaskSampler):
    """Tasks of new classes: real ones, all images of a class deformed alike. Plain augmentation as new classes.

    Args:
        tasks: draws the tasks.
        elastic: how strongly a class is deformed.
    """

    tasks: TaskSampler
    elastic: Elastic

    @property
    def latent_range(self) -> tuple[float, float]:
        return 1.0, 1.0

    def sample(self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, rng: torch.Generator) -> EpisodePlan:
        plan = self.tasks.sample(pool, shape, n_tasks, step, rng)
        of_class = self.elastic.draw(n_tasks, shape.n_way, 1, rng=rng).expand(-1, -1, plan.rows.shape[2], -1)
        return replace(Deformation.added(plan, of_class.clone()), is_generated=torch.ones_like(plan.is_generated))
