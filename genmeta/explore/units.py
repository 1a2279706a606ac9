"""Which latent dimensions carry information."""

from torch import Tensor

from genmeta.models.vae import kl_to_prior

ACTIVE = 0.01
"""Variance of the posterior mean above which a dimension is active: Burda et al. 2016."""


def activity(means: Tensor) -> Tensor:
    """Return the variance over images of the posterior mean of each dimension, `[d]`, from `[n, d]`.

    Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, section 5.2: a unit is active if it
    is above 0.01. A dimension that the decoder ignores stays at the prior for every image, so its mean does not vary.
    """
    return means.var(0)


def active_units(means: Tensor) -> int:
    """Return the number of active dimensions of posterior means `[n, d]`."""
    return int((activity(means) > ACTIVE).sum())


def kl_per_dimension(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return the mean over images of KL(q(z_i | x) ‖ N(0, 1)) in nats, `[d]`, from mean and log variance `[n, d]`."""
    return kl_to_prior(mean, log_var).mean(0)
