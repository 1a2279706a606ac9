"""Searches for the lowest energy of many codes at once: pure functions of tensors, no optimiser objects."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Adam:
    """Kingma and Ba, "Adam", ICLR 2015, algorithm 1, of a tensor that is given back changed.

    Args:
        like: a tensor of the shape that is searched.
    """

    def __init__(self, like: Tensor) -> None:
        self.t, self.m, self.v = 0, torch.zeros_like(like), torch.zeros_like(like)

    def step(self, place: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Return the place after a step of at most about `size` in each coordinate."""
        self.t += 1
        self.m, self.v = 0.9 * self.m + 0.1 * gradient, 0.99 * self.v + 0.01 * gradient.square()
        return place - size * (self.m / (1 - 0.9**self.t)) / ((self.v / (1 - 0.99**self.t)).sqrt() + 1e-8)


class Around(NamedTuple):
    """An energy around places `[n, k]`, to second order.

    Attributes:
        energy: `[n]`.
        gradient: `[n, k]`.
        curvature: `[n, k, k]`, positive definite: the Hessian, or Gauss's and Newton's approximation of it.
    """

    energy: Tensor
    gradient: Tensor
    curvature: Tensor


def gauss_newton(
    around: Callable[[Tensor], Around],
    energy: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    damping: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return the best places `[n, k]` that at least one step from `start` finds, and their energies `[n]`.

    Levenberg and Marquardt's: a step solves the quadratic model with `damping` added to its diagonal, which falls to a
    third where the energy fell, and grows fourfold where it did not; from there the step is tried again. Each row goes
    its own way.

    Args:
        around: the energy to second order.
        energy: the energy alone, which is all that the last step needs.
        start: `[n, k]`.
        steps: at least 1.
        damping: at the beginning.
    """
    place, here = start, around(start)
    extra = torch.full_like(here.energy, damping)
    for step in range(1, steps + 1):
        new = place - _solved(here, extra)
        if step == steps:
            last = energy(new)
            better = last < here.energy
            return torch.where(better[:, None], new, place), torch.where(better, last, here.energy)
        there = around(new)
        better = there.energy < here.energy
        place = torch.where(better[:, None], new, place)
        here = Around(*(torch.where(_like(better, old), new, old) for old, new in zip(here, there, strict=True)))
        extra = torch.where(better, extra / 3, extra * 4)
    raise ValueError(f"steps must be at least 1, found {steps}")


def _solved(here: Around, damping: Tensor) -> Tensor:
    """Return `(curvature + damping)⁻¹ gradient`, `[n, k]`."""
    damped = here.curvature + torch.diag_embed(damping[:, None].expand_as(here.gradient))
    factor, _ = torch.linalg.cholesky_ex(damped)
    return torch.cholesky_solve(here.gradient[:, :, None], factor).squeeze(2)


def log_determinant(curvature: Tensor) -> Tensor:
    """Return the log determinants `[n]` of positive definite matrices `[n, k, k]`."""
    return 2 * torch.linalg.cholesky(curvature).diagonal(dim1=1, dim2=2).log().sum(1)


def _like(mask: Tensor, value: Tensor) -> Tensor:
    """Return a mask `[n]` with as many axes as a value `[n, ...]`."""
    return mask.view(-1, *[1] * (value.dim() - 1))
