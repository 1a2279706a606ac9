"""Generators and discriminators for 8 to 84 pixels."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm

from genmeta.errors import UserError, require_positive
from genmeta.models.decoder import Discriminator, LatentDecoder
from genmeta.models.networks import Down, Shape, Up, checked_shape
from genmeta.rng import Rng, normal
from genmeta.tasks.prior import GaussianMixture


class Generator(LatentDecoder):
    """A GAN's generator: `forward` gives images in [-1, 1]; codes have the prior N(0, I) unless overridden."""

    def decode(self, z: Tensor) -> Tensor:
        return (self(z) + 1) / 2

    def codes(self, labels: Tensor, rng: Rng) -> Tensor:
        """Return codes `[n, latent_dim]` of the prior for images of classes `labels` `[n]`, on the device of `rng`."""
        return normal(rng, len(labels), self.latent_dim)

    def prior(self, n_classes: int) -> GaussianMixture:
        """Return the distribution of `codes`, with `n_classes` classes all alike."""
        return GaussianMixture.standard(self.latent_dim)


class FullyConnectedGenerator(Generator):
    """latent → hidden layers → pixels; batch norm on all hidden layers but the first; tanh.

    The classic GAN (Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014) with the layer sizes of the widely
    used PyTorch version for 28×28 digits; batch norm and LeakyReLU(0.2) from Radford et al., "DCGAN", ICLR 2016.

    Args:
        image_shape: `[C, H, W]`; the data's if left out.
    """

    chunk_size = 1024  # large matrix products are fast

    def __init__(
        self,
        latent_dim: int = 100,
        image_shape: Shape = None,
        hidden: Sequence[int] = (128, 256, 512, 1024),
    ) -> None:
        super().__init__()
        require_positive(
            "FullyConnectedGenerator", latent_dim=latent_dim, layers=len(hidden), smallest=min(hidden, default=1)
        )
        self.init_args = {
            "latent_dim": latent_dim,
            "image_shape": list(checked_shape(image_shape)),
            "hidden": list(hidden),
        }
        self.latent_dim, self.image_shape = latent_dim, checked_shape(image_shape)
        layers: list[nn.Module] = []
        for depth, (n_in, n_out) in enumerate(zip([latent_dim, *hidden], hidden, strict=False)):
            layers += [nn.Linear(n_in, n_out), *([nn.BatchNorm1d(n_out)] if depth else []), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], prod(self.image_shape)), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        """Return images `[n, C, H, W]` in [-1, 1]."""
        return self.layers(z).unflatten(1, self.image_shape)


