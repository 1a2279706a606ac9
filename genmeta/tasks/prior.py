"""The distribution that codes are drawn from, as plain tensors: tasks draw from it without any network."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GaussianMixture:
    """A mixture of Gaussians over codes; one standard component is the usual prior N(0, I).

    Attributes:
        weights: `[k]`, sum 1.
        means: `[k, d]`.
        scales: standard deviations `[k, d]`, or lower triangular factors of the covariances `[k, d, d]`.
    """

    weights: Tensor
    means: Tensor
    scales: Tensor

    @classmethod
    def standard(cls, dim: int) -> "GaussianMixture":
        """Return N(0, I) in `dim` dimensions."""
        return cls(torch.ones(1), torch.zeros(1, dim), torch.ones(1, dim))

    @property
    def dim(self) -> int:
        """Size of a code, `d`."""
        return self.means.shape[1]

    @property
    def spread(self) -> float:
        """Root of the mean variance of a dimension, 1 for N(0, I): `sqrt(2 d) · spread` is a typical distance of two
        codes (the root of the expected squared one).
        """
        centred = self.means - self.weights @ self.means
        variance = self.scales.square() if self.scales.dim() == 2 else self.scales.square().sum(2)
        return float((self.weights @ (variance + centred.square())).mean().sqrt())

    def sample(self, *shape: int, rng: torch.Generator) -> Tensor:
        """Return codes `[*shape, d]`, float32 on the CPU, every draw made with `rng` (a CPU generator)."""
        n = math.prod(shape)
        noise = torch.randn(n, self.dim, generator=rng)
        if len(self.weights) == 1:
            component = torch.zeros(n, dtype=torch.long)
        else:
            component = torch.multinomial(self.weights, n, replacement=True, generator=rng)
        return self._place(component, noise).view(*shape, self.dim)

    def sample_of(self, components: Tensor, n: int, rng: torch.Generator) -> Tensor:
        """Return `n` codes of each of these components `[c]`, float32 `[c, n, d]` on the CPU."""
        noise = torch.randn(len(components) * n, self.dim, generator=rng)
        return self._place(components.repeat_interleave(n), noise).unflatten(0, (len(components), n))

    def _place(self, component: Tensor, noise: Tensor) -> Tensor:
        scales = self.scales[component]
        spread = scales * noise if scales.dim() == 2 else (scales @ noise[..., None]).squeeze(2)
        return self.means[component] + spread

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log densities `[n]`, in nats, of codes `[n, d]`; z decides device and type."""
        weights, means, scales = (t.to(z) for t in (self.weights, self.means, self.scales))
        offset = z[:, None] - means
        if scales.dim() == 2:
            standard, log_det = offset / scales, scales.log().sum(1)
        else:
            standard = torch.linalg.solve_triangular(scales, offset.permute(1, 2, 0), upper=False).permute(2, 0, 1)
            log_det = scales.diagonal(dim1=1, dim2=2).log().sum(1)
        each = -0.5 * standard.square().sum(2) - log_det - self.dim / 2 * math.log(2 * math.pi)
        return (weights.log() + each).logsumexp(1)
