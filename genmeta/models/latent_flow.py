"""Flow matching of codes: a flow between N(0, I) and the codes of another model's encoder."""

import torch
from torch import Tensor, nn

from genmeta.errors import require_positive
from genmeta.models.decoder import CodesFlow
from genmeta.models.image_ode import ImageODE, ODENetwork
from genmeta.models.networks import part_of


class CodeNetwork(ODENetwork):
    """The network of an `ImageODE` of codes, which for it are images `[latent_dim, 1, 1]`: residual layers.

    It begins at 0.

    Args:
        latent_dim: size of a code.
        hidden: width of its layers.
        layers: residual ones.
    """

    def __init__(self, latent_dim: int = 32, hidden: int = 256, layers: int = 3) -> None:
        super().__init__()
        require_positive("CodeNetwork", latent_dim=latent_dim, hidden=hidden, layers=layers)
        self.init_args = {"latent_dim": latent_dim, "hidden": hidden, "layers": layers}
        self.image_shape, self.class_dim, self.classes, self.given = (latent_dim, 1, 1), 0, None, False
        self.register_buffer("frequencies", torch.logspace(0, 1.5, 16), persistent=False)
        self.first = nn.Linear(latent_dim + 2 * 16, hidden)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, hidden)) for _ in range(layers)
        )
        self.last = nn.Sequential(nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, latent_dim))
        for weights in self.last[2].parameters():
            nn.init.zeros_(weights)

    def forward(self, x: Tensor, level: Tensor, condition: Tensor | None = None) -> Tensor:
        waves = level[:, None] * self.frequencies.to(level)  # type: ignore[operator]
        y = self.first(torch.cat([x.flatten(1), waves.cos(), waves.sin()], 1))
        for layer in self.layers:
            y = y + layer(y)
        return self.last(y).view_as(x)


class ODEFlow(CodesFlow):
    """An `ImageODE` of codes, as a flow between them and N(0, I)."""

    def __init__(self, ode: ImageODE) -> None:
        super().__init__()
        self.init_args = {"ode": part_of(ode)}
        self.latent_dim = ode.image_shape[0]
        self.ode = ode

    def base_of(self, z: Tensor) -> Tensor:
        return self.ode.noise(z[:, :, None, None]).flatten(1)

    def from_base(self, u: Tensor) -> Tensor:
        return self.ode.images(u[:, :, None, None], None).flatten(1)
