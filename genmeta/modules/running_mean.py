"""A running mean of a network's weights, which generative models are sampled from."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def running_mean(network: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of a network whose weights and buffers follow it as `update_parameters` is called.

    Args:
        decay: what is kept of the mean at each step; less in the first ones.
    """
    mean = AveragedModel(network, multi_avg_fn=_moving_average(decay), use_buffers=True)
    return mean.requires_grad_(False)


def _moving_average(decay: float) -> Any:
    @torch.no_grad()
    def update(averages: Any, current: Any, n_averaged: Tensor) -> None:
        n = int(n_averaged)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, current, weight)
        else:  # batch norm's counter
            for average, value in zip(averages, current, strict=True):
                average.copy_(value)

    return update
