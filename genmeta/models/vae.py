"""The evidence lower bound and its parts: pure functions, in nats.

Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from genmeta.rng import Rng, normal


def sample_posterior(mean: Tensor, log_var: Tensor, rng: Rng) -> Tensor:
    """Return one reparametrised draw `mean + exp(log_var / 2) · noise` from q(z | x), `[n, latent_dim]`."""
    noise = normal(rng, *mean.shape, dtype=mean.dtype)
    return mean + torch.exp(log_var / 2) * noise


def kl_to_gaussian(mean: Tensor, log_var: Tensor, prior_mean: Tensor, prior_log_var: Tensor) -> Tensor:
    """Return `KL(N(mean, exp(log_var)) || N(prior_mean, exp(prior_log_var)))` for each dimension, `[n, d]`."""
    squared = (mean - prior_mean).square() + log_var.exp()
    return 0.5 * (prior_log_var - log_var + squared / prior_log_var.exp() - 1)


def kl_to_prior(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return `KL(q(z | x) || N(0, I))` for each dimension, `[n, d]` (Kingma and Welling, appendix B)."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var)


def log_normal(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Return the log density of `N(mean, exp(log_var))` at z, summed over the last dimension."""
    return -0.5 * (math.log(2 * math.pi) + log_var + (z - mean).square() * torch.exp(-log_var)).sum(-1)


def with_free_bits(kl: Tensor, free_bits: float, of_all: Tensor | None = None) -> Tensor:
    """Return the KL term of the loss, a scalar: no dimension's mean over the batch counts less than `free_bits` nats.

    Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow", NeurIPS 2016, section C.8: with it
    a dimension cannot save anything by falling silent.

    Args:
        kl: `[n, d]`.
        free_bits: nats a dimension.
        of_all: `[d]`, the means of the batches of all processes, which decide what is free; by default this batch's.
    """
    mean = kl.mean(0)
    if not free_bits:  # an estimate from samples may be below 0, and must be free to be
        return mean.sum()
    return torch.where((mean if of_all is None else of_all) < free_bits, free_bits, mean).sum()


def warmup(step: int, steps: int) -> float:
    """Return the share of its weight that the KL term has at optimiser step `step` (from 0): 1 after `steps` steps."""
    return min(1.0, (step + 1) / steps) if steps else 1.0


def importance_bound(
    posterior: tuple[Tensor, Tensor],
    log_likelihood: Callable[[Tensor, Tensor], Tensor],
    log_prior: Callable[[Tensor], Tensor],
    k: int,
    rng: Rng,
    at_once: int = 4096,
) -> Tensor:
    """Return the importance-weighted bound on log p(x) with k samples, `[n]`: k = 1 is the ELBO, and it grows with k.

    Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, eq. 8.

    Args:
        posterior: mean and log variance of q(z | x), each `[n, d]`.
        log_likelihood: `log p(x | z)`, `[n · s]`, for codes `[n · s, d]` and which image each belongs to, `[n · s]`.
        log_prior: `log p(z)`, `[m]`, for codes `[m, d]`.
        k: samples of each image.
        rng: draws the samples.
        at_once: codes decoded together.
    """
    mean, log_var = posterior
    n = len(mean)
    total = torch.full((n,), -torch.inf, dtype=mean.dtype, device=mean.device)
    rest = k
    while rest:
        s = min(rest, max(1, at_once // n))
        rest -= s
        of = torch.arange(n, device=mean.device).repeat_interleave(s)
        z = sample_posterior(mean[of], log_var[of], rng)
        log_weight = log_likelihood(z, of) + log_prior(z) - log_normal(z, mean[of], log_var[of])
        total = torch.logaddexp(total, log_weight.view(n, s).logsumexp(1))
    return total - math.log(k)
