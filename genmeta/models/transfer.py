"""Networks that were trained for something else, as backbones: what a generative model knows, carried to a learner."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from genmeta.data.seen import Origin
from genmeta.errors import UserError
from genmeta.models.checkpoint import FromCheckpoint, load_generator
from genmeta.models.decoder import Discriminator, LatentEncoder
from genmeta.models.made_with import MadeWith


class PretrainedBackbone(FromCheckpoint, MadeWith, nn.Module, ABC):
    """A trained network as a learner's (initial) backbone: images `[n, C, H, W]` in [0, 1] to features `[n, d]`.

    Args:
        checkpoint: where the network's weights are. A learner's checkpoint describes the network, so that it is built
            again without this file; then `checkpoint` is None and `network` is given.
        frozen: no gradient reaches the network, its weights and running statistics stay as they are, and no learner
            adapts them. False: they are where training begins.
        network: in place of `checkpoint`, the network itself.

    Attributes:
        image_shape: `(C, H, W)` of the images.
        n_features: size of the features.
        without_file: arguments that build the backbone again without the checkpoint's file, and without weights.

    Raises:
        UserError: not exactly one of checkpoint and network is given, or the checkpoint has no such network.
    """

    image_shape: tuple[int, int, int]
    n_features: int

    def __init__(self, checkpoint: str | None = None, frozen: bool = True, network: nn.Module | None = None) -> None:
        super().__init__()
        if (checkpoint is None) == (network is None):
            raise UserError(
                f"{type(self).__name__}: checkpoint is not set; expected the path of a trained network's checkpoint"
                if network is None
                else f"{type(self).__name__}: found both checkpoint and network; expected one of them"
            )
        self.checkpoint, self.frozen = checkpoint, frozen
        self.without_file: dict[str, Any] = {}
        if checkpoint is not None:
            network, description, self.origin = self.read(checkpoint)
            self.without_file = {"checkpoint": None, "network": description}
        assert network is not None
        self.network = network.requires_grad_(not frozen)
        if not hasattr(network, "image_shape"):
            raise UserError(f"{type(self).__name__}: {type(network).__name__} does not state its image_shape")
        self.image_shape = network.image_shape  # type: ignore[assignment]
        with torch.no_grad():
            network.eval()
            self.n_features = self.features(torch.zeros(1, *self.image_shape).to(next(network.parameters()))).shape[1]
        network.train()  # as any new network

    @abstractmethod
    def read(self, checkpoint: str) -> tuple[nn.Module, dict[str, Any], Origin]:
        """Return the network of a checkpoint, what builds it again, and what it was trained on."""

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Return features `[n, n_features]` for images `[n, C, H, W]` in [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return features `[n, n_features]` for images `[n, C, H, W]` in [0, 1]."""
        if not self.frozen:
            return self.features(x)
        self.network.eval()  # whatever mode the learner is in: running statistics stay too
        with torch.no_grad():  # `torch.func.grad` sees constants here, so that MAML's inner loop adapts the head alone
            return self.features(x)


class EncoderBackbone(PretrainedBackbone):
    """The encoder of a VAE, or of a GAN that has one: features are the posterior means of the codes.

    The layer before them does as well on validation classes, not better, with eight times the entries.
    """

    def read(self, checkpoint: str) -> tuple[nn.Module, dict[str, Any], Origin]:
        return _network_of(checkpoint, "encoder", "has no encoder; expected a VAE's, or a GAN's with model.encoder")

    def features(self, x: Tensor) -> Tensor:
        assert isinstance(self.network, LatentEncoder)
        return self.network(x)[0]


class DiscriminatorBackbone(PretrainedBackbone):
    """The trunk of a GAN's discriminator; features are its last feature maps, averaged over places.

    After Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional GANs", ICLR 2016,
    section 5.1, who pool the maps of all layers to 4×4 places. A discriminator with projection compares the sum over
    places with its classes, and a mean has few enough entries for a covariance.
    """

    def read(self, checkpoint: str) -> tuple[nn.Module, dict[str, Any], Origin]:
        return _network_of(checkpoint, "discriminator", "has no discriminator; expected a GAN's")

    def features(self, x: Tensor) -> Tensor:
        assert isinstance(self.network, Discriminator)
        return self.network.trunk(x * 2 - 1)


def _network_of(checkpoint: str, role: str, otherwise: str) -> tuple[nn.Module, dict[str, Any], Origin]:
    generator = load_generator(checkpoint)
    if role not in generator.networks:
        raise UserError(f"generator {checkpoint} {otherwise}")
    network: Any = generator.networks[role]
    description = {"class_path": f"{type(network).__module__}.{type(network).__qualname__}"}
    return network, {**description, "init_args": network.init_args}, generator.origin
