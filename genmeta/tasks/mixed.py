"""Meta-batches of real and generated episodes, or of episodes with real and generated classes."""

from dataclasses import dataclass
from typing import Literal

import torch

from genmeta.episode import EpisodePlan, EpisodeShape, choose_slots, concatenate
from genmeta.errors import UserError
from genmeta.tasks.sampler import Need, Provenances, TaskPool, TaskSampler
from genmeta.tasks.sampling import argsort_rows, split_evenly
from genmeta.tasks.share import Constant, Share


@dataclass(frozen=True)
class MixedTasks(TaskSampler):
    """A share of the tasks, or of the class slots of every task, is of `latent`, the others are of `real`.

    Where that is no whole number, the steps take turns so that the share is exact on average: after t steps
    `floor(n · (sum of shares))` of the `n` a step has been generated. The order of tasks is shuffled, so that a rank's
    slice of the meta-batch is mixed like the whole.

    Args:
        real: draws the real episodes.
        latent: draws the generated ones.
        share: of generated tasks or slots, in [0, 1], or a schedule of it.
        per: `task`: a task is generated or real as a whole; `class`: hybrid tasks, in which some classes are generated
            (as many in each, but for one), and the others real.
    """

    real: TaskSampler
    latent: TaskSampler
    share: float | Share = 0.5
    per: Literal["task", "class"] = "task"

    def __post_init__(self) -> None:
        if isinstance(self.share, int | float) and not 0 <= self.share <= 1:
            raise UserError(f"MixedTasks: share must be in [0, 1], found {self.share}")
        if self.per not in ("task", "class"):
            raise UserError(f"MixedTasks: per must be task or class, found '{self.per}'")

    @property
    def schedule(self) -> Share:
        """The share as a schedule."""
        return self.share if isinstance(self.share, Share) else Constant(self.share)

    @property
    def _used(self) -> dict[str, TaskSampler]:
        low, high = self.schedule.range
        return {name: part for name, part in self.parts.items() if (low < 1 if name == "real" else high > 0)}

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset().union(*(part.needs for part in self._used.values()))

    @property
    def latent_range(self) -> tuple[float, float]:
        (low, high), parts = self.schedule.range, (self.real.latent_range, self.latent.latent_range)
        ends = [
            share * of_latent + (1 - share) * of_real
            for share in (low, high)
            for of_real, of_latent in zip(*parts, strict=True)
        ]
        return min(ends), max(ends)

    @property
    def provenances(self) -> Provenances:
        return Provenances.of_any([part.provenances for part in self._used.values()])

    def prepared(self, pool: TaskPool) -> "MixedTasks":
        made = {name: part.prepared(pool) for name, part in self._used.items()}
        return MixedTasks(**{"real": self.real, "latent": self.latent, **made}, share=self.share, per=self.per)

    def check(self, pool: TaskPool, shape: EpisodeShape) -> None:
        for part in self._used.values():
            part.check(pool, shape)

    def sample(self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, rng: torch.Generator) -> EpisodePlan:
        before, after = self.schedule.until(step), self.schedule.until(step + 1)
        if self.per == "class":
            return self._hybrid(pool, shape, n_tasks, step, split_evenly(before, after, n_tasks * shape.n_way), rng)
        n_latent = split_evenly(before, after, n_tasks)
        plans = [
            sampler.sample(pool, shape, n, step, rng)
            for sampler, n in ((self.real, n_tasks - n_latent), (self.latent, n_latent))
            if n
        ]
        return concatenate(plans).take(torch.rand(n_tasks, generator=rng).argsort())

    def _hybrid(
        self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, n_latent: int, rng: torch.Generator
    ) -> EpisodePlan:
        if n_latent == 0:
            return self.real.sample(pool, shape, n_tasks, step, rng)
        if n_latent == n_tasks * shape.n_way:
            return self.latent.sample(pool, shape, n_tasks, step, rng)
        real = self.real.sample(pool, shape, n_tasks, step, rng)
        latent = self.latent.sample(pool, shape, n_tasks, step, rng)
        each, more = divmod(n_latent, n_tasks)
        n_of_task = torch.full((n_tasks,), each)
        n_of_task[torch.randperm(n_tasks, generator=rng)[:more]] += 1
        rank = argsort_rows(torch.rand(n_tasks, shape.n_way, generator=rng))
        return choose_slots(real, latent, rank < n_of_task[:, None])
