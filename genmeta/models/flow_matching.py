"""Flow matching of images, as `genmeta.models.flow` describes it."""

from functools import partial
from typing import get_args

import torch
from torch import Tensor

from genmeta.errors import UserError, require_positive
from genmeta.models.flow import Solver, flow_matching_loss, integrate, logit_normal, nearest_pairs
from genmeta.models.image_ode import ImageODE, ODENetwork
from genmeta.models.networks import part_of
from genmeta.rng import Rng, SharedRng, normal, uniform


class FlowMatching(ImageODE):
    """Trained on the velocity of straight lines from noise to images, and sampled along what it has learned.

    Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023; Liu, Gong and Liu, "Flow Straight and Fast",
    ICLR 2023.

    Args:
        network: of the places on the lines, and of times.
        steps: of the solver from noise to image.
        solver: `euler`, `midpoint` or `heun`; the last two ask the network twice a step.
        encoding_steps: of the solver from image to noise. More than `steps`: the velocity is steep near images, where
            encoding begins, and each image is encoded only once.
        time_mean, time_std: of the logits of the times that are trained at; with `time_std` 0 all times are alike.
        coupled: pair noise and images of a batch so that the lines cross less (minibatch optimal transport).
        guidance, without_class: as of an `ImageODE`.

    Raises:
        UserError: a setting is out of range.
    """

    kind = "flow"

    def __init__(
        self,
        network: ODENetwork,
        steps: int = 8,
        solver: Solver = "midpoint",
        encoding_steps: int = 32,
        time_mean: float = 0.0,
        time_std: float = 1.0,
        coupled: bool = False,
        guidance: float = 1.0,
        without_class: float = 0.1,
    ) -> None:
        super().__init__(network, guidance, without_class)
        require_positive("FlowMatching", steps=steps, encoding_steps=encoding_steps)
        if solver not in get_args(Solver):
            raise UserError(f"FlowMatching: solver must be one of {', '.join(get_args(Solver))}; found '{solver}'")
        if time_std < 0:
            raise UserError(f"FlowMatching: time_std must be at least 0, found {time_std}")
        self.init_args = {
            "network": part_of(network),
            "steps": steps,
            "solver": solver,
            "encoding_steps": encoding_steps,
            "time_mean": time_mean,
            "time_std": time_std,
            "coupled": coupled,
            "guidance": guidance,
            "without_class": without_class,
        }
        self.steps, self.solver, self.encoding_steps = steps, solver, encoding_steps
        self.time_mean, self.time_std, self.coupled = time_mean, time_std, coupled

    def loss(self, images: Tensor, condition: Tensor | None, rng: Rng) -> Tensor:
        n = len(images)
        if self.time_std:
            times = logit_normal(normal(rng, n, dtype=images.dtype), self.time_mean, self.time_std)
        else:
            times = uniform(rng, n, dtype=images.dtype)
        noise = _coupled_noise(images, rng) if self.coupled else normal(rng, *images.shape, dtype=images.dtype)
        velocity = lambda x, t: self.network(x, t, condition).to(x)  # noqa: E731 - errors are of float32
        return flow_matching_loss(velocity, noise, images, times)

    def images(self, noise: Tensor, condition: Tensor | None) -> Tensor:
        return integrate(partial(self.velocity, condition=condition), noise, _times(self.steps), self.solver)

    def noise(self, images: Tensor) -> Tensor:
        nothing = images.new_zeros(len(images), self.class_dim) if self.class_dim else None
        falling = _times(self.encoding_steps).flip(0)
        return integrate(partial(self.velocity, condition=nothing), images, falling, self.solver)

    def velocity(self, x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """Return the guided velocity `[n, C, H, W]` of places at times `[n]`."""
        return self.guided(x, t, condition).to(x)


def _times(steps: int) -> Tensor:
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


@torch.no_grad()
def _coupled_noise(images: Tensor, rng: Rng) -> Tensor:
    """Return noise that is paired with images over a whole batch, whichever process has which image."""
    if not isinstance(rng, SharedRng) or rng.world == 1:
        noise = normal(rng, *images.shape, dtype=images.dtype)
        return noise[nearest_pairs(noise, images)]
    parts = [torch.empty_like(images) for _ in range(rng.world)]
    torch.distributed.all_gather(parts, images.contiguous())
    of_all = torch.stack(parts, 1).flatten(0, 1)  # this process has every `world`-th image
    noise = normal(rng.generator, *of_all.shape, dtype=images.dtype)
    return noise[nearest_pairs(noise, of_all)][rng.rank :: rng.world]
