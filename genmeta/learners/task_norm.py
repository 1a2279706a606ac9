"""Batch norm over the images of one task, with statistics of all of them or of the support images alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

QueryStatistics = Literal["batch", "support"]
"""What batch norm without running statistics normalises query images with.

`batch`: mean and variance of the query images of the task, which are classified together (transductive, as in MAML's
reference code). `support`: those of the support images as the adapted network sees them, so that the prediction for a
query image does not depend on the other query images (inductive). Group norm is inductive in either case.
"""


class TaskBatchNorm(_BatchNorm):
    """Batch norm without running statistics (Ioffe and Szegedy, ICML 2015, algorithm 1).

    Attributes:
        n_reference: mean and variance are those of so many images, the first ones; None: of all.
        by_hand: compute with plain operations, since `vmap` over torch's own batch norm gives silently wrong second
            derivatives (3e-2 of 0.5 on a Conv4). On a CPU they take half as long again, so that a loop does not.
    """

    n_reference: int | None = None
    by_hand: bool = False

    @classmethod
    def like(cls, layer: _BatchNorm) -> "TaskBatchNorm":
        """Return a layer that has the parameters of another one."""
        made = cls(layer.num_features, layer.eps, affine=layer.affine, track_running_stats=False)
        made.weight, made.bias = layer.weight, layer.bias
        return made

    def forward(self, input: Tensor) -> Tensor:
        if self.n_reference is None and not self.by_hand:
            return super().forward(input)
        others = [0, *range(2, input.ndim)]
        variance, mean = torch.var_mean(input[: self.n_reference], others, correction=0, keepdim=True)
        scale = (variance + self.eps).rsqrt()
        if self.weight is None:
            return (input - mean) * scale
        along = (1, -1, *(1,) * (input.ndim - 2))
        return (input - mean) * (scale * self.weight.view(along)) + self.bias.view(along)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""


def use_task_norm(network: nn.Module) -> None:
    """Put a `TaskBatchNorm` of the same parameters and name in the place of each batch norm inside a network."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, TaskBatchNorm.like(child))


def compute_by_hand(network: nn.Module, by_hand: bool) -> None:
    """Say to each `TaskBatchNorm` of a network whether to use plain operations."""
    for layer in network.modules():
        if isinstance(layer, TaskBatchNorm):
            layer.by_hand = by_hand


@contextmanager
def statistics_of_first(network: nn.Module, n_images: int) -> Iterator[None]:
    """Within it, batch norm uses mean and variance of the first images of the batch."""
    layers = [layer for layer in network.modules() if isinstance(layer, TaskBatchNorm)]
    for layer in layers:
        layer.n_reference = n_images
    try:
        yield
    finally:
        for layer in layers:
            layer.n_reference = None
