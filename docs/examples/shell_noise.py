"""A latent policy of one's own: all images of a class equally far from its centre."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from genmeta.errors import UserError
from genmeta.tasks.policies import Classes, LatentPolicy
from genmeta.tasks.space import LatentSpace


@dataclass(frozen=True)
class ShellNoise(LatentPolicy):
    """`z_c + radius · u` with a random direction `u` for every image: no image is a copy of the centre or far off.

    Args:
        radius: distance of an image from its class's centre, in units of a typical distance of two codes
            (`LatentSpace.unit`).
    """

    radius: float = 0.3

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise UserError(f"ShellNoise: radius must be above 0, found {self.radius}")

    def classes(self, space: LatentSpace, n: int, rng: torch.Generator) -> Classes:
        return {"centre": space.prior.sample(n, rng=rng)}

    def instances(self, classes: Classes, n_images: int, space: LatentSpace, rng: torch.Generator) -> Tensor:
        centre = classes["centre"][..., None, :]
        directions = torch.randn(*centre.shape[:-2], n_images, space.dim, generator=rng)
        return centre + self.radius * space.unit * F.normalize(directions, dim=-1)
