"""What discriminator and generator of a GAN minimise: pure functions of logits, and penalties on gradients."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from genmeta.rng import Rng, uniform


class GANObjective(ABC):
    """A pair of losses on logits `[n]`, each a mean over the batch. It has no state."""

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return `-V(D, G) = -E log D(x) - E log(1 - D(G(z)))` with `D = sigmoid(logit)`, unless overridden."""
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


class LeastSquares(GANObjective):
    """LSGAN with labels 0, 1 and target 1: `½ E (D(x) - 1)² + ½ E D(G(z))²` and `½ E (D(G(z)) - 1)²`.

    Mao et al., "Least Squares Generative Adversarial Networks", ICCV 2017, eq. 9.
    """

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return (real - 1).square().mean() / 2 + fake.square().mean() / 2

    def generator_loss(self, fake: Tensor) -> Tensor:
        return (fake - 1).square().mean() / 2


class Hinge(GANObjective):
    """`E max(0, 1 - D(x)) + E max(0, 1 + D(G(z)))` and `-E D(G(z))`.

    Lim and Ye, "Geometric GAN", 2017; Miyato et al., ICLR 2018, eq. 16 and 17.
    """

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def generator_loss(self, fake: Tensor) -> Tensor:
        return -fake.mean()


class Wasserstein(GANObjective):
    """`E D(G(z)) - E D(x)` and `-E D(G(z))`; needs the gradient penalty (model.gradient_penalty 10).

    Arjovsky et al., "Wasserstein GAN", ICML 2017; Gulrajani et al., NeurIPS 2017.
    """

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    def generator_loss(self, fake: Tensor) -> Tensor:
        return -fake.mean()


Critic = Callable[[Tensor], Tensor]
"""Images `[n, C, H, W]` to logits `[n]`."""


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, rng: Rng) -> Tensor:
    """Return `E (|∇ D(x̂)| - 1)²` at random points x̂ between real and generated images.

    Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017, eq. 3; they weight it with 10.
    """
    share = uniform(rng, len(real), 1, 1, 1, dtype=real.dtype)
    between = torch.lerp(fake.detach(), real.detach(), share).requires_grad_()
    return (_gradients(critic, between).norm(dim=1) - 1).square().mean()


def r1_penalty(critic: Critic, real: Tensor) -> Tensor:
    """Return `½ E |∇ D(x)|²` at real images (Mescheder et al., ICML 2018, eq. 9, with γ = 1)."""
    return _gradients(critic, real.detach().requires_grad_()).square().sum(1).mean() / 2


def _gradients(critic: Critic, x: Tensor) -> Tensor:
    (gradients,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gradients.flatten(1)
