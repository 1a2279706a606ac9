"""Generated episodes that are rendered once and used several times."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from genmeta.episode import BANK, EpisodeBatch, EpisodePlan, EpisodeShape
from genmeta.errors import UserError
from genmeta.tasks.sampler import Provenances, TaskPool, TaskSampler
from genmeta.tasks.sampling import argsort_rows, draw_distinct, draw_labels

CHUNK = 20  # episodes of a bank that are rendered at a time, for the memory's sake


@dataclass(frozen=True)
class BankedTasks(TaskSampler):
    """Tasks from a bank of rendered episodes, which is filled anew every so many steps.

    A decoded image costs many times a real one; in the bank, as uint8 on the device, it costs the same. An episode of
    the bank comes with its own classes, so that it is one that `tasks` could have drawn; labels, and which images are
    support images, are drawn anew each time. What is in the bank at step t is a pure function of (seed, t // refresh).

    Args:
        tasks: draws the episodes; all of their classes are generated, or none is.
        episodes: in the bank. An episode comes up `refresh · share · tasks_per_step / episodes` times on average.
        refresh: steps after which the bank is filled anew.
    """

    tasks: TaskSampler
    episodes: int = 100
    refresh: int = 1000

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.refresh < 1:
            raise UserError(
                f"BankedTasks: episodes and refresh must be at least 1; found {self.episodes}, {self.refresh}"
            )
        low, high = self.tasks.latent_range
        if low != high or high not in (0.0, 1.0) or any(isinstance(part, BankedTasks) for part in self.tasks.walk()):
            raise UserError(
                "BankedTasks: the tasks in a bank must be all generated or all real, and not themselves from a bank; "
                "put the bank inside of MixedTasks, not around it"
            )

    @property
    def provenances(self) -> Provenances:
        of_any = frozenset().union(self.tasks.provenances.support, self.tasks.provenances.query)
        return Provenances(of_any, of_any)  # which images are support images is drawn anew

    def fill(self, pool: TaskPool, shape: EpisodeShape, period: int, rng: torch.Generator) -> EpisodePlan:
        """Return the plan of the episodes in the bank during a period; rows of the bank are its images in order."""
        return self.tasks.sample(pool, shape, self.episodes, period * self.refresh, rng)

    def sample(self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, rng: torch.Generator) -> EpisodePlan:
        if n_tasks <= self.episodes:
            episode = draw_distinct(torch.tensor(self.episodes), n_tasks, rng)
        else:
            episode = torch.randint(self.episodes, (n_tasks,), generator=rng)
        slots = argsort_rows(torch.rand(n_tasks, shape.n_way, generator=rng))
        images = argsort_rows(torch.rand(n_tasks, shape.n_way, shape.n_images, generator=rng))
        rows = ((episode[:, None] * shape.n_way + slots) * shape.n_images)[..., None] + images
        return EpisodePlan(
            n_shot=shape.n_shot,
            rows=rows,
            turns=torch.zeros(n_tasks, shape.n_way, dtype=torch.long),
            labels=draw_labels(n_tasks, shape.n_way, rng),
            is_generated=torch.full((n_tasks, shape.n_way), bool(self.tasks.latent_range[1])),
            source=torch.full(rows.shape, BANK, dtype=torch.int8),
            z=torch.empty(0, 0),
            period=step // self.refresh,
        )


@dataclass(frozen=True)
class Bank:
    """What is in a bank during a period.

    Attributes:
        period: which filling it is.
        images: uint8 `[n, C, H, W]`.
        provenance: of each of them, int8 `[n]`.
    """

    period: int
    images: Tensor
    provenance: Tensor

    @classmethod
    def rendered(
        cls,
        period: int,
        plan: EpisodePlan,
        render: Callable[[EpisodePlan], EpisodeBatch],
        device: torch.device,
        bfloat16: bool = False,
    ) -> "Bank":
        """Return the images of the plan of a period (`BankedTasks.fill`).

        Args:
            period: which filling it is.
            plan: on the CPU.
            render: renders a plan on `device`.
            device: where to.
            bfloat16: let the networks run in it: what they draw is rounded to 8 bits anyway.
        """
        parts = []
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            for first in range(0, len(plan), CHUNK):
                batch = render(plan[first : first + CHUNK].to(device))
                size = (len(batch), batch.n_way, -1, *batch.support_x.shape[2:])
                by_slot = [x.view(size) for x in (batch.support_x, batch.query_x)]
                parts.append((torch.cat(by_slot, 2).flatten(0, 2) * 255).round().to(torch.uint8))
        return cls(period, torch.cat(parts), plan.provenance().flatten().to(device))

    def is_of(self, period: int, device: torch.device) -> bool:
        """Whether it is the filling of a period, on a device."""
        return self.period == period and self.images.device == device
