"""Meta-batches of real and generated episodes."""

from dataclasses import dataclass
from math import floor

import torch

from genmeta.episode import EpisodePlan, EpisodeShape, concatenate
from genmeta.errors import UserError
from genmeta.tasks.sampler import TaskPool, TaskSampler, shuffle_tasks


@dataclass(frozen=True)
class MixedTasks(TaskSampler):
    """A constant share of the tasks of the meta-batches is generated, the others are real.

    Where `n_tasks · share` is no whole number, the steps take turns so that the share is exact on average: after t
    steps `floor(t · n_tasks · share)` tasks have been generated. The order of tasks is shuffled, so that a rank's slice
    of the meta-batch is mixed like the whole.

    Args:
        real: draws the real episodes.
        latent: draws the generated ones.
        share: share of generated tasks, in [0, 1].
    """

    real: TaskSampler
    latent: TaskSampler
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"MixedTasks: share must be in [0, 1], found {self.share}")

    @property
    def uses_latents(self) -> bool:
        return self.share > 0

    @property
    def uses_turns(self) -> bool:
        return self.share < 1 and self.real.uses_turns

    @property
    def latent_share(self) -> float:
        return self.share

    def check(self, pool: TaskPool, shape: EpisodeShape) -> None:
        if self.share < 1:
            self.real.check(pool, shape)
        if self.share > 0:
            self.latent.check(pool, shape)

    def sample(self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, rng: torch.Generator) -> EpisodePlan:
        # the small number takes back what floating point loses of e.g. 10 · 0.1
        n_latent = floor((step + 1) * n_tasks * self.share + 1e-6) - floor(step * n_tasks * self.share + 1e-6)
        plans = [
            sampler.sample(pool, shape, n, step, rng)
            for sampler, n in ((self.real, n_tasks - n_latent), (self.latent, n_latent))
            if n
        ]
        return shuffle_tasks(concatenate(plans), torch.rand(n_tasks, generator=rng).argsort())
