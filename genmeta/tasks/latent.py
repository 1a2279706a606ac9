"""Episodes of generated classes: how codes `z` are arranged into classes. Tensors only, no network.

The three policies are those of Khodadadeh et al., "Unsupervised Meta-Learning through Latent-Space Interpolation in
Generative Models" (LASIUM), ICLR 2021. A class is an anchor `z_c ~ p(z)`, the generator's prior, usually N(0, I);
anchors of one episode are kept apart. With latent dim d, `E|z_i - z_j|² = 2d` under N(0, I), and `2d · spread²` under
another prior, so distances are given in units of its root and settings carry over between generators.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from genmeta.episode import EpisodePlan, EpisodeShape
from genmeta.errors import UserError
from genmeta.tasks.prior import GaussianMixture
from genmeta.tasks.sampler import TaskPool, TaskSampler, draw_labels

_ROUNDS = 100  # redraws of anchors before giving up: a separation that needs more is a mistake


class LatentPolicy(ABC):
    """How the instances of a class are drawn around the anchors of an episode."""

    @abstractmethod
    def instances(self, anchors: Tensor, n_images: int, prior: GaussianMixture, rng: torch.Generator) -> Tensor:
        """Return codes `[task, way, n_images, d]` for anchors `[task, way, d]`; every draw is made with `rng`."""


@dataclass(frozen=True)
class PriorNoise(LatentPolicy):
    """LASIUM-N: `z_c + N(0, sigma² I)`.

    Args:
        sigma: standard deviation of the noise per dimension, in units of the prior's spread (1 for N(0, I)); the paper
            uses 0.5 with GANs.
    """

    sigma: float = 0.5

    def __post_init__(self) -> None:
        if self.sigma < 0:
            raise UserError(f"PriorNoise: sigma must be at least 0, found {self.sigma}")

    def instances(self, anchors: Tensor, n_images: int, prior: GaussianMixture, rng: torch.Generator) -> Tensor:
        noise = torch.randn(*anchors.shape[:2], n_images, anchors.shape[2], generator=rng)
        return anchors[:, :, None] + self.sigma * prior.spread * noise


@dataclass(frozen=True)
class RandomOther(LatentPolicy):
    """LASIUM-RO: `z_c + alpha (v - z_c)`, a fresh `v ~ p(z)` for every image.

    Args:
        alpha: how far to go towards the other code, in [0, 1]; the paper uses 0.2 to 0.4.
    """

    alpha: float = 0.3

    def __post_init__(self) -> None:
        _check_alpha("RandomOther", self.alpha)

    def instances(self, anchors: Tensor, n_images: int, prior: GaussianMixture, rng: torch.Generator) -> Tensor:
        others = prior.sample(*anchors.shape[:2], n_images, rng=rng)
        return torch.lerp(anchors[:, :, None].expand_as(others), others, self.alpha)


@dataclass(frozen=True)
class OtherClass(LatentPolicy):
    """LASIUM-OC: `z_c + alpha (z_c' - z_c)`, with c' going round the other classes of the episode.

    The images of a class start at a random other class and take the others in turn, so that any way and any number of
    images work; with more images than other classes the step shrinks by one part in four each time round, or the
    same image would come twice.

    Args:
        alpha: how far to go towards the other anchor, in [0, 1); the paper uses 0.4 to 0.6, and at 0.5 two classes
            share the midpoint between them.
    """

    alpha: float = 0.4

    def __post_init__(self) -> None:
        _check_alpha("OtherClass", self.alpha)

    def instances(self, anchors: Tensor, n_images: int, prior: GaussianMixture, rng: torch.Generator) -> Tensor:
        n_tasks, n_way, dim = anchors.shape
        # turn k of class c goes to class (c + 1 + order[k mod (way - 1)]) mod way: never to c itself
        order = torch.rand(n_tasks, n_way, n_way - 1, generator=rng).argsort(2)
        turn = torch.arange(n_images)
        offset = order[:, :, turn % (n_way - 1)] + 1
        other = (torch.arange(n_way)[:, None] + offset) % n_way
        targets = anchors.gather(1, other.flatten(1)[..., None].expand(-1, -1, dim)).unflatten(1, (n_way, n_images))
        reach = self.alpha * 0.75 ** (turn // (n_way - 1))
        # which of the images are support must not depend on the reach
        shuffle = torch.rand(n_tasks, n_way, n_images, generator=rng).argsort(2)
        codes = anchors[:, :, None] + reach[:, None] * (targets - anchors[:, :, None])
        return codes.gather(2, shuffle[..., None].expand(-1, -1, -1, dim))


def _check_alpha(policy: str, alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise UserError(f"{policy}: alpha must be in [0, 1], found {alpha}")


def draw_anchors(n_tasks: int, n_way: int, prior: GaussianMixture, separation: float, rng: torch.Generator) -> Tensor:
    """Draw anchors from the prior, all pairs of an episode at least `separation · sqrt(2 d) · spread` apart.

    Anchors that are too close to an earlier one are drawn again.

    Returns:
        float32 `[n_tasks, n_way, d]`.

    Raises:
        UserError: no such anchors were found.
    """
    anchors = prior.sample(n_tasks, n_way, rng=rng)
    nearest = separation * (2 * prior.dim) ** 0.5 * prior.spread
    earlier = torch.ones(n_way, n_way, dtype=torch.bool).tril(-1)
    for _ in range(_ROUNDS):
        distances = torch.cdist(anchors, anchors, compute_mode="donot_use_mm_for_euclid_dist")
        close = ((distances < nearest) & earlier).any(2)
        if not close.any():
            return anchors
        anchors[close] = prior.sample(int(close.sum()), rng=rng)
    raise UserError(
        f"LatentTasks: no {n_way} codes with separation {separation} found in {prior.dim} dimensions after {_ROUNDS} "
        f"draws; 1 is the typical distance of two codes, use less"
    )


@dataclass(frozen=True)
class LatentTasks(TaskSampler):
    """Episodes in which every class is generated; any way, any shot.

    Args:
        policy: how the images of a class lie around its anchor.
        separation: smallest distance of two anchors of an episode, in units of sqrt(2 · latent_dim) · spread (1 is
            typical for two independent codes of the prior).
    """

    policy: LatentPolicy
    separation: float = 0.8

    @property
    def uses_latents(self) -> bool:
        return True

    def check(self, pool: TaskPool, shape: EpisodeShape) -> None:
        if pool.prior is None:
            raise UserError("LatentTasks need a generator, but data.generator is not set")
        # raises if the separation cannot be had; the meta-batches themselves come from other streams
        draw_anchors(16, shape.n_way, pool.prior, self.separation, torch.Generator().manual_seed(0))

    def sample(self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, rng: torch.Generator) -> EpisodePlan:
        assert pool.prior is not None  # `check` asks for it
        anchors = draw_anchors(n_tasks, shape.n_way, pool.prior, self.separation, rng)
        return EpisodePlan(
            n_shot=shape.n_shot,
            rows=torch.zeros(n_tasks, shape.n_way, shape.n_images, dtype=torch.long),
            turns=torch.zeros(n_tasks, shape.n_way, dtype=torch.long),
            labels=draw_labels(n_tasks, shape.n_way, rng),
            is_latent=torch.ones(n_tasks, shape.n_way, dtype=torch.bool),
            z=self.policy.instances(anchors, shape.n_images, pool.prior, rng).flatten(0, 1),
        )
