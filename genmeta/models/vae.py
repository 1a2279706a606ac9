"""Convolutional variational autoencoder (Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.errors import UserError, require_positive
from genmeta.models.decoder import LatentDecoder


class ConvEncoder(nn.Module):
    """Two convolutions with stride 2 and a hidden layer; returns mean and log variance of q(z | x)."""

    def __init__(
        self,
        latent_dim: int = 32,
        image_shape: Sequence[int] = (1, 28, 28),
        channels: Sequence[int] = (32, 64),
        hidden: int = 256,
    ) -> None:
        super().__init__()
        c, h, w = _sizes(latent_dim, image_shape, channels, hidden)
        self.latent_dim, self.image_shape = latent_dim, (c, h * 4, w * 4)
        self.layers = nn.Sequential(
            nn.Conv2d(c, channels[0], 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(channels[0], channels[1], 4, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(channels[1] * h * w, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * latent_dim),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance, each `[n, latent_dim]`, for images `[n, C, H, W]` in [0, 1]."""
        mean, log_var = self.layers(x).chunk(2, 1)
        return mean, log_var


class ConvDecoder(LatentDecoder):
    """The encoder's mirror image; `forward` returns Bernoulli logits of the pixels."""

    def __init__(
        self,
        latent_dim: int = 32,
        image_shape: Sequence[int] = (1, 28, 28),
        channels: Sequence[int] = (32, 64),
        hidden: int = 256,
    ) -> None:
        super().__init__()
        self.init_args = {
            "latent_dim": latent_dim,
            "image_shape": list(image_shape),
            "channels": list(channels),
            "hidden": hidden,
        }
        c, h, w = _sizes(latent_dim, image_shape, channels, hidden)
        self.latent_dim, self.image_shape = latent_dim, (c, h * 4, w * 4)
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, channels[1] * h * w),
            nn.ReLU(),
            nn.Unflatten(1, (channels[1], h, w)),
            nn.ConvTranspose2d(channels[1], channels[0], 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(channels[0], c, 4, 2, 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return logits `[n, C, H, W]` for codes `[n, latent_dim]`."""
        return self.layers(z)

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self(z))


def quarter(image_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return `(C, H / 4, W / 4)`.

    Raises:
        UserError: not three numbers, or height and width are no multiples of 4.
    """
    if len(image_shape) != 3 or min(image_shape) < 1 or image_shape[1] % 4 or image_shape[2] % 4:
        raise UserError(
            f"image_shape must be [channels, height, width] with height and width multiples of 4, "
            f"found {list(image_shape)}"
        )
    c, h, w = image_shape
    return c, h // 4, w // 4


def _sizes(latent_dim: int, image_shape: Sequence[int], channels: Sequence[int], hidden: int) -> tuple[int, int, int]:
    if len(channels) != 2:
        raise UserError(
            f"the VAE's networks have two convolutions: channels must be two numbers, found {list(channels)}"
        )
    require_positive("the VAE's networks", latent_dim=latent_dim, channels=min(channels), hidden=hidden)
    return quarter(image_shape)


def sample_posterior(mean: Tensor, log_var: Tensor, rng: torch.Generator) -> Tensor:
    """Return one reparametrised draw `mean + exp(log_var / 2) · noise` from q(z | x), `[n, latent_dim]`."""
    noise = torch.randn(mean.shape, generator=rng, device=mean.device, dtype=mean.dtype)
    return mean + torch.exp(log_var / 2) * noise


def bernoulli_log_likelihood(logits: Tensor, x: Tensor) -> Tensor:
    """Return `log p(x | z)` in nats, summed over pixels, `[n]`. Grey pixels count as expected values of coin flips."""
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def kl_to_prior(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return `KL(q(z | x) || N(0, I))` in nats, summed over latent dimensions, `[n]` (Kingma and Welling, app. B)."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(1)
