"""Networks that turn images into features."""

import torch
from torch import Tensor, nn

from genmeta.errors import UserError, require_positive


class Conv4(nn.Module):
    """Four blocks of 3×3 convolution, batch norm, ReLU, 2×2 max pooling (Vinyals et al., NeurIPS 2016; Snell et al.
    2017).

    Args:
        in_channels: 1 or 3. Left out in a YAML, the command line fills in that of the data; 1 in Python.
        hidden: filters of each block.
        image_size: side of the (square) images, at least 16; 28 gives `hidden` features. Left out, as `in_channels`;
            28 in Python.
        running_stats: True: batch norm keeps running statistics and uses them in evaluation, so that an image's
            features depend on no other image. False: it always uses the batch at hand, as MAML does.
    """

    def __init__(
        self,
        in_channels: int | None = None,
        hidden: int = 64,
        image_size: int | None = None,
        running_stats: bool = True,
    ) -> None:
        super().__init__()
        in_channels, image_size = in_channels or 1, image_size or 28
        require_positive("Conv4", in_channels=in_channels, hidden=hidden)
        if image_size < 16:
            raise UserError(f"Conv4 halves the image four times: image_size must be at least 16, found {image_size}")
        self.n_features = hidden * (image_size // 16) ** 2
        self.image_shape = (in_channels, image_size, image_size)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(in_channels if depth == 0 else hidden, hidden, 3, padding=1),
                    nn.BatchNorm2d(hidden, track_running_stats=running_stats),
                    nn.ReLU(),
                    nn.MaxPool2d(2),
                )
                for depth in range(4)
            )
        ).to(memory_format=torch.channels_last)  # on a CPU 1.3 times as fast in training, twice as fast in evaluation

    def forward(self, x: Tensor) -> Tensor:
        """Return features `[n, n_features]` for images `[n, C, H, W]`."""
        return self.blocks(x).flatten(1)


def uses_batch_statistics(network: nn.Module) -> bool:
    """Whether a batch norm of the network normalises with the batch at hand, even in evaluation."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is None for m in network.modules())


def keeps_running_statistics(network: nn.Module) -> bool:
    """Whether a batch norm of the network keeps running statistics."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None for m in network.modules())
