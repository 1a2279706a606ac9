"""The interface between a trained generative model and everything that samples from it."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class LatentDecoder(nn.Module, ABC):
    """Maps codes with prior N(0, I) to images.

    Attributes:
        latent_dim: size of a code.
        image_shape: `(C, H, W)` of the images.
        init_args: what the constructor needs to build this network again (numbers, texts and lists only): it is written
            into checkpoints.
    """

    latent_dim: int
    image_shape: tuple[int, int, int]
    init_args: dict[str, Any]

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Return images `[n, C, H, W]` in [0, 1] for codes `[n, latent_dim]`."""
