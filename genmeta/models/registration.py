"""Learned registration: a network moves the ink of one image onto another, in one pass.

Balakrishnan et al., "VoxelMorph: A Learning Framework for Deformable Medical Image Registration", IEEE TMI 2019, for a
few-shot support image and a query: the displacement is what a latent of deformations would have to explain, and it is
inferred for every pair, of classes never seen too. Distances are in half widths of the image, as in
`genmeta.tasks.elastic`, so that settings carry over between image sizes.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.errors import UserError, require_positive

BLURS = (0.0, 1.0, 2.5)  # pixels of a 28-pixel image: pixels alone have no gradient from a stroke to one beside it


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Return images `[n, C, H, W]` blurred by a Gaussian of `sigma` pixels; outside is 0 (no ink).

    Two convolutions in one dimension each, cut at three standard deviations.
    """
    if sigma == 0:
        return x
    radius = ceil(3 * sigma)
    places = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = kernel / kernel.sum()
    n, c, h, w = x.shape
    flat = x.reshape(n * c, 1, h, w)
    flat = F.conv2d(flat, kernel.view(1, 1, 1, -1), padding=(0, radius))
    return F.conv2d(flat, kernel.view(1, 1, -1, 1), padding=(radius, 0)).view(n, c, h, w)


def scales(x: Tensor) -> Tensor:
    """Return images of one channel of ink `[n, C, H, W]` at all `BLURS` of it, `[n, 3, H, W]`: computed once an image.

    Colours are averaged: registration follows brightness.
    """
    ink = x.mean(1, keepdim=True)
    return torch.cat([gaussian_blur(ink, sigma * x.shape[-1] / 28) for sigma in BLURS], 1)


@lru_cache(maxsize=64)
def _enlarging(n: int, fine: int) -> Tensor:
    """Return the matrix `[fine, n]` of bicubic interpolation from n places to more."""
    with torch.inference_mode(False):  # it is kept, and a training may need it after a test
        eye = torch.eye(n, dtype=torch.float64)[None, None]
        return F.interpolate(eye, (fine, n), mode="bicubic", align_corners=False)[0, 0]


def enlarge(field: Tensor, height: int, width: int) -> Tensor:
    """Return displacements `[n, 2, h, w]` at every pixel, `[n, 2, height, width]`: bicubic, as two small products."""
    rows = _enlarging(field.shape[2], height).to(field)
    columns = _enlarging(field.shape[3], width).to(field)
    return rows @ field @ columns.T


def identity_grid(x: Tensor) -> Tensor:
    """Return the places of the pixels of images `[n, C, H, W]` in half widths, `[1, H, W, 2]`, x before y."""
    height, width = x.shape[2:]
    y = (2 * torch.arange(height, device=x.device, dtype=x.dtype) + 1) / height - 1
    x_ = (2 * torch.arange(width, device=x.device, dtype=x.dtype) + 1) / width - 1
    return torch.stack([x_.expand(height, width), y[:, None].expand(height, width)], -1)[None]


def affine_displacement(identity: Tensor, affine: Tensor) -> Tensor:
    """Return displacements `[n, H, W, 2]` of `identity_grid` by affine maps less the identity, `[n, 2, 3]`."""
    places = identity.view(1, -1, 2) @ affine[:, :, :2].mT + affine[:, None, :, 2]
    return places.view(-1, *identity.shape[1:])


def relative_errors(moved: Tensor, fixed: Tensor) -> Tensor:
    """Return squared errors of images `[n, C, H, W]`, a share of the ink of both, for each channel, `[n, C]`."""
    error = (moved - fixed).square().flatten(2).sum(2)
    return error / (moved.square() + fixed.square()).flatten(2).sum(2).clamp(min=1e-6)


