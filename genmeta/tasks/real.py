"""Episodes of real images."""

from dataclasses import dataclass

import torch

from genmeta.episode import EpisodePlan, EpisodeShape
from genmeta.errors import UserError
from genmeta.tasks.sampler import TaskPool, TaskSampler, check_ways, draw_distinct, draw_labels


@dataclass(frozen=True)
class RealTasks(TaskSampler):
    """Distinct classes, distinct images of each, labels shuffled.

    Args:
        rotations: also use every class turned by 90, 180 and 270 degrees as three more classes (Santoro et al.,
            "Meta-Learning with Memory-Augmented Neural Networks", ICML 2016). The turn belongs to the class, so one
            episode may hold a character upright and turned.
    """

    rotations: bool = False

    def check(self, pool: TaskPool, shape: EpisodeShape) -> None:
        check_ways(len(pool.counts) * (4 if self.rotations else 1), "classes", shape)
        smallest = int(pool.counts.min())
        if shape.n_images > smallest:
            raise UserError(
                f"n_shot + n_query is {shape.n_shot} + {shape.n_query} = {shape.n_images}, "
                f"but the smallest class has {smallest} images; the sum must be at most that"
            )

    def sample(self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, rng: torch.Generator) -> EpisodePlan:
        turns_of_a_class = 4 if self.rotations else 1
        n_classes = torch.full((n_tasks,), len(pool.counts) * turns_of_a_class)
        chosen = draw_distinct(n_classes, shape.n_way, rng)
        classes, turns = chosen // turns_of_a_class, chosen % turns_of_a_class
        images = draw_distinct(pool.counts[classes], shape.n_images, rng)
        return EpisodePlan(
            n_shot=shape.n_shot,
            rows=pool.table_rows(classes, images),
            turns=turns,
            labels=draw_labels(n_tasks, shape.n_way, rng),
            is_latent=torch.zeros(n_tasks, shape.n_way, dtype=torch.bool),
            z=torch.empty(0, shape.n_images, pool.latent_dim),
        )
