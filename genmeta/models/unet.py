"""A small U-Net of noisy images: the network of diffusion and of other models that turn noise into an image by steps.

Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015; with residual blocks that the noise level scales and shifts, and
attention in the middle, as in Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021.
"""

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.errors import UserError, require_positive
from genmeta.models.image_ode import ODENetwork
from genmeta.models.networks import Shape, checked_shape

_WAVES = 32  # frequencies that a noise level is described by, from 1 to 100


class UNet(ODENetwork):
    """Images, a number that says how noisy they are and vectors that say of which class, to images.

    The last layer begins at 0. Squares of `patch` pixels are one place of the first feature maps: that costs little of
    the quality and three quarters of the time.

    Args:
        image_shape: `[C, H, W]`; the data's if left out.
        channels: of the feature maps, from the largest down; all but the first halve the side.
        patch: pixels a side.
        blocks: residual blocks at each size, on the way down and on the way up.
        class_dim: entries of a class's vector; 0 for a network that knows no classes.
        max_classes: room for so many classes' vectors, at least the number of meta-train classes.
        given: another image is given in place of a class.

    Raises:
        UserError: a size is out of range.
    """

    def __init__(
        self,
        image_shape: Shape = None,
        channels: Sequence[int] = (32, 64),
        patch: int = 2,
        blocks: int = 1,
        class_dim: int = 0,
        max_classes: int = 2048,
        given: bool = False,
    ) -> None:
        super().__init__()
        require_positive("UNet", channels=min(channels, default=0), patch=patch, blocks=blocks, max_classes=max_classes)
        c, h, w = self.image_shape = checked_shape(image_shape)
        if min(h, w) // patch < 2 ** (len(channels) - 1):
            raise UserError(f"UNet: {len(channels) - 1} halvings of {h // patch}×{w // patch} places leave nothing")
        if class_dim < 0 or (class_dim and given):
            raise UserError(
                f"UNet: class_dim must be at least 0, and 0 where an image is given; found {class_dim}, given: {given}"
            )
        self.init_args = {
            "image_shape": [c, h, w],
            "channels": list(channels),
            "patch": patch,
            "blocks": blocks,
            "class_dim": class_dim,
            "max_classes": max_classes,
            "given": given,
        }
        self.class_dim, self.given = class_dim, given
        self.margin = (0, -w % patch, 0, -h % patch)  # right and below, where a side is no multiple of a patch
        self.classes = nn.Embedding(max_classes, class_dim) if class_dim else None
        wide = 4 * channels[0]
        self.level = nn.Sequential(nn.Linear(2 * _WAVES, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.of_class = nn.Linear(class_dim, wide, bias=False) if class_dim else None
        self.register_buffer("frequencies", torch.logspace(0, 2, _WAVES), persistent=False)

        self.first = nn.Sequential(
            nn.PixelUnshuffle(patch), nn.Conv2d((1 + given) * c * patch**2, channels[0], 3, padding=1)
        )
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        kept, now = [channels[0]], channels[0]  # channels of the maps that the way up is given
        for n_out in channels:
            for _ in range(blocks):
                self.down.append(_Block(now, n_out, wide))
                kept.append(now := n_out)
        self.middle = nn.ModuleList([_Block(now, now, wide), _Attention(now), _Block(now, now, wide)])
        for n_out in reversed(channels):
            for _ in range(blocks):
                self.up.append(_Block(now + kept.pop(), n_out, wide))
                now = n_out
        self.last = nn.Sequential(
            _norm(now + kept.pop()),
            nn.SiLU(),
            _zero(nn.Conv2d(2 * channels[0], c * patch**2, 3, padding=1)),
            nn.PixelShuffle(patch),
        )
        self.blocks = blocks

    def forward(self, x: Tensor, level: Tensor, condition: Tensor | None = None) -> Tensor:
        h, w = x.shape[2:]
        waves = level[:, None] * self.frequencies.to(level)  # type: ignore[operator]
        known = self.level(torch.cat([waves.cos(), waves.sin()], 1))
        if self.of_class is not None:
            assert condition is not None
            known = known + self.of_class(condition)
        if self.given:
            assert condition is not None
            x = torch.cat([x, condition], 1)
        x = self.first(F.pad(x, self.margin))
        kept = [x]
        for number, block in enumerate(self.down):
            if number and number % self.blocks == 0:
                x = F.avg_pool2d(x, 2)
            x = block(x, known)
            kept.append(x)
        for part in self.middle:
            x = part(x, known)
        for block in self.up:
            beside = kept.pop()
            if beside.shape[2:] != x.shape[2:]:
                x = F.interpolate(x, beside.shape[2:])
            x = block(torch.cat([x, beside], 1), known)
        return self.last(torch.cat([x, kept.pop()], 1))[..., :h, :w]


class _Block(nn.Module):
    """Two 3×3 convolutions and a shortcut; what is known scales and shifts what is between them."""

    def __init__(self, n_in: int, n_out: int, wide: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(n_in), nn.Conv2d(n_in, n_out, 3, padding=1)
        self.norm2, self.conv2 = _norm(n_out), _zero(nn.Conv2d(n_out, n_out, 3, padding=1))
        self.modulate = nn.Linear(wide, 2 * n_out)
        self.shortcut = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        scale, shift = self.modulate(F.silu(known))[:, :, None, None].chunk(2, 1)
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y) * (1 + scale) + shift))
        return self.shortcut(x) + y


class _Attention(nn.Module):
    """Attention between all places, one head of 32 channels or so many as there are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // 32) if channels % 32 == 0 else 1
        self.norm, self.to_all = _norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.back = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.to_all(self.norm(x)).view(n, 3, self.heads, c // self.heads, h * w).transpose(3, 4).unbind(1)
        found = F.scaled_dot_product_attention(q, k, v)
        return x + self.back(found.transpose(2, 3).reshape(n, c, h, w))


def _norm(channels: int) -> nn.Module:
    # groups of at least four channels: one image of one place is a value a group else
    return nn.GroupNorm(max(1, gcd(8, channels // 4)), channels)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
