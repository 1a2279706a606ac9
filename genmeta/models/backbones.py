"""Networks that turn images into features."""

import math
from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from genmeta.errors import UserError, require_positive
from genmeta.models.made_with import MadeWith

Norm = Literal["running", "batch", "group"]
"""What features are normalised with in evaluation.

`running`: batch norm with the statistics that it kept in training, so that an image's features depend on no other
image. `batch`: batch norm with the statistics of the batch at hand, as in MAML (transductive). `group`: group norm,
which needs no other image in training either.
"""


def normalisation(channels: int, norm: Norm) -> nn.Module:
    """Return the normalisation of a layer of so many channels.

    Groups are of 16 channels (Wu and He, "Group Normalization", ECCV 2018, table 3), or the largest divisor of 16 that
    divides the number of channels.

    Raises:
        UserError: `norm` is none of the three.
    """
    if norm not in get_args(Norm):
        raise UserError(f"norm must be one of {', '.join(get_args(Norm))}, found '{norm}'")
    if norm == "group":
        return nn.GroupNorm(channels // math.gcd(channels, 16), channels)
    return nn.BatchNorm2d(channels, track_running_stats=norm == "running")


class ConvBackbone(MadeWith, nn.Module, ABC):
    """A convolutional network whose feature maps can be had too.

    Attributes:
        image_shape: `(C, H, W)` of the images.
        map_shape: `(c, h, w)` of the feature maps.
        n_features: features of an image.
    """

    image_shape: tuple[int, int, int]
    map_shape: tuple[int, int, int]
    n_features: int

    @abstractmethod
    def maps(self, x: Tensor) -> Tensor:
        """Return feature maps `[n, c, h, w]` for images `[n, C, H, W]`."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return features `[n, n_features]` for images `[n, C, H, W]`."""


class Conv4(ConvBackbone):
    """Four blocks of 3×3 convolution, normalisation, ReLU, 2×2 max pooling (Vinyals et al., NeurIPS 2016; Snell et al.
    2017).

    Args:
        in_channels: 1 or 3. Left out in a YAML, the command line fills in that of the data; 1 in Python.
        hidden: filters of each block.
        image_size: side of the (square) images; with four poolings at least 16, and 28 gives `hidden` features. Left
            out, as `in_channels`; 28 in Python.
        norm: `running`, `batch` or `group`, see `Norm`.
        pools: how many of the blocks, the first ones, pool.
    """

    def __init__(
        self,
        in_channels: int | None = None,
        hidden: int = 64,
        image_size: int | None = None,
        norm: Norm = "running",
        pools: int = 4,
    ) -> None:
        super().__init__()
        in_channels, image_size = in_channels or 1, image_size or 28
        require_positive("Conv4", in_channels=in_channels, hidden=hidden)
        if not 0 <= pools <= 4:
            raise UserError(f"Conv4 has four blocks: pools must be 0 to 4, found {pools}")
        if image_size < 2**pools:
            raise UserError(
                f"Conv4 halves the image {pools} times: image_size must be at least {2**pools}, found {image_size}"
            )
        side = image_size // 2**pools
        self.image_shape = (in_channels, image_size, image_size)
        self.map_shape = (hidden, side, side)
        self.n_features = hidden * side**2
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(in_channels if depth == 0 else hidden, hidden, 3, padding=1),
                    normalisation(hidden, norm),
                    # the largest of four is rectified, which is the same as the largest of four rectified ones, and
                    # a quarter of the work: with large batches 1.25 times as fast
                    *([nn.MaxPool2d(2)] if depth < pools else []),
                    nn.ReLU(),
                )
                for depth in range(4)
            )
        ).to(memory_format=torch.channels_last)  # on a CPU 1.3 times as fast in training, twice as fast in evaluation

    def maps(self, x: Tensor) -> Tensor:
        return self.blocks(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).flatten(1)


