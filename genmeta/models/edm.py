"""Diffusion as Karras, Aittala, Aila and Laine lay it out: preconditioning, noise levels, Heun's solver.

"Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022; equations and tables are theirs. An
image y in [-1, 1] plus noise of standard deviation σ is x; a denoiser D(x; σ) estimates y. All are pure functions.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
"""Noisy images `[n, C, H, W]` and their noise levels `[n]` to estimates of the clean ones, `[n, C, H, W]`."""

P_MEAN, P_STD = -1.2, 1.2  # of log σ in training (table 1)
SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0  # of the levels of a sampler (table 1)


def preconditioned(network: Denoise, x: Tensor, sigma: Tensor, sigma_data: float | Tensor) -> Tensor:
    """Return `D(x; σ) = c_skip x + c_out F(c_in x; c_noise)` (equation 7, table 1).

    With it what goes into the network F, and what it is to give, has variance 1 at every noise level, and its errors
    are amplified as little as can be.

    Args:
        network: F, of scaled images and of `c_noise = ln(σ) / 4`, `[n]`.
        x: noisy images `[n, C, H, W]`.
        sigma: their noise levels `[n]`.
        sigma_data: standard deviation of the clean images' values.
    """
    s = _for_images(sigma)
    total = (s.square() + sigma_data**2).sqrt()
    c_skip, c_out = sigma_data**2 / total.square(), s * sigma_data / total
    return c_skip * x + c_out * network(x / total, sigma.log() / 4)


def denoising_loss(
    denoise: Denoise, images: Tensor, sigma: Tensor, noise: Tensor, sigma_data: float | Tensor
) -> Tensor:
    """Return squared errors of the denoiser, mean over an image's values, weighted by `1 / c_out²`, `[n]` (equation 8).

    So weighted, the loss is the squared error of the network F itself, at every level: 1 if it gives 0.

    Args:
        images: clean ones, `[n, C, H, W]`.
        sigma: noise levels `[n]`.
        noise: draws from N(0, I), `[n, C, H, W]`.
    """
    error = denoise(images + _for_images(sigma) * noise, sigma) - images
    weight = (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()
    return weight * error.square().flatten(1).mean(1)


def training_levels(normal: Tensor, mean: float = P_MEAN, std: float = P_STD) -> Tensor:
    """Return noise levels `exp(mean + std · normal)` for draws from N(0, 1), of any shape (table 1)."""
    return (mean + std * normal).exp()


def sampling_levels(steps: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO) -> Tensor:
    """Return `steps + 1` falling noise levels from `sigma_max` over `sigma_min` to 0, in double precision (equation 5).

    Args:
        rho: 1 has them evenly spaced; the larger, the more of them are small ones.
    """
    at = torch.linspace(0, 1, max(steps, 2), dtype=torch.float64)[:steps]
    levels = (sigma_max ** (1 / rho) + at * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return torch.cat([levels, levels.new_zeros(1)])


def heun(denoise: Denoise, x: Tensor, levels: Tensor) -> Tensor:
    """Return where the probability flow `dx/dσ = (x - D(x; σ)) / σ` takes images from the first level to the last one.

    Heun's method, of second order: a step of Euler's, then the mean of the slopes at both its ends; a step to level 0
    has the first slope alone (algorithm 1). Levels may rise too, but not from 0: so an image is encoded.

    Args:
        x: images `[n, C, H, W]` at the first level.
        levels: noise levels `[k]`.
    """
    levels = levels.to(x)

    def slope(x: Tensor, level: Tensor) -> Tensor:
        return (x - denoise(x, level.expand(len(x)))) / level

    for now, then in pairwise(levels):
        step, first = then - now, slope(x, now)
        moved = x + step * first
        x = moved if then == 0 else x + step * (first + slope(moved, then)) / 2
    return x


def _for_images(values: Tensor) -> Tensor:
    return values[:, None, None, None]
