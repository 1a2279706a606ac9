"""Common code of learners that adapt by gradient descent: steps, tasks of a meta-batch, given meta-gradients."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Parameters = dict[str, Tensor]
Engine = Literal["auto", "loop", "vmap"]


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean over images of the cross-entropy of logits `[n, way]`; labels and weight are `[n]`."""
    return (F.cross_entropy(logits, labels, reduction="none") * weight).sum() / weight.sum()


def adapt(
    loss: Callable[..., Tensor],
    parameters: Parameters,
    lr: float | Parameters,
    steps: int,
    first_order: bool,
    data: Sequence[Tensor] = (),
    checkpoint: bool = False,
) -> Parameters:
    """Return the parameters after some steps of gradient descent on `loss(parameters, *data)`.

    Gradients of the result flow back to `parameters`, `lr` and `data`: through the steps (second order), or without the
    second derivatives of `loss` (first order). `torch.func.grad` works with gradients on, under `no_grad` and in
    inference mode. Steps are computed in the parameters' own precision even under autocast: with an inner loop in
    bfloat16 the second-order gradient has another direction (measured on a Conv4: cosine 0.92).

    Args:
        loss: of parameters and data, a scalar.
        parameters: the start.
        lr: learning rate, or one for each parameter that broadcasts to it.
        steps: number of steps.
        first_order: leave out the second derivatives.
        data: more tensors to which gradients should flow; with `checkpoint`, all tensors that `loss` uses.
        checkpoint: keep only the parameters of each step, and compute the step again in the backward pass: memory no
            longer grows by a network's activations with every step (Chen et al., "Training deep nets with sublinear
            memory cost", arXiv:1604.06174).
    """
    names = list(parameters)
    n = len(names)
    values = list(parameters.values())
    rates = [lr[name] for name in names] if isinstance(lr, dict) else values[0].new_full((n,), lr).unbind()
    device = values[0].device.type

    def step(*tensors: Tensor) -> tuple[Tensor, ...]:
        values, rates, rest = tensors[:n], tensors[n : 2 * n], tensors[2 * n :]
        at = dict(zip(names, values, strict=True))
        if first_order:  # record nothing: these gradients are not used
            at, rest = {name: v.detach() for name, v in at.items()}, tuple(x.detach() for x in rest)
        with torch.autocast(device, enabled=False):
            gradients = torch.func.grad(loss)(at, *rest)
        if first_order:
            gradients = {name: gradient.detach() for name, gradient in gradients.items()}
        return tuple(v - r * gradients[name] for name, v, r in zip(names, values, rates, strict=True))

    for _ in range(steps):
        tensors = (*values, *rates, *data)
        # in first order a step keeps almost nothing, so a checkpoint saves nothing
        values = _Recomputed.apply(step, *tensors) if checkpoint and not first_order else step(*tensors)  # type: ignore
    return dict(zip(names, values, strict=True))


class _Recomputed(torch.autograd.Function):
    """A function from tensors to a tuple of tensors that keeps only its inputs for the backward pass.

    `torch.utils.checkpoint` does not work with `torch.func`: it needs hooks that `torch.func.grad` refuses.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        return function(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.function = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        tensors = list(ctx.saved_tensors)
        places = [i for i, needed in enumerate(ctx.needs_input_grad[1:]) if needed]

        def of_needed(*values: Tensor) -> tuple[Tensor, ...]:
            everything = [*tensors]
            for place, value in zip(places, values, strict=True):
                everything[place] = value
            return ctx.function(*everything)

        _, pull_back = torch.func.vjp(of_needed, *(tensors[i] for i in places))  # type: ignore[misc]
        of_inputs: list[Tensor | None] = [None] * (len(tensors) + 1)
        for place, gradient in zip(places, pull_back(gradients), strict=True):
            of_inputs[place + 1] = gradient
        return tuple(of_inputs)


def chosen_engine(engine: Engine, device: torch.device) -> Literal["loop", "vmap"]:
    """Return the engine that `auto` means on a device: a loop on the CPU (measured: faster), `vmap` elsewhere."""
    if engine == "auto":
        return "loop" if device.type == "cpu" else "vmap"
    return engine


def over_tasks(
    task: Callable[..., tuple[Tensor, ...]], tensors: Sequence[Tensor], engine: Literal["loop", "vmap"], chunk: int
) -> tuple[Tensor, ...]:
    """Call `task` for each task of a meta-batch and stack the results.

    Args:
        task: function from the tensors of one task to a tuple of tensors.
        tensors: each with the task axis in front.
        engine: one task after the other, or `torch.func.vmap`.
        chunk: number of tasks that `vmap` computes together.
    """
    if engine == "loop":
        results = [task(*one) for one in zip(*tensors, strict=True)]
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return torch.func.vmap(task, chunk_size=chunk, randomness="different")(*tensors)


def with_gradient(value: Tensor, parameters: Mapping[str, Tensor], gradient: Mapping[str, Tensor]) -> Tensor:
    """Return a scalar that equals `value` and whose gradient with respect to `parameters` is `gradient`.

    For learners whose meta-gradient is not the derivative of their output (Reptile, implicit MAML), and for gradients
    that were computed in parts.
    """
    pairing = torch.stack([(parameters[name] * gradient[name].detach()).sum() for name in parameters]).sum()
    return value.detach() + pairing - pairing.detach()
