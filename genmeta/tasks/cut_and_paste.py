"""New classes out of halves of real ones: the control for characters that are generated, without anything learned."""

from dataclasses import dataclass

import torch

from genmeta.episode import EpisodePlan, EpisodeShape
from genmeta.tasks.effects import Pasting
from genmeta.tasks.real import RealTasks
from genmeta.tasks.sampler import TaskPool
from genmeta.tasks.sampling import draw_distinct, draw_labels


@dataclass(frozen=True)
class CutAndPasteTasks(RealTasks):
    """Tasks of new classes: the left half of one real class beside the right half of another, or top above bottom.

    The classes of a task are drawn as by `RealTasks`, turned and mirrored ones too. Each lends its left (or upper) half
    to one new class and its right (or lower) half to another, so that no half is in a task twice unless one is cut
    upright and the other across. Both are of one group where the task is within one. They are joined hand by hand: the
    i-th image of a class goes with the i-th of the other, which in data sets that are sorted by drawer is the same
    drawer's, and so on both sides of the cut are one pen and one slant.
    """

    @property
    def latent_range(self) -> tuple[float, float]:
        return 1.0, 1.0

    def sample(self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, rng: torch.Generator) -> EpisodePlan:
        classes, turns = self.draw_classes(pool, shape.n_way, n_tasks, rng)
        # the other half is of the class so many slots further on, never of the same one
        ahead = torch.randint(1, shape.n_way, (n_tasks, 1), generator=rng)
        partner = (torch.arange(shape.n_way) + ahead) % shape.n_way
        others = classes.gather(1, partner)
        images = draw_distinct(torch.minimum(pool.counts[classes], pool.counts[others]), shape.n_images, rng)
        plan = EpisodePlan.of_rows(
            shape.n_shot, pool.table_rows(classes, images), turns, draw_labels(n_tasks, shape.n_way, rng), latent=True
        )
        below = torch.rand(n_tasks, shape.n_way, generator=rng) < 0.5
        return plan.having(Pasting(pool.table_rows(others, images), turns.gather(1, partner), below))
