"""MAML of fully-connected networks without a copy of the weights for each task."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch
from genmeta.errors import UserError
from genmeta.learners.maml import MAML
from genmeta.learners.task_norm import TaskBatchNorm

Values = dict[str, Tensor]


class LowRankMAML(MAML):
    """MAML of a fully-connected network, all tasks of a meta-batch at once: the same results, several times as fast.

    The gradient of a linear layer's weights W for n support images is dZᵀA, with its inputs A `[n, d_in]` and the
    loss's gradient dZ `[n, d_out]` with respect to its outputs: of rank n, a few for one-shot tasks. An adapted layer
    is x(W - lr·dZᵀA)ᵀ = xWᵀ - lr·(xAᵀ)dZ: one product with the weights that all tasks share, and a small correction.

    Args:
        args, kwargs: those of `MAML`; `engine` and `chunk` change nothing; `checkpoint` is refused.

    Raises:
        UserError: as in `MAML`; or the backbone is more than an `nn.Sequential` of linear layers, batch norm, ReLU and
            flattening (`genmeta.models.fully_connected.FullyConnected` is one).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.checkpoint:
            raise UserError("LowRankMAML keeps little of each step: leave checkpoint at false")
        for module in self.network.modules():
            if not isinstance(module, nn.Sequential | nn.Flatten | nn.Linear | TaskBatchNorm | nn.ReLU):
                raise UserError(
                    "LowRankMAML needs a backbone of linear layers, batch norm and ReLU in an nn.Sequential; found "
                    f"{type(module).__name__}; use MAML"
                )
        self.layers = [(n, m) for n, m in self.network.named_modules() if not isinstance(m, nn.Sequential)]

    def forward(self, batch: EpisodeBatch) -> Tensor:
        support_x, y = batch.support_x, batch.support_y
        weight = torch.ones_like(y, dtype=support_x.dtype) if batch.support_weight is None else batch.support_weight
        weight = weight / weight.sum(1, keepdim=True)
        inputs: dict[str, list[Tensor]] = {}  # A of each linear layer and step
        changes: dict[str, list[Tensor]] = {}  # -lr·dZ of the same
        norms = {
            f"{name}.{part}": value.expand(len(y), 1, -1)
            for name, layer in self.layers
            if isinstance(layer, TaskBatchNorm)
            for part, value in layer.named_parameters()
        }

        def loss(moved: Values) -> tuple[Tensor, Values]:
            logits, seen = self.run(support_x, {**norms, **moved}, inputs, changes)
            return (F.cross_entropy(logits.mT, y, reduction="none") * weight).sum(), seen

        for _ in range(self.n_steps):
            # with respect to a zero added to a linear layer's outputs the gradient is dZ
            offsets = {
                name: support_x.new_zeros(*y.shape, layer.out_features)
                for name, layer in self.layers
                if isinstance(layer, nn.Linear)
            }
            with torch.autocast(support_x.device.type, enabled=False):
                gradients, seen = torch.func.grad(loss, has_aux=True)({**norms, **offsets})
            if self.first_order:
                gradients, seen = ({n: v.detach() for n, v in values.items()} for values in (gradients, seen))
            for name in offsets:
                inputs.setdefault(name, []).append(seen[name])
                changes.setdefault(name, []).append(-self.inner_lr * gradients[name])
            norms = {name: value - self.inner_lr * gradients[name] for name, value in norms.items()}
        if self.query_statistics == "batch":
            return self.run(batch.query_x, norms, inputs, changes)[0]
        n_support = y.shape[1]
        return self.run(torch.cat([support_x, batch.query_x], 1), norms, inputs, changes, n_support)[0][:, n_support:]

    def run(
        self,
        x: Tensor,
        values: Values,
        inputs: dict[str, list[Tensor]],
        changes: dict[str, list[Tensor]],
        n_reference: int | None = None,
    ) -> tuple[Tensor, Values]:
        """Return logits `[task, n, way]` of images, and what went into each linear layer, `[task, n, d_in]`.

        Args:
            x: `[task, n, C, H, W]`.
            values: weight and bias `[task, 1, d]` of each batch norm by name; under a linear layer's name what is added
                to its outputs, if anything.
            inputs, changes: of each linear layer, A and -lr·dZ of each step so far.
            n_reference: batch norm uses the first images' statistics, so many of each task; None: all images'.
        """
        x, seen = x.flatten(2), {}
        for name, layer in self.layers:
            if isinstance(layer, nn.Linear):
                seen[name] = x
                # in two dimensions: else the weights' gradient is made for each task and summed
                z = layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
                if name in inputs:  # the bias is the weight of an input of 1
                    change = torch.cat(changes[name], 1)
                    z = z + (x @ torch.cat(inputs[name], 1).mT) @ change + change.sum(1, keepdim=True)
                x = z + values[name] if name in values else z
            elif isinstance(layer, TaskBatchNorm):
                x = x - x[:, :n_reference].mean(1, keepdim=True)
                variance = x[:, :n_reference].square().mean(1, keepdim=True)  # torch.var_mean takes ten times as long
                x = x * ((variance + layer.eps).rsqrt() * values[f"{name}.weight"]) + values[f"{name}.bias"]
            elif isinstance(layer, nn.ReLU):
                x = x.relu()
        return x, seen
