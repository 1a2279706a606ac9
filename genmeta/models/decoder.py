"""The interfaces between a trained generative model and everything that samples from it or looks into it."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


class LatentDecoder(nn.Module, ABC):
    """Maps codes to images.

    Attributes:
        latent_dim: size of a code.
        image_shape: `(C, H, W)` of the images.
        init_args: what the constructor needs to build this network again (numbers, texts and lists only; for a network
            in it what `networks.part_of` returns): it is written into checkpoints.
        chunk_size: codes decoded together on a CPU. Convolutions are 1.5 to 2.5 times as fast in chunks whose feature
            maps fit the cache as in one giant call (benchmarks/decoding.py).
    """

    latent_dim: int
    image_shape: tuple[int, int, int]
    init_args: dict[str, Any]
    chunk_size = 256

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Return images `[n, C, H, W]` in [0, 1] for codes `[n, latent_dim]`."""

    def decode_in_chunks(self, z: Tensor) -> Tensor:
        """Return `decode(z)`, computed in chunks where that is faster."""
        if z.device.type != "cpu" or len(z) <= self.chunk_size:
            return self.decode(z)
        return torch.cat([self.decode(chunk) for chunk in z.split(self.chunk_size)])


class LatentEncoder(nn.Module, ABC):
    """Maps images to a Gaussian over codes, `q(z | x)`.

    Attributes:
        latent_dim, image_shape, init_args: as of a `LatentDecoder`.
    """

    latent_dim: int
    image_shape: tuple[int, int, int]
    init_args: dict[str, Any]

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance, each `[n, latent_dim]`, for images `[n, C, H, W]` in [0, 1]."""


class Discriminator(nn.Module, ABC):
    """A GAN's discriminator; `forward` returns **logits** `[n]`: > 0 means "real".

    Attributes:
        image_shape, init_args: as of a `LatentDecoder`.
    """

    image_shape: tuple[int, int, int]
    init_args: dict[str, Any]

    @abstractmethod
    def trunk(self, x: Tensor) -> Tensor:
        """Return features `[n, d]` of images `[n, C, H, W]` in [-1, 1]: those before the logit, maps averaged over
        places.
        """


class Redrawer(nn.Module, ABC):
    """Draws an image again with another code: other instances of the class of *one given image*.

    Attributes:
        latent_dim, image_shape, init_args: as of a `LatentDecoder`; codes have the prior N(0, I).
    """

    latent_dim: int
    image_shape: tuple[int, int, int]
    init_args: dict[str, Any]

    @abstractmethod
    def redraw(self, x: Tensor, z: Tensor) -> Tensor:
        """Return images `[n, C, H, W]` in [0, 1] for images `[n, C, H, W]` in [0, 1] and codes `[n, latent_dim]`."""


class CodesFlow(nn.Module, ABC):
    """An invertible map between codes and draws of N(0, I), its base.

    Attributes:
        latent_dim, init_args: as of a `LatentDecoder`.
    """

    latent_dim: int
    init_args: dict[str, Any]

    @abstractmethod
    def base_of(self, z: Tensor) -> Tensor:
        """Return for codes `[n, latent_dim]` where they are in the base, `[n, latent_dim]`."""

    @abstractmethod
    def from_base(self, u: Tensor) -> Tensor:
        """Return codes `[n, latent_dim]` for places in the base `[n, latent_dim]`: the inverse of `base_of`."""