class FullyConnectedDiscriminator(Discriminator):
    """pixels → hidden layers → one **logit** (no sigmoid): > 0 means "real"."""

    def __init__(self, image_shape: Shape = None, hidden: Sequence[int] = (512, 256)) -> None:
        super().__init__()
        require_positive("FullyConnectedDiscriminator", layers=len(hidden), smallest=min(hidden, default=1))
        self.image_shape = checked_shape(image_shape)
        self.init_args = {"image_shape": list(self.image_shape), "hidden": list(hidden)}
        sizes = [prod(self.image_shape), *hidden]
        layers: list[nn.Module] = []
        for n_in, n_out in zip(sizes, hidden, strict=False):
            layers += [nn.Linear(n_in, n_out), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[n]` for images `[n, C, H, W]` in [-1, 1]."""
        return self.layers(x).squeeze(1)

    def trunk(self, x: Tensor) -> Tensor:
        return self.layers[:-1](x)


class ConvGenerator(Generator):
    """A convolutional generator, as in DCGAN (Radford et al., ICLR 2016) or residual (Miyato et al., ICLR 2018); tanh.

    Class-conditional with `class_dim` > 0: the last `class_dim` entries of a code are the class's, a learned vector for
    each meta-train class. So a code is all there is to an image, and a class that lies between two known ones is
    drawn like any other.

    Args:
        latent_dim: size of a code, the class's part included.
        image_shape: `[C, H, W]`; the data's if left out.
        channels: of the feature maps, from the smallest up; each is one doubling of the side.
        residual: residual blocks in place of plain ones.
        class_dim: entries of a code that are the class's.
        max_classes: room for so many classes' vectors, at least the number of meta-train classes.
    """

    def __init__(
        self,
        latent_dim: int = 64,
        image_shape: Shape = None,
        channels: Sequence[int] = (128, 64),
        residual: bool = False,
        class_dim: int = 0,
        max_classes: int = 2048,
    ) -> None:
        super().__init__()
        require_positive("ConvGenerator", latent_dim=latent_dim, channels=min(channels, default=1))
        if not 0 <= class_dim < latent_dim:
            raise UserError(f"ConvGenerator: class_dim must be in [0, latent_dim), found {class_dim} of {latent_dim}")
        self.init_args = {
            "latent_dim": latent_dim,
            "image_shape": list(checked_shape(image_shape)),
            "channels": list(channels),
            "residual": residual,
            "class_dim": class_dim,
            "max_classes": max_classes,
        }
        self.latent_dim, self.image_shape, self.class_dim = latent_dim, checked_shape(image_shape), class_dim
        self.classes = nn.Embedding(max_classes, class_dim) if class_dim else None
        self.body = nn.Sequential(Up(latent_dim, self.image_shape, channels, residual), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        """Return images `[n, C, H, W]` in [-1, 1]."""
        return self.body(z)

    def codes(self, labels: Tensor, rng: Rng) -> Tensor:
        noise = normal(rng, len(labels), self.latent_dim - self.class_dim)
        return noise if self.classes is None else torch.cat([noise, self.classes(labels)], 1)

    def prior(self, n_classes: int) -> GaussianMixture:
        if self.classes is None:
            return GaussianMixture.standard(self.latent_dim)
        vectors = self.classes.weight[:n_classes].detach().cpu()
        means = torch.cat([torch.zeros(n_classes, self.latent_dim - self.class_dim), vectors], 1)
        scales = torch.ones_like(means)
        scales[:, -self.class_dim :] = 0  # a class is one vector
        return GaussianMixture(torch.full((n_classes,), 1 / n_classes), means, scales)


class ConvDiscriminator(Discriminator):
    """A convolutional discriminator: `Down`, then one **logit**.

    With `projection` it knows the class: `logit = w · φ(x) + v_y · Σ φ(x)` with a learned vector v for each class and
    features summed over places (Miyato and Koyama, "cGANs with Projection Discriminator", ICLR 2018, eq. 3).

    Args:
        image_shape: `[C, H, W]`; the data's if left out.
        channels: of the feature maps, from the largest down; each is one halving of the side.
        residual: residual blocks in place of plain ones.
        spectral_norm: divide each weight by its largest singular value (Miyato et al., ICLR 2018).
        projection: class-conditional; goes with a generator with `class_dim` > 0.
        max_classes: room for so many classes' vectors.
    """

    def __init__(
        self,
        image_shape: Shape = None,
        channels: Sequence[int] = (64, 128),
        residual: bool = False,
        spectral_norm: bool = False,
        projection: bool = False,
        max_classes: int = 2048,
    ) -> None:
        super().__init__()
        require_positive("ConvDiscriminator", channels=min(channels, default=1))
        self.image_shape = checked_shape(image_shape)
        self.init_args = {
            "image_shape": list(self.image_shape),
            "channels": list(channels),
            "residual": residual,
            "spectral_norm": spectral_norm,
            "projection": projection,
            "max_classes": max_classes,
        }
        self.body = Down(self.image_shape, channels, residual, spectral_norm)
        linear = nn.Linear(prod(self.body.out_shape), 1)
        self.logit = torch_spectral_norm(linear) if spectral_norm else linear
        self.classes = nn.Embedding(max_classes, channels[-1]) if projection else None
        if self.classes is not None:
            nn.init.zeros_(self.classes.weight)  # a class that was never seen adds nothing

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits `[n]` for images `[n, C, H, W]` in [-1, 1] and, with projection, their classes `[n]`."""
        features = self.body(x)
        logits = self.logit(features.flatten(1)).squeeze(1)
        if self.classes is None:
            return logits
        if labels is None:
            raise ValueError("a discriminator with projection needs labels")
        return logits + (features.sum((2, 3)) * self.classes(labels)).sum(1)

    def trunk(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))