class ResNet12(ConvBackbone):
    """Four residual blocks of three 3×3 convolutions, each followed by 2×2 max pooling; the mean over the places.

    Oreshkin, Rodriguez and Lacoste, "TADAM", NeurIPS 2018, figure 1 and section 4.3, as used since by MetaOptNet and
    others; leaky ReLU of slope 0.1 as in Mishra et al., "SNAIL", ICLR 2018, whose blocks these are. Without dropout.

    Args:
        in_channels: 1 or 3. Left out in a YAML, the command line fills in that of the data; 1 in Python.
        widths: filters of the blocks; the last is the number of features.
        image_size: side of the (square) images, at least 16. Left out, as `in_channels`; 28 in Python.
        norm: `running`, `batch` or `group`, see `Norm`.
    """

    def __init__(
        self,
        in_channels: int | None = None,
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        image_size: int | None = None,
        norm: Norm = "running",
    ) -> None:
        super().__init__()
        in_channels, image_size = in_channels or 1, image_size or 28
        require_positive("ResNet12", in_channels=in_channels, widths=min(widths))
        if image_size < 16:
            raise UserError(f"ResNet12 halves the image four times: image_size must be at least 16, found {image_size}")
        self.image_shape = (in_channels, image_size, image_size)
        self.map_shape = (widths[-1], image_size // 16, image_size // 16)
        self.n_features = widths[-1]
        pairs = zip((in_channels, *widths[:-1]), widths, strict=True)
        self.blocks = nn.Sequential(*(_ResidualBlock(before, after, norm) for before, after in pairs))
        self.blocks.to(memory_format=torch.channels_last)

    def maps(self, x: Tensor) -> Tensor:
        return self.blocks(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).mean((2, 3))


class _ResidualBlock(nn.Module):
    def __init__(self, before: int, after: int, norm: Norm) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (before, after, after):
            convolution = nn.Conv2d(channels, after, 3, padding=1, bias=False)
            layers += [convolution, normalisation(after, norm), nn.LeakyReLU(0.1)]
        self.residual = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), normalisation(after, norm))
        self.end = nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, 0.1, "fan_out", "leaky_relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.residual(x) + self.shortcut(x))


class AnyNetwork(MadeWith, nn.Module):
    """A network of another library as a backbone: what it puts out, flattened, are the features.

    It is run once on blank images to see how many features it has, for learners that must know, and that it takes
    images of this size. Grey images are given in three equal channels to a network whose first convolution has three.

    Args:
        network: images `[n, C, H, W]` to anything with `n` in front.
        in_channels: of the data. Left out in a YAML, the command line fills in that of the data; 1 in Python.
        image_size: side of the (square) images. Left out, as `in_channels`; 28 in Python.

    Raises:
        UserError: the network does not take such images.
    """

    def __init__(self, network: nn.Module, in_channels: int | None = None, image_size: int | None = None) -> None:
        super().__init__()
        in_channels, image_size = in_channels or 1, image_size or 28
        self.network = network
        self.image_shape = (in_channels, image_size, image_size)
        first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
        self.repeats = 3 if in_channels == 1 and first is not None and first.in_channels == 3 else 1
        training = network.training
        network.eval()  # leaves running statistics alone
        with torch.no_grad():
            try:
                self.n_features = self(torch.zeros(2, *self.image_shape)).shape[1]
            except RuntimeError as error:
                raise UserError(
                    f"the backbone {type(network).__name__} does not take images of shape {list(self.image_shape)} "
                    f"(channels, height, width): {str(error).splitlines()[0]}"
                ) from error
        network.train(training)

    def forward(self, x: Tensor) -> Tensor:
        """Return features `[n, n_features]` for images `[n, C, H, W]`."""
        return self.network(x.repeat(1, self.repeats, 1, 1) if self.repeats > 1 else x).flatten(1)


def uses_batch_statistics(network: nn.Module) -> bool:
    """Whether a batch norm of the network normalises with the batch at hand, even in evaluation."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is None for m in network.modules())


def keeps_running_statistics(network: nn.Module) -> bool:
    """Whether a batch norm of the network keeps running statistics."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None for m in network.modules())
