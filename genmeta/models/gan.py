"""The classic fully-connected GAN (Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014).

Layer sizes as in the widely used PyTorch version for 28×28 digits; batch norm and LeakyReLU(0.2) from Radford et al.,
"DCGAN", ICLR 2016.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.errors import UserError, require_positive
from genmeta.models.decoder import LatentDecoder


class FullyConnectedGenerator(LatentDecoder):
    """latent → hidden layers → pixels; batch norm on all hidden layers but the first; tanh.

    Args:
        image_shape: `[C, H, W]`.
    """

    def __init__(
        self,
        latent_dim: int = 100,
        image_shape: Sequence[int] = (1, 28, 28),
        hidden: Sequence[int] = (128, 256, 512, 1024),
    ) -> None:
        super().__init__()
        require_positive(
            "FullyConnectedGenerator", latent_dim=latent_dim, layers=len(hidden), smallest=min(hidden, default=1)
        )
        self.init_args = {"latent_dim": latent_dim, "image_shape": list(image_shape), "hidden": list(hidden)}
        self.latent_dim, self.image_shape = latent_dim, _three(image_shape)
        layers: list[nn.Module] = []
        for depth, (n_in, n_out) in enumerate(zip([latent_dim, *hidden], hidden, strict=False)):
            layers += [nn.Linear(n_in, n_out), *([nn.BatchNorm1d(n_out)] if depth else []), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], prod(self.image_shape)), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        """Return images `[n, C, H, W]` in [-1, 1]."""
        return self.layers(z).unflatten(1, self.image_shape)

    def decode(self, z: Tensor) -> Tensor:
        return (self(z) + 1) / 2


class FullyConnectedDiscriminator(nn.Module):
    """pixels → hidden layers → one **logit** (no sigmoid): > 0 means "real"."""

    def __init__(self, image_shape: Sequence[int] = (1, 28, 28), hidden: Sequence[int] = (512, 256)) -> None:
        super().__init__()
        require_positive("FullyConnectedDiscriminator", layers=len(hidden), smallest=min(hidden, default=1))
        self.image_shape = _three(image_shape)
        sizes = [prod(self.image_shape), *hidden]
        layers: list[nn.Module] = []
        for n_in, n_out in zip(sizes, hidden, strict=False):
            layers += [nn.Linear(n_in, n_out), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n]` for images `[n, C, H, W]` in [-1, 1]."""
        return self.layers(x).squeeze(1)


class GANObjective(ABC):
    """What discriminator and generator minimise, on logits `[n]`, as a mean over the batch."""

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return `-V(D, G) = -E log D(x) - E log(1 - D(G(z)))` with `D = sigmoid(logit)`."""
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    @abstractmethod
    def generator_loss(self, fake: Tensor) -> Tensor:
        """Return the generator's loss for the logits of its images."""


class Minimax(GANObjective):
    """The generator minimises V(D, G) itself: `E log(1 - D(G(z)))` (Goodfellow et al. 2014, eq. 1)."""

    def generator_loss(self, fake: Tensor) -> Tensor:
        return -F.softplus(fake).mean()


class NonSaturating(GANObjective):
    """The generator maximises `E log D(G(z))` (Goodfellow et al. 2014, section 3): gradients do not vanish early."""

    def generator_loss(self, fake: Tensor) -> Tensor:
        return F.softplus(-fake).mean()


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return `2 E|x - y| - E|x - x'| - E|y - y'|`, at least 0, and 0 for equal distributions.

    Székely and Rizzo, "Energy statistics", J. Stat. Plan. Inference 2013. Unbiased: pairs of an image with itself are
    left out, so that an estimate can be slightly negative.

    Args:
        x, y: `[n, ...]`, `[m, ...]`; compared as flat vectors, divided by the square root of their length, so that
            images in [0, 1] give a number below 2.
    """
    x, y = x.flatten(1), y.flatten(1)
    n, m = len(x), len(y)
    cross = torch.cdist(x, y).mean()
    within = torch.cdist(x, x).sum() / (n * (n - 1)) + torch.cdist(y, y).sum() / (m * (m - 1))
    return (2 * cross - within) / x.shape[1] ** 0.5


def _three(image_shape: Sequence[int]) -> tuple[int, int, int]:
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise UserError(f"image_shape must be [channels, height, width], found {list(image_shape)}")
    c, h, w = image_shape
    return c, h, w
