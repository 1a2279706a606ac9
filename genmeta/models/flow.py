"""Flow matching: straight paths from noise to data, the velocity along them, and solvers; all are pure functions.

Lipman, Chen, Ben-Hamu, Nickel and Le, "Flow Matching for Generative Modeling", ICLR 2023; Liu, Gong and Liu, "Flow
Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow", ICLR 2023. Time runs from 0, noise, to
1, data.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""Places `[n, ...]` and times `[n]` to velocities `[n, ...]`."""

Solver = Literal["euler", "midpoint", "heun"]
"""How a step is taken: `euler` asks for one velocity, the two others, of second order, for two."""


def straight(noise: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """Return the places at times `[n]` on the straight lines from noise to data, all `[n, ...]`.

    Equation 1 of Liu et al.; equation 22 of Lipman et al. with σ_min = 0.
    """
    t = t.view(-1, *(1,) * (data.dim() - 1))
    return (1 - t) * noise + t * data


def flow_matching_loss(velocity: Velocity, noise: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """Return the squared errors of the velocity along straight lines, mean over the values of each, `[n]`.

    Its minimum over all functions is the velocity that carries the noise's distribution to the data's (theorem 2 of
    Lipman et al.).

    Args:
        velocity: what is trained.
        noise, data: the ends of the lines, `[n, ...]`.
        t: times in [0, 1], `[n]`.
    """
    return (velocity(straight(noise, data, t), t) - (data - noise)).square().flatten(1).mean(1)


def logit_normal(normal: Tensor, mean: float, std: float) -> Tensor:
    """Return times in (0, 1) for draws from N(0, 1): most of them in the middle, where the velocity is hard to tell.

    Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", ICML 2024, equation 19.

    Args:
        normal: draws, of any shape.
        mean, std: of the times' logits.
    """
    return torch.sigmoid(mean + std * normal)


def nearest_pairs(noise: Tensor, data: Tensor) -> Tensor:
    """Return which noise goes with which data, int64 `[n]`, so that the sum of squared distances is least.

    Paths then cross less, and are straighter: Tong et al., "Improving and Generalizing Flow-Based Generative Models
    with Minibatch Optimal Transport", TMLR 2024; Pooladian et al., "Multisample Flow Matching", ICML 2023.

    Args:
        noise, data: `[n, ...]`; `noise[result]` goes with `data`.
    """
    from scipy.optimize import linear_sum_assignment

    costs = torch.cdist(data.flatten(1).double(), noise.flatten(1).double()).square()
    _, columns = linear_sum_assignment(costs.cpu().numpy())
    return torch.from_numpy(columns).to(noise.device)


def integrate(velocity: Velocity, x: Tensor, times: Tensor, solver: Solver) -> Tensor:
    """Return where the velocity takes places from the first time to the last one.

    Args:
        velocity: of places at times.
        x: places `[n, ...]` at the first time.
        times: `[k]`, rising, or falling to go back.
        solver: how a step is taken.
    """
    times = times.to(x)

    def at(x: Tensor, t: Tensor) -> Tensor:
        return velocity(x, t.expand(len(x)))

    for now, then in pairwise(times):
        step = then - now
        slope = at(x, now)
        if solver == "midpoint":
            slope = at(x + step / 2 * slope, now + step / 2)
        elif solver == "heun":
            slope = (slope + at(x + step * slope, then)) / 2
        x = x + step * slope
    return x
