"""The fully-connected network for small drawings."""

import torch
from torch import nn

from genmeta.errors import require_positive


class FullyConnected(nn.Sequential):
    """Layers of linear map, batch norm over the images at hand, ReLU.

    Santoro et al., ICML 2016, as Finn, Abbeel and Levine, ICML 2017, section 5.2, use it on Omniglot: 256, 128, 64, 64
    units; weights begin as truncated normal of deviation 0.01, epsilon of batch norm is 0.001 (github.com/cbfinn/maml).

    Args:
        in_channels: 1 or 3. Left out in a YAML, the command line fills in that of the data; 1 in Python.
        image_size: side of the (square) images. Left out, as `in_channels`; 28 in Python.
        sizes: units of each layer; the last is the number of features.
    """

    def __init__(
        self,
        in_channels: int | None = None,
        image_size: int | None = None,
        sizes: tuple[int, ...] = (256, 128, 64, 64),
    ) -> None:
        in_channels, image_size = in_channels or 1, image_size or 28
        require_positive("FullyConnected", in_channels=in_channels, image_size=image_size, sizes=min(sizes, default=0))
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in zip((in_channels * image_size**2, *sizes), sizes, strict=False):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after, 1e-3, track_running_stats=False), nn.ReLU()]
        super().__init__(*layers)
        self.image_shape = (in_channels, image_size, image_size)
        self.n_features = sizes[-1]
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
                torch.nn.init.zeros_(layer.bias)
