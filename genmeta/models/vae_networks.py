"""Encoders and decoders of VAEs, and the encoder that a GAN gets beside it."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from genmeta.errors import require_positive
from genmeta.models.decoder import LatentDecoder, LatentEncoder
from genmeta.models.networks import Down, Shape, Up, checked_shape


class ConvEncoder(LatentEncoder):
    """`Down`, a hidden layer, then mean and log variance of q(z | x).

    Args:
        latent_dim: size of a code.
        image_shape: `[C, H, W]`; the data's if left out.
        channels: of the feature maps, from the largest down; each is one halving of the side.
        hidden: units of the layer between.
        residual: residual blocks in place of plain ones.
    """

    def __init__(
        self,
        latent_dim: int = 32,
        image_shape: Shape = None,
        channels: Sequence[int] = (32, 64),
        hidden: int = 256,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.init_args = _init_args(latent_dim, image_shape, channels, hidden, residual)
        self.latent_dim, self.image_shape = latent_dim, checked_shape(image_shape)
        body = Down(self.image_shape, channels, residual)
        self.layers = nn.Sequential(
            body,
            nn.Flatten(),
            nn.Linear(prod(body.out_shape), hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * latent_dim),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.layers(x).chunk(2, 1)
        # a log variance beyond these is a step that went astray: exp() of it would end the run in NaN
        return mean, log_var.clamp(-12, 6)


class ConvDecoder(LatentDecoder):
    """The encoder's mirror image; `forward` returns logits, whose sigmoid is the mean image under every likelihood."""

    def __init__(
        self,
        latent_dim: int = 32,
        image_shape: Shape = None,
        channels: Sequence[int] = (64, 32),
        hidden: int = 256,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.init_args = _init_args(latent_dim, image_shape, channels, hidden, residual)
        self.latent_dim, self.image_shape = latent_dim, checked_shape(image_shape)
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, hidden), nn.ReLU(), Up(hidden, self.image_shape, channels, residual, batch_norm=False)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return logits `[n, C, H, W]` for codes `[n, latent_dim]`."""
        return self.layers(z)

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self(z))


def _init_args(
    latent_dim: int, image_shape: Shape, channels: Sequence[int], hidden: int, residual: bool
) -> dict[str, Any]:
    require_positive("the VAE's networks", latent_dim=latent_dim, channels=min(channels, default=1), hidden=hidden)
    return {
        "latent_dim": latent_dim,
        "image_shape": list(checked_shape(image_shape)),
        "channels": list(channels),
        "hidden": hidden,
        "residual": residual,
    }
