"""Random numbers inside a learner, without global state."""

import torch
from torch import Tensor, nn

from genmeta.episode import EpisodeBatch
from genmeta.rng import make_rng


class Draws(nn.Module):
    """Makes a generator for each task of each training step.

    Its seed follows from three things. The number of steps is a buffer in the checkpoint, so a resumed run draws what
    the whole run would have drawn. The task's place in the meta-batch makes the number of processes irrelevant. The
    task's labels follow from the run's seed.
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

    In training each task and step has a new order. In evaluation the order depends only on `n`: an evaluation repeats
    exactly, and no task depends on another. The order is random there too, since training never has shots class by
    class.
    """
    n_tasks, n = batch.support_y.shape
    if training:
        order = torch.stack([torch.randperm(n, generator=rng) for rng in draws(batch)])
    else:
        order = torch.rand(n, generator=make_rng("support order", n)).argsort().expand(n_tasks, n)
    return order.to(batch.support_y.device)
