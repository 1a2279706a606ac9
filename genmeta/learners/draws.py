"""Random numbers inside a learner, without global state."""

import torch
from torch import Tensor, nn

from genmeta.rng import make_rng


class Draws(nn.Module):
    """Makes a generator for each training step.

    It follows from a count of the steps, a buffer that a checkpoint keeps, so that a resumed run draws what the whole
    run would have drawn, and from the labels, so that processes with different tasks draw differently.
    """

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, labels: Tensor) -> torch.Generator:
        """Return the next generator, on the CPU, for a step with these labels (int64, any shape)."""
        self.count += 1
        return make_rng("learner", int(self.count), labels.cpu().numpy().tobytes().hex())


def support_order(draws: Draws, support_y: Tensor, training: bool) -> Tensor:
    """Return an order of the support images of each task, int64 `[task, n]` for labels `[task, n]`.

    In training, a new one for each task and step. In evaluation, one that depends on `n` alone: an evaluation repeats
    exactly, no task depends on another, and shots do not come class by class, as training has never shown them.
    """
    n_tasks, n = support_y.shape
    if training:
        order = torch.rand(n_tasks, n, generator=draws(support_y)).argsort(1)
    else:
        order = torch.rand(n, generator=make_rng("support order", n)).argsort().expand(n_tasks, n)
    return order.to(support_y.device)
