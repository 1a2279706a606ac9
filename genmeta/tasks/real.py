"""Episodes of real images."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from genmeta.episode import EpisodePlan, EpisodeShape
from genmeta.errors import UserError
from genmeta.tasks.sampler import Need, TaskPool, TaskSampler, check_ways
from genmeta.tasks.sampling import draw_distinct, draw_labels

Grouping = Literal["any", "within", "across"]


@dataclass(frozen=True)
class RealTasks(TaskSampler):
    """Distinct classes, distinct images of each, labels shuffled.

    A class turned by a quarter, or its mirror image, can be another class. All images of a class slot are turned alike.

    Args:
        rotations: also use every class turned by 90, 180 and 270 degrees as three more classes (Santoro et al.,
            "Meta-Learning with Memory-Augmented Neural Networks", ICML 2016). The turn belongs to the class, so one
            episode may hold a character upright and turned.
        groups: from which groups (alphabets, super-classes) the classes of one episode come. `any`: from all, whatever
            their group. `within`: all from one group, which is drawn uniformly from those that have n_way classes; the
            smaller groups are skipped (Lake et al., Science 2015, for their 20-way task). `across`: each from
            another group; groups are drawn uniformly, then one class of each.
            A turned or mirrored class belongs to its group turned alike, which counts as a group of its own. So all
            classes of an episode within one group are turned together: were each turned on its own, the turn would
            tell classes apart, and the episodes would be easier than the upright ones of the test.
        mirrors: also use the mirror image of every class (left and right exchanged) as another class; with `rotations`
            that makes eight of one.

    Raises:
        UserError: `groups` is none of the three.
    """

    rotations: bool = False
    groups: Grouping = "any"
    mirrors: bool = False

    def __post_init__(self) -> None:
        if self.groups not in get_args(Grouping):
            raise UserError(f"RealTasks: groups must be one of {', '.join(get_args(Grouping))}, found '{self.groups}'")

    @property
    def needs(self) -> frozenset[Need]:
        turns: frozenset[Need] = frozenset({"turns"} if self.rotations else ())
        return turns | {"mirrors"} if self.mirrors else turns

    @property
    def _n_turns(self) -> int:
        return (4 if self.rotations else 1) * (2 if self.mirrors else 1)

    def check(self, pool: TaskPool, shape: EpisodeShape) -> None:
        if self.groups == "within":
            sizes = pool.groups.sizes
            if shape.n_way > int(sizes[-1]):
                raise UserError(
                    f"n_way is {shape.n_way} within one group, but the largest of the {len(sizes)} groups has only "
                    f"{int(sizes[-1])} classes; n_way must be at most that"
                )
        elif self.groups == "across":
            check_ways(len(pool.groups.sizes) * self._n_turns, "groups for classes across groups", shape)
        else:
            check_ways(len(pool.counts) * self._n_turns, "classes", shape)
        pool.check_images(shape)

    def sample(self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, rng: torch.Generator) -> EpisodePlan:
        classes, turns = self.draw_classes(pool, shape.n_way, n_tasks, rng)
        images = draw_distinct(pool.counts[classes], shape.n_images, rng)
        return EpisodePlan.of_rows(
            shape.n_shot, pool.table_rows(classes, images), turns, draw_labels(n_tasks, shape.n_way, rng)
        )

    def draw_classes(self, pool: TaskPool, n_way: int, n_tasks: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return numbers of the pool's classes and their turns, both int64 `[task, way]`; no pair twice in a task."""
        draw = {"any": self._any_classes, "within": self._classes_within, "across": self._classes_across}[self.groups]
        classes, turns = draw(pool, n_way, n_tasks, rng)
        return classes, turns if self.rotations else 4 * turns  # 4 is the mirror image

    # each returns classes, and turns below _n_turns

    def _any_classes(self, pool: TaskPool, n_way: int, n_tasks: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = draw_distinct(torch.full((n_tasks,), len(pool.counts) * self._n_turns), n_way, rng)
        if self._n_turns == 1:
            return chosen, torch.zeros_like(chosen)
        return chosen // self._n_turns, chosen % self._n_turns

    def _classes_within(self, pool: TaskPool, n_way: int, n_tasks: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        groups = pool.groups
        first = int(torch.searchsorted(groups.sizes, n_way))
        chosen = torch.randint((len(groups.sizes) - first) * self._n_turns, (n_tasks,), generator=rng)
        group, turn = first + chosen // self._n_turns, chosen % self._n_turns
        picks = draw_distinct(groups.sizes[group], n_way, rng)
        return groups.classes[groups.starts[group][:, None] + picks], turn[:, None].repeat(1, n_way)

    def _classes_across(self, pool: TaskPool, n_way: int, n_tasks: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        groups = pool.groups
        chosen = draw_distinct(torch.full((n_tasks,), len(groups.sizes) * self._n_turns), n_way, rng)
        group = chosen // self._n_turns
        picks = (torch.rand(n_tasks, n_way, generator=rng, dtype=torch.float64) * groups.sizes[group]).long()
        return groups.classes[groups.starts[group] + picks], chosen % self._n_turns
