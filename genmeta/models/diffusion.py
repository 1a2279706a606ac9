"""A diffusion model of images, as `genmeta.models.edm` describes it."""

from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from genmeta.errors import UserError, require_positive
from genmeta.models import edm
from genmeta.models.ddim import ddim, scheduler_class
from genmeta.models.image_ode import ImageODE, ODENetwork
from genmeta.models.networks import part_of
from genmeta.rng import Rng, normal

Solver = Literal["heun", "ddim"]


class Diffusion(ImageODE):
    """Trained to take away noise of every level, and sampled along its probability flow, without chance.

    Karras, Aittala, Aila and Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022;
    defaults are those of their table 1, but for the number of steps.

    Args:
        network: of noisy images.
        steps: from noise to image.
        solver: `heun`, of second order, asks the network twice at each step but the last; `ddim` (Song et al., ICLR
            2021) once, by the scheduler of diffusers (`pip install genmeta[diffusers]`). Images are encoded by Heun's
            method either way.
        sigma_data: standard deviation of the images' values in [-1, 1]; that of the training images if left out.
        sigma_min, sigma_max: noise levels between which is sampled.
        rho: the larger, the more of the levels are small ones.
        p_mean, p_std: of the logarithm of the level in training.
        guidance, without_class: as of an `ImageODE`.

    Raises:
        UserError: a setting is out of range.
    """

    kind = "diffusion"
    sigma_data: Tensor

    def __init__(
        self,
        network: ODENetwork,
        steps: int = 18,
        solver: Solver = "heun",
        sigma_data: float | None = None,
        sigma_min: float = edm.SIGMA_MIN,
        sigma_max: float = edm.SIGMA_MAX,
        rho: float = edm.RHO,
        p_mean: float = edm.P_MEAN,
        p_std: float = edm.P_STD,
        guidance: float = 1.0,
        without_class: float = 0.1,
    ) -> None:
        super().__init__(network, guidance, without_class)
        require_positive("Diffusion", steps=steps)
        if not 0 < sigma_min < sigma_max:
            raise UserError(f"Diffusion: expected 0 < sigma_min < sigma_max, found {sigma_min} and {sigma_max}")
        for name, value in {"rho": rho, "p_std": p_std, "sigma_data": 1 if sigma_data is None else sigma_data}.items():
            if value <= 0:
                raise UserError(f"Diffusion: {name} must be above 0, found {value}")
        self.init_args = {
            "network": part_of(network),
            "steps": steps,
            "solver": solver,
            "sigma_data": sigma_data,
            "sigma_min": sigma_min,
            "sigma_max": sigma_max,
            "rho": rho,
            "p_mean": p_mean,
            "p_std": p_std,
            "guidance": guidance,
            "without_class": without_class,
        }
        if solver not in get_args(Solver):
            raise UserError(f"Diffusion: solver must be one of {', '.join(get_args(Solver))}, found {solver!r}")
        if solver == "ddim":
            scheduler_class()  # what is missing is told before training
        self.solve = edm.heun if solver == "heun" else ddim
        self.measured = sigma_data is None
        self.sigma_max, self.p_mean, self.p_std = sigma_max, p_mean, p_std
        self.register_buffer("sigma_data", torch.tensor(0.5 if sigma_data is None else sigma_data))
        self.levels = edm.sampling_levels(steps, sigma_min, sigma_max, rho)

    def measure(self, images: Tensor) -> None:
        if self.measured:
            self.sigma_data.fill_(images.std())

    def denoise(self, x: Tensor, sigma: Tensor, condition: Tensor | None = None, guided: bool = True) -> Tensor:
        """Return estimates of the clean images, `[n, C, H, W]`, for noisy ones and their levels `[n]`."""
        said = self.guided if guided else self.network
        # under mixed precision the network is imprecise, not what is added to it
        network = lambda x, level: said(x, level, condition).to(x)  # noqa: E731
        return edm.preconditioned(network, x, sigma, self.sigma_data)

    def loss(self, images: Tensor, condition: Tensor | None, rng: Rng) -> Tensor:
        sigma = edm.training_levels(normal(rng, len(images), dtype=images.dtype), self.p_mean, self.p_std)
        noise = normal(rng, *images.shape, dtype=images.dtype)

        denoise = partial(self.denoise, condition=condition, guided=False)
        return edm.denoising_loss(denoise, images, sigma, noise, self.sigma_data)

    def images(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        return self.solve(partial(self.denoise, condition=condition), self.sigma_max * noise, self.levels)

    def noise(self, images: Tensor) -> Tensor:
        vectors = images.new_zeros(len(images), self.class_dim) if self.class_dim else None
        rising = self.levels[:-1].flip(0)
        return edm.heun(partial(self.denoise, condition=vectors), images, rising) / self.sigma_max
