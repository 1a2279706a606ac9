"""Walks in the latent space: between codes and beyond them, and along directions."""

from collections.abc import Callable

import torch
from torch import Tensor

from genmeta.explore.maps import signed
from genmeta.tasks.space import move

SHARES = tuple(number / 4 for number in range(-4, 9))
"""Places on a strip, -1 to 2: 0 and 1 are its ends, the others are between or beyond them."""


def strips(starts: Tensor, ends: Tensor, shares: Tensor, spherical: bool = False) -> Tensor:
    """Return codes `[n, m, d]` at the shares `[m]` of the way from each start `[n, d]` to its end `[n, d]`."""
    return move(starts[:, None], ends[:, None], shares[None, :, None], spherical)


def traversals(start: Tensor, directions: Tensor, lengths: Tensor, steps: Tensor) -> Tensor:
    """Return codes `[k, m, d]`: from `start` `[d]` along directions `[k, d]`, steps `[m]` times lengths `[k]`."""
    return start + steps[None, :, None] * (lengths[:, None] * directions)[:, None]


def change_of_image(draw: Callable[[Tensor], Tensor], codes: Tensor, step: float = 0.5) -> Tensor:
    """Return the mean pulled-back metric of a decoder, `[d, d]`: how fast the image changes with the code.

    The mean over codes of `J Jᵀ / pixels`, with the Jacobian J by central differences of `step`. The root of its
    diagonal is the root mean squared change of a pixel (in [0, 1]) per unit of each dimension; its eigenvectors are
    directions that change the image most to least, with or without an encoder (Wang and Ponce, "The Geometry of Deep
    Generative Image Models and its Applications", ICLR 2021).

    Args:
        draw: codes `[n · d, d]`, d variants of the first code first, to images `[n · d, C, H, W]` in [0, 1].
        codes: `[n, d]`.
        step: half the distance of the two codes of a difference, large enough to change the image.
    """
    n, d = codes.shape
    offset = step * torch.eye(d, device=codes.device)
    there, back = (draw((codes[:, None] + sign * offset).flatten(0, 1)).flatten(1) for sign in (1, -1))
    jacobian = ((there - back) / (2 * step)).double().unflatten(0, (n, d))
    return (jacobian @ jacobian.mT).mean(0) / jacobian.shape[2]


def principal_changes(metric: Tensor) -> tuple[Tensor, Tensor]:
    """Return directions `[d, d]` (orthonormal rows, the one that changes the image most first) and the root mean
    squared change of a pixel per unit of each, `[d]`, from `change_of_image`.
    """
    values, vectors = torch.linalg.eigh(metric)
    return signed(vectors.T.flip(0)).float(), values.flip(0).clamp(min=0).sqrt().float()
