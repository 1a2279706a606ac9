"""p(z): what the posterior is held to in training, and what codes are drawn from afterwards."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from genmeta.errors import require_positive
from genmeta.models.networks import Shape, checked_shape
from genmeta.models.spline_flow import SplineFlow
from genmeta.models.vae import kl_to_gaussian, kl_to_prior, log_normal
from genmeta.tasks.prior import GaussianMixture

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images `[n, C, H, W]` in [0, 1] to mean and log variance, each `[n, d]`."""


class Prior(nn.Module, ABC):
    """A distribution of codes that may have weights, learned with the VAE's."""

    @abstractmethod
    def kl(self, mean: Tensor, log_var: Tensor, z: Tensor, labels: Tensor, encode: Encode) -> Tensor:
        """Return the KL divergence of q(z | x) in nats, `[n, terms]`, or its estimate from the draw z `[n, d]`.

        Args:
            mean, log_var: of q(z | x), `[n, d]`.
            z: a draw from it.
            labels: number of each image's class, `[n]`.
            encode: the encoder.
        """

    @abstractmethod
    def mixture(self, dim: int, encode: Encode, n_classes: int) -> GaussianMixture:
        """Return the distribution as plain tensors on the CPU, for `n_classes` meta-train classes."""

    def log_density(self, dim: int, encode: Encode, n_classes: int) -> Callable[[Tensor], Tensor]:
        """Return log p(z) as a function of codes `[n, d]` that the VAE is trained with: `[n]`, in nats."""
        return self.mixture(dim, encode, n_classes).log_prob

    def start(self, images: Tensor) -> None:
        """Set the weights from training images `[n, C, H, W]`, once, before training (nothing unless overridden)."""


class StandardNormal(Prior):
    """N(0, I)."""

    def kl(self, mean: Tensor, log_var: Tensor, z: Tensor, labels: Tensor, encode: Encode) -> Tensor:
        return kl_to_prior(mean, log_var)

    def mixture(self, dim: int, encode: Encode, n_classes: int) -> GaussianMixture:
        return GaussianMixture.standard(dim)


class VampPrior(Prior):
    """The mean of the posteriors of learned pseudo-images, `1/k Σ q(z | u_k)`.

    Tomczak and Welling, "VAE with a VampPrior", AISTATS 2018. Pseudo-images start as training images.

    Args:
        n_components: how many pseudo-images.
        image_shape: `[C, H, W]`; the data's if left out.
    """

    def __init__(self, n_components: int = 100, image_shape: Shape = None) -> None:
        super().__init__()
        require_positive("VampPrior", n_components=n_components)
        self.logits = nn.Parameter(torch.zeros(n_components, *checked_shape(image_shape)))

    def start(self, images: Tensor) -> None:
        chosen = images[torch.linspace(0, len(images) - 1, len(self.logits), device=images.device).round().long()]
        with torch.no_grad():
            self.logits.copy_(torch.logit(chosen.clamp(0.02, 0.98)))

    def kl(self, mean: Tensor, log_var: Tensor, z: Tensor, labels: Tensor, encode: Encode) -> Tensor:
        means, log_vars = encode(torch.sigmoid(self.logits))
        each = log_normal(z[:, None], means, log_vars)
        return (log_normal(z, mean, log_var) - each.logsumexp(1) + math.log(len(means)))[:, None]

    def mixture(self, dim: int, encode: Encode, n_classes: int) -> GaussianMixture:
        with torch.no_grad():
            means, log_vars = encode(torch.sigmoid(self.logits))
        return GaussianMixture(torch.full((len(means),), 1 / len(means)), means.cpu(), (log_vars / 2).exp().cpu())


class ClassPrior(Prior):
    """A learned Gaussian for each meta-train class, p(z | y): the class-conditional VAE.

    The condition enters through the prior (Sohn, Lee and Yan, "Learning Structured Output Representation using Deep
    Conditional Generative Models", NeurIPS 2015, eq. 4) and not through the decoder, so that a code is all there is to
    an image and an image of an unseen class can be encoded.

    Args:
        latent_dim: size of a code.
        max_classes: room for so many classes, at least the number of meta-train classes.
    """

    def __init__(self, latent_dim: int = 32, max_classes: int = 2048) -> None:
        super().__init__()
        require_positive("ClassPrior", latent_dim=latent_dim, max_classes=max_classes)
        self.offsets = nn.Parameter(torch.zeros(max_classes, latent_dim))
        self.widths = nn.Parameter(torch.zeros(max_classes, latent_dim))

    # Adam moves a weight by its learning rate a step, and a class is in few of the steps: times ten, or the classes
    # would not have parted by the end of training.

    @property
    def means(self) -> Tensor:
        """Means `[max_classes, latent_dim]`."""
        return 10 * self.offsets

    @property
    def log_vars(self) -> Tensor:
        """Log variances `[max_classes, latent_dim]`."""
        return 10 * self.widths

    def kl(self, mean: Tensor, log_var: Tensor, z: Tensor, labels: Tensor, encode: Encode) -> Tensor:
        return kl_to_gaussian(mean, log_var, self.means[labels], self.log_vars[labels])

    def mixture(self, dim: int, encode: Encode, n_classes: int) -> GaussianMixture:
        means, scales = self.means[:n_classes].detach().cpu(), (self.log_vars[:n_classes] / 2).detach().exp().cpu()
        return GaussianMixture(torch.full((n_classes,), 1 / n_classes), means, scales)


class FlowPrior(Prior):
    """A normalising flow, learned with the VAE: its density is exact, and no mixture has to be fitted afterwards.

    The KL term is estimated from one draw, as log q(z | x) - log p(z) (Chen et al., "Variational Lossy Autoencoder",
    ICLR 2017, section 3.2). It begins as N(0, I). Tasks draw codes from N(0, I) in the base of the flow, which the
    networks of a checkpoint contain (`genmeta.models.flowed`).

    Args:
        latent_dim: size of a code, at least 2.
        transforms, hidden, bins: as of a `SplineFlow`.
    """

    def __init__(self, latent_dim: int = 32, transforms: int = 4, hidden: int = 64, bins: int = 8) -> None:
        super().__init__()
        self.flow = SplineFlow(latent_dim, transforms, hidden, bins)

    def kl(self, mean: Tensor, log_var: Tensor, z: Tensor, labels: Tensor, encode: Encode) -> Tensor:
        return self.estimated_kl(mean, log_var, z)

    def estimated_kl(self, mean: Tensor, log_var: Tensor, z: Tensor) -> Tensor:
        """Return the estimate of the divergence from the draw z, `[n, 1]`; all arguments `[n, d]`."""
        return (log_normal(z, mean, log_var) - self.flow.log_prob(z))[:, None]

    def mixture(self, dim: int, encode: Encode, n_classes: int) -> GaussianMixture:
        return GaussianMixture.standard(dim)

    def log_density(self, dim: int, encode: Encode, n_classes: int) -> Callable[[Tensor], Tensor]:
        return self.flow.log_prob
