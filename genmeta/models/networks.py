"""Convolutional bodies that halve or double the image, shared by GANs and VAEs; any size from 8 pixels on."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm

from genmeta.errors import UserError

Shape = Sequence[int] | None
"""`[channels, height, width]` of the images; left out in a YAML, the command line fills in that of the data."""


def checked_shape(image_shape: Shape) -> tuple[int, int, int]:
    """Return `(C, H, W)`; `(1, 28, 28)` if it is left out.

    Raises:
        UserError: these are not three numbers of at least 1.
    """
    if image_shape is None:
        return 1, 28, 28
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise UserError(f"image_shape must be [channels, height, width], found {list(image_shape)}")
    c, h, w = image_shape
    return c, h, w


def check_same_shape(of: str, shape: Sequence[int], image_shape: Sequence[int], advice: str = "") -> None:
    """Raise UserError if something is for images of another shape than those of the data.

    Args:
        of: what it is, as in `the backbone is for images of shape`.
        shape: its `(C, H, W)`.
        image_shape: that of the data.
        advice: what would work, or why it matters; stands at the end.
    """
    if list(shape) != list(image_shape):
        raise UserError(f"{of} {list(shape)}, but the data have {list(image_shape)} (channels, height, width){advice}")


def halved(image_shape: Sequence[int], times: int) -> list[tuple[int, int]]:
    """Return `(h, w)` before, and after each of `times` halvings (rounded down): 28 gives 28, 14, 7, 3.

    Raises:
        UserError: nothing would be left, or there is nothing to halve.
    """
    _, h, w = checked_shape(image_shape)
    if times < 1 or min(h, w) >> times < 1:
        raise UserError(
            f"{times} halvings (one for each number in channels) of {h}×{w} pixels leave nothing or do nothing"
        )
    return [(h >> i, w >> i) for i in range(times + 1)]


def part_of(network: nn.Module) -> dict[str, Any]:
    """Return what a checkpoint rebuilds a network from: `class`, and `args`, its `init_args`.

    It may stand for a network among the `init_args` of another.
    """
    return {"class": f"{type(network).__module__}.{type(network).__qualname__}", "args": network.init_args}


class Down(nn.Module):
    """Images to feature maps: one halving for each entry of `channels`.

    Plain: 4×4 convolutions with stride 2, as in DCGAN (Radford et al., ICLR 2016). Residual: two 3×3 convolutions and
    average pooling with a shortcut, as in the discriminator of Miyato et al., "Spectral Normalization for GANs", ICLR
    2018. No normalisation of activations: a discriminator is made smooth by its objective, and an encoder needs none.

    Attributes:
        out_shape: `(C, h, w)` of the feature maps.
    """

    def __init__(
        self, image_shape: Sequence[int], channels: Sequence[int], residual: bool = False, spectral_norm: bool = False
    ) -> None:
        super().__init__()
        sizes = halved(image_shape, len(channels))
        wrap: Callable[[nn.Module], nn.Module] = torch_spectral_norm if spectral_norm else _unchanged
        blocks: list[nn.Module] = []
        for n_in, n_out in zip([image_shape[0], *channels], channels, strict=False):
            if residual:
                blocks.append(_ResidualDown(n_in, n_out, wrap, first=not blocks))
            else:
                blocks += [wrap(nn.Conv2d(n_in, n_out, 4, 2, 1)), nn.LeakyReLU(0.2)]
        if residual:
            blocks.append(nn.LeakyReLU(0.2))
        self.blocks = nn.Sequential(*blocks)
        self.out_shape = (channels[-1], *sizes[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return `[n, *out_shape]`."""
        return self.blocks(x)


class Up(nn.Module):
    """Vectors to images, the mirror image of `Down`: a linear layer, then one doubling for each entry of `channels`.

    Plain: 4×4 transposed convolutions with stride 2 (DCGAN). Residual: nearest-neighbour upsampling and two 3×3
    convolutions with a shortcut. The last layer has no activation.
    """

    def __init__(
        self,
        n_in: int,
        image_shape: Sequence[int],
        channels: Sequence[int],
        residual: bool = False,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        sizes = halved(image_shape, len(channels))[::-1]
        h, w = sizes[0]
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d if batch_norm else lambda _: nn.Identity()
        blocks: list[nn.Module] = [nn.Linear(n_in, channels[0] * h * w), nn.Unflatten(1, (channels[0], h, w))]
        if residual:
            for n_in, n_out, size in zip(channels, [*channels[1:], channels[-1]], sizes[1:], strict=True):
                blocks.append(_ResidualUp(n_in, n_out, size, norm))
            blocks += [norm(channels[-1]), nn.ReLU(), nn.Conv2d(channels[-1], image_shape[0], 3, padding=1)]
        else:
            for n_in, n_out, (h, w) in zip(channels, [*channels[1:], image_shape[0]], sizes[1:], strict=True):
                odd = (h % 2, w % 2)  # 3 becomes 7
                blocks += [norm(n_in), nn.ReLU(), nn.ConvTranspose2d(n_in, n_out, 4, 2, 1, output_padding=odd)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, z: Tensor) -> Tensor:
        """Return `[n, C, H, W]` for vectors `[n, n_in]`."""
        return self.blocks(z)


class _ResidualDown(nn.Module):
    def __init__(self, n_in: int, n_out: int, wrap: Callable[[nn.Module], nn.Module], first: bool) -> None:
        super().__init__()
        self.first = first  # no activation of the image itself
        self.conv1, self.conv2 = wrap(nn.Conv2d(n_in, n_out, 3, padding=1)), wrap(nn.Conv2d(n_out, n_out, 3, padding=1))
        self.shortcut = wrap(nn.Conv2d(n_in, n_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x if self.first else F.leaky_relu(x, 0.2))
        y = F.avg_pool2d(self.conv2(F.leaky_relu(y, 0.2)), 2)
        return y + self.shortcut(F.avg_pool2d(x, 2))


class _ResidualUp(nn.Module):
    def __init__(self, n_in: int, n_out: int, size: tuple[int, int], norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.size = size
        self.norm1, self.norm2 = norm(n_in), norm(n_out)
        self.conv1, self.conv2 = nn.Conv2d(n_in, n_out, 3, padding=1), nn.Conv2d(n_out, n_out, 3, padding=1)
        self.shortcut = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(F.relu(self.norm1(x)), self.size)
        y = self.conv2(F.relu(self.norm2(self.conv1(y))))
        return y + F.interpolate(self.shortcut(x), self.size)


def _unchanged(layer: nn.Module) -> nn.Module:
    return layer
