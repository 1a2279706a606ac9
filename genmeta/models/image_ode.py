"""Ordinary differential equations between noise and images, as a decoder and an encoder of codes.

A code is the noise that an image begins as, each value from N(0, 1), and then the vector of a class, if the network
knows any. So a code is all there is to an image, and images can be mixed, moved and encoded as with any other model:
Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", ICLR 2021, section 4.3.
"""

from abc import ABC, abstractmethod
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from genmeta.errors import UserError
from genmeta.models.decoder import LatentDecoder, LatentEncoder, Redrawer
from genmeta.models.networks import part_of
from genmeta.rng import Rng, uniform
from genmeta.tasks.prior import GaussianMixture

POINT = -12.0  # log variance of an encoding: the code of an image is one point, and VAEs have no smaller one


class ODENetwork(nn.Module, ABC):
    """The network of an `ImageODE`: of noisy images, and of what is known of the clean ones.

    Attributes:
        image_shape, init_args: as of a `LatentDecoder`.
        class_dim: entries of a class's vector; 0 if it knows no classes.
        classes: the vector of each class; None if it knows none.
        given: it knows another image, in place of a class.
    """

    image_shape: tuple[int, int, int]
    init_args: dict[str, Any]
    class_dim: int
    classes: nn.Embedding | None
    given: bool

    @abstractmethod
    def forward(self, x: Tensor, level: Tensor, condition: Tensor | None) -> Tensor:
        """Return `[n, C, H, W]`.

        Args:
            x: images `[n, C, H, W]`.
            level: how noisy they are, or the time, `[n]`, between some -2 and 2.
            condition: vectors of their classes `[n, class_dim]`, or given images `[n, C, H, W]` in [-1, 1]; 0 where
                nothing is known.
        """


class ImageODE(nn.Module, ABC):
    """A model that turns noise into images in [-1, 1] by steps, and back.

    With a network that knows classes, or a given image, an image is drawn by classifier-free guidance: what the network
    says with it, extrapolated from what it says without it (Ho and Salimans, "Classifier-Free Diffusion Guidance",
    2022, equation 6 with w = guidance - 1). A code without a class is drawn, and an image encoded, without guidance.

    Args:
        network: of noisy images.
        guidance: 1 draws as trained; above, images are more typical of their class and less various.
        without_class: share of training images whose class, or given image, the network is not told.

    Attributes:
        kind: one word for what it is, in the labels of runs.
        init_args: as of a `LatentDecoder`.
    """

    kind: str
    init_args: dict[str, Any]

    def __init__(self, network: ODENetwork, guidance: float, without_class: float) -> None:
        super().__init__()
        name = type(self).__name__
        if guidance < 0:
            raise UserError(f"{name}: guidance must be at least 0, found {guidance}")
        if not 0 <= without_class <= 1:
            raise UserError(f"{name}: without_class must be in [0, 1], found {without_class}")
        if guidance != 1 and not (network.class_dim or network.given):
            raise UserError(f"{name}: guidance is {guidance}, but the network knows no classes; set class_dim above 0")
        self.network, self.guidance, self.without_class = network, guidance, without_class
        self.image_shape, self.class_dim = network.image_shape, network.class_dim

    @abstractmethod
    def loss(self, images: Tensor, condition: Tensor | None, rng: Rng) -> Tensor:
        """Return what training minimises, `[n]`, of images `[n, C, H, W]` in [-1, 1], with what is
        known of them (`ODENetwork.forward`).
        """

    @abstractmethod
    def images(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Return images for noise from N(0, I), both `[n, C, H, W]`, with what is known of them."""

    @abstractmethod
    def noise(self, images: Tensor) -> Tensor:
        """Return the noise that images become, both `[n, C, H, W]`, without a class."""

    def measure(self, images: Tensor) -> None:
        """Set from training images `[n, C, H, W]` in [-1, 1] what is not learned (nothing unless overridden)."""

    def told(self, condition: Tensor, rng: Rng) -> Tensor:
        """Return what the network is told in training, `[n, ...]`: of some images, 0."""
        told = uniform(rng, len(condition)) >= self.without_class
        return condition * told.view(-1, *(1,) * (condition.dim() - 1))

    def training_vectors(self, labels: Tensor, rng: Rng) -> Tensor | None:
        """Return the vectors of classes `[n]`, of some of them 0; None if the network knows no classes."""
        return None if self.network.classes is None else self.told(self.network.classes(labels), rng)

    def guided(self, x: Tensor, level: Tensor, condition: Tensor | None) -> Tensor:
        """Return what the network says of images `[n, C, H, W]` at levels `[n]`, guided by what is known of them."""
        if condition is None or self.guidance == 1 or not condition.any():
            return self.network(x, level, condition)
        knowing, not_knowing = self.network(
            torch.cat([x, x]), torch.cat([level, level]), torch.cat([condition, torch.zeros_like(condition)])
        ).chunk(2)
        return not_knowing + self.guidance * (knowing - not_knowing)

    def prior(self, n_classes: int) -> GaussianMixture:
        """Return the distribution of codes, with `n_classes` classes all alike."""
        n_values = prod(self.image_shape)
        if self.network.classes is None:
            return GaussianMixture.standard(n_values)
        vectors = self.network.classes.weight[:n_classes].detach().cpu()
        means = torch.cat([torch.zeros(n_classes, n_values), vectors], 1)
        scales = torch.ones_like(means)
        scales[:, n_values:] = 0  # a class is one vector
        return GaussianMixture(torch.full((n_classes,), 1 / n_classes), means, scales)


class _AroundODE(nn.Module):
    """What the networks that others use of an `ImageODE` have in common."""

    def __init__(self, ode: ImageODE) -> None:
        super().__init__()
        self.init_args = {"ode": part_of(ode)}
        self.image_shape = ode.image_shape
        self.latent_dim = prod(ode.image_shape) + ode.class_dim
        self.ode = ode

    def drawn(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        """Return images in [0, 1] for noise from N(0, I), both `[n, C, H, W]`, with what is known of them."""
        return ((self.ode.images(noise, condition) + 1) / 2).clamp(0, 1)


class ODEDecoder(_AroundODE, LatentDecoder):
    """Codes to images by an `ImageODE`: the same code, the same image."""

    def decode(self, z: Tensor) -> Tensor:
        noise = z[:, : prod(self.image_shape)].unflatten(1, self.image_shape)
        return self.drawn(noise, z[:, noise[0].numel() :] if self.ode.class_dim else None)


class ODEEncoder(_AroundODE, LatentEncoder):
    """Images to codes against the steps of an `ODEDecoder`, without a class: each image has one, with no spread."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        noise = self.ode.noise(2 * x - 1).flatten(1)
        mean = torch.cat([noise, noise.new_zeros(len(x), self.ode.class_dim)], 1)
        return mean, torch.full_like(mean, POINT)


class ODERedrawer(_AroundODE, Redrawer):
    """Draws images again by an `ImageODE` whose network is given them, and so knows no classes; a code is the noise
    that it begins with.
    """

    def redraw(self, x: Tensor, z: Tensor) -> Tensor:
        return self.drawn(z.unflatten(1, self.image_shape), 2 * x - 1)
