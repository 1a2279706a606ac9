"""Strokes of images, and images of strokes."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genmeta.errors import UserError
from genmeta.models.skeleton import strokes
from genmeta.tasks.strokes import CODE, N_POINTS, N_STROKES, Characters

_FINE = 84  # pixels: lines of a smaller image are thinned after it was enlarged
_INK = 0.45  # an enlarged pixel above is ink
_SHORTEST = 0.13  # half widths: what is shorter is a spur of thinning
_CHUNK = 256  # images at a time
_STEPS = 3  # points that are drawn for each point of a stroke: less than a pixel apart
_FAR = 9.0  # half widths: where the pen leaves no ink


def characters_of(images: Tensor) -> Characters:
    """Return the characters in images of ink on an empty ground; those without a stroke or with too many are left out.

    Args:
        images: float `[n, 1, H, W]` in [0, 1], square.

    Raises:
        UserError: images are not square or not of one channel, or none has strokes.
    """
    _, channels, height, width = images.shape
    if channels != 1 or height != width:
        raise UserError(
            f"strokes are taken from square images of ink with one channel, found {[channels, height, width]}"
        )
    found: list[list[np.ndarray]] = []
    for some in images.split(_CHUNK):
        fine = some if width >= _FINE else F.interpolate(some, (_FINE, _FINE), mode="bicubic", align_corners=False)
        found += strokes(np.asarray(fine[:, 0] > _INK), N_POINTS, _SHORTEST)
    found = [paths for paths in found if 1 <= len(paths) <= N_STROKES]
    if not found:
        raise UserError(f"none of the {len(images)} training images shows 1 to {N_STROKES} strokes of ink on black")
    return _related(found)


def _related(found: list[list[np.ndarray]]) -> Characters:
    """Return characters of strokes at their places: each is bound to the earlier stroke that it comes nearest to."""
    n = len(found)
    paths = np.zeros((n, N_STROKES, N_POINTS, 2))
    parent, on, own = np.zeros((3, n, N_STROKES), int)
    offset = np.zeros((n, N_STROKES, 2))
    for i, of_image in enumerate(found):
        for s, path in enumerate(of_image):
            paths[i, s] = path - path[0]
            if s:
                before = np.stack(of_image[:s])
                distance = np.linalg.norm(before[:, :, None] - path, axis=-1)
                parent[i, s], on[i, s], own[i, s] = np.unravel_index(distance.argmin(), distance.shape)
                offset[i, s] = path[own[i, s]] - before[parent[i, s], on[i, s]]
    return Characters(
        paths=torch.from_numpy(paths).float(),
        count=torch.tensor([len(of_image) for of_image in found]),
        parent=torch.from_numpy(parent),
        on=torch.from_numpy(on),
        own=torch.from_numpy(own),
        offset=torch.from_numpy(offset).float(),
    )


def draw_strokes(codes: Tensor, size: int) -> Tensor:
    """Return images of strokes, `[n, 1, size, size]` in [0, 1].

    The ink of a pixel falls with its distance from where the pen went.

    Args:
        codes: `[n, CODE]`, as `genmeta.tasks.strokes` lays them out.
        size: side of the images.

    Raises:
        ValueError: the codes have another size.
    """
    n = len(codes)
    if codes.shape[1] != CODE:
        raise ValueError(f"codes of strokes have {CODE} numbers, found {codes.shape[1]}")
    points = codes[:, :-2].view(n, N_STROKES, N_POINTS, 2)
    count, pen = codes[:, -2], codes[:, -1] * size / 28
    between = [points[:, :, :-1].lerp(points[:, :, 1:], step / _STEPS) for step in range(_STEPS)]
    dense = torch.cat([*between, points[:, :, -1:]], 2)
    unused = (torch.arange(N_STROKES, device=codes.device) >= count[:, None])[..., None, None]
    dense = dense.masked_fill(unused, _FAR).flatten(1, 2)
    place = (2 * torch.arange(size, device=codes.device, dtype=codes.dtype) + 1) / size - 1
    pixels = torch.stack([place.expand(size, size), place[:, None].expand(size, size)], -1).view(-1, 2)
    images = []
    for some, width in zip(dense.split(64), pen.split(64), strict=True):
        # |pixel − point|² by a matrix product; the pixel's own square does not matter to which point is nearest
        nearest = torch.baddbmm(some.square().sum(2)[:, None], pixels.expand(len(some), -1, -1), some.mT, alpha=-2)
        squared = nearest.amin(2) + pixels.square().sum(1)
        distance = squared.clamp(min=0).sqrt() * size / 2  # pixels
        images.append((width[:, None] - distance + 0.5).clamp(0, 1))
    return torch.cat(images).view(n, 1, size, size)