@dataclass(frozen=True)
class Registered:
    """An image moved onto another.

    Attributes:
        moved: `[n, 3, H, W]`, the moving image at all scales, after the displacement.
        displacement: `[n, H, W, 2]`, from where each pixel takes its ink, less its own place; half widths.
        affines: `[n, stages, 2, 3]`, what each stage's affine map has beyond the identity.
    """

    moved: Tensor
    displacement: Tensor
    affines: Tensor


def pair_features(in_channels: int, channels: int, n_more: int) -> nn.Sequential:
    """Return a network from two images and what is known of them, `[n, in_channels, H, W]`, to features
    `[n, 2 * channels, H / 4, W / 4]`: two convolutions of stride 2, then `n_more` of stride 1.
    """
    wide, groups = 2 * channels, max(1, channels // 8)
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, 2, 1), nn.SiLU()]
    convolutions = [nn.Conv2d(channels, wide, 3, 2, 1), *(nn.Conv2d(wide, wide, 3, padding=1) for _ in range(n_more))]
    for convolution in convolutions:
        layers += [convolution, nn.GroupNorm(groups, wide), nn.SiLU()]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


class Registration(nn.Module):
    """Stages of one network, each of which sees the image as moved so far and adds an affine map and a smooth field.

    The displacements add up, and the image is resampled once from the sum, so it does not blur with each stage.

    Args:
        channels: feature maps of the first layer; twice as many in the others.
        stages: how often the network looks.
        reach: largest displacement by the field, and largest entry of an affine map, of each stage.

    Raises:
        UserError: a size is not positive, or `reach` is not in (0, 1].
    """

    def __init__(self, channels: int = 32, stages: int = 2, reach: float = 0.3) -> None:
        super().__init__()
        require_positive("Registration", channels=channels, stages=stages)
        if not 0 < reach <= 1:
            raise UserError(f"Registration: reach must be in (0, 1], found {reach}")
        self.stages, self.reach = stages, reach
        wide = 2 * channels
        self.look = pair_features(2 * len(BLURS), channels, n_more=2)
        self.field = nn.Conv2d(wide, 2, 3, padding=1)
        self.affine = nn.Linear(wide, 6)
        for layer in (self.field, self.affine):  # starts at the identity
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, moving: Tensor, fixed: Tensor) -> Registered:
        """Move images onto others, both `[n, 3, H, W]` as `scales` gives them; height and width are multiples of 4."""
        identity = identity_grid(moving)
        displacement = torch.zeros_like(identity).expand(len(moving), -1, -1, -1)
        moved, affines = moving, []
        height, width = moving.shape[2:]
        for _ in range(self.stages):
            features = self.look(torch.cat([moved, fixed], 1))
            field = self.reach * torch.tanh(self.field(features).to(moving.dtype))
            affine = self.reach * torch.tanh(self.affine(features.mean((2, 3))).to(moving.dtype)).view(-1, 2, 3)
            fine = enlarge(field, height, width).permute(0, 2, 3, 1)
            displacement = displacement + fine + affine_displacement(identity, affine)
            moved = F.grid_sample(moving, identity + displacement, align_corners=False)
            affines.append(affine)
        return Registered(moved, displacement, torch.stack(affines, 1))


def bending(displacement: Tensor) -> Tensor:
    """Return the bending energy of displacements `[n, H, W, 2]`: mean squared second differences, `[n]`.

    Rueckert et al., "Nonrigid Registration Using Free-Form Deformations", IEEE TMI 1999, eq. 5, in units of half widths
    per half width squared: affine maps have none, and the value does not depend on the number of pixels.
    """
    height, width = displacement.shape[1:3]
    rows = displacement.diff(n=2, dim=1).square().sum(3).flatten(1).mean(1) * (height / 2) ** 4
    columns = displacement.diff(n=2, dim=2).square().sum(3).flatten(1).mean(1) * (width / 2) ** 4
    mixed = displacement.diff(dim=1).diff(dim=2).square().sum(3).flatten(1).mean(1) * (height * width / 4) ** 2
    return rows + columns + 2 * mixed
