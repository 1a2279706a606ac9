"""Random numbers inside a learner, without global state."""

import torch
from torch import Tensor, nn

from genmeta.episode import EpisodeBatch
from genmeta.rng import make_rng


class Draws(nn.Module):
    """Makes a generator for each task of each training step.

    It follows from a count of the steps, a buffer that a checkpoint keeps, so that a resumed run draws what the whole
    run would have drawn, from the task's place in the meta-batch, so that it does not matter how many processes share
    the meta-batch, and from its labels, which follow from the run's seed.
    """

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: EpisodeBatch) -> list[torch.Generator]:
        """Return the next generators, on the CPU, one for each task."""
        self.count += 1
        labels = batch.support_y.cpu().numpy()
        return [
            make_rng("learner", int(self.count), batch.first_task + task, of_task.tobytes().hex())
            for task, of_task in enumerate(labels)
        ]


def support_order(draws: Draws, batch: EpisodeBatch, training: bool) -> Tensor:
    """Return an order of the support images of each task, int64 `[task, n]`.

    In training, a new one for each task and step. In evaluation, one that depends on `n` alone: an evaluation repeats
    exactly, no task depends on another, and shots do not come class by class, as training has never shown them.
    """
    n_tasks, n = batch.support_y.shape
    if training:
        order = torch.stack([torch.randperm(n, generator=rng) for rng in draws(batch)])
    else:
        order = torch.rand(n, generator=make_rng("support order", n)).argsort().expand(n_tasks, n)
    return order.to(batch.support_y.device)
