"""p(x | z): how a decoder's logits explain an image, in nats. The mean image is `sigmoid(logits)` under all of them."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.rng import Rng, bernoulli


class Likelihood(nn.Module, ABC):
    """The last stage of a decoder."""

    @abstractmethod
    def log_prob(self, logits: Tensor, x: Tensor) -> Tensor:
        """Return `log p(x | z)` in nats, `[n]`, summed over the pixels of images `[n, C, H, W]` in [0, 1]."""

    def prepare(self, x: Tensor, rng: Rng) -> Tensor:
        """Return the images as this likelihood means them (as they are, unless overridden)."""
        return x


class Bernoulli(Likelihood):
    """A coin flip for each pixel.

    Args:
        binarise: draw each pixel anew each time from its grey value (Burda et al., ICLR 2016); only then are the nats
            those of a distribution over images. Otherwise a grey value counts as an expected value of flips.
    """

    def __init__(self, binarise: bool = False) -> None:
        super().__init__()
        self.binarise = binarise

    def prepare(self, x: Tensor, rng: Rng) -> Tensor:
        return bernoulli(rng, x) if self.binarise else x

    def log_prob(self, logits: Tensor, x: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


class Gaussian(Likelihood):
    """N(sigmoid(logits), σ²) with one learned σ (σ-VAE: Rybkin, Daniilidis and Levine, ICML 2021); a density."""

    def __init__(self) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.tensor(-1.0))

    def log_prob(self, logits: Tensor, x: Tensor) -> Tensor:
        error = (x - torch.sigmoid(logits)) * torch.exp(-self.log_sigma)
        per_pixel = -0.5 * error.square() - self.log_sigma - 0.9189385332046727  # log(2 π) / 2
        return per_pixel.flatten(1).sum(1)


class DiscretisedLogistic(Likelihood):
    """A logistic distribution around sigmoid(logits) with one learned scale, its mass gathered on the 256 grey values.

    Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow", NeurIPS 2016, appendix; the two
    outermost values take the tails (Salimans et al., PixelCNN++, ICLR 2017).
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-2.0))

    def log_prob(self, logits: Tensor, x: Tensor) -> Tensor:
        inverse = torch.exp(-self.log_scale)
        centred = torch.round(x * 255) / 255 - torch.sigmoid(logits)
        upper, lower = (centred + 0.5 / 255) * inverse, (centred - 0.5 / 255) * inverse
        # log(σ(u) - σ(l)) without cancellation: log σ(u) + log σ(-l) + log(1 - exp(l - u))
        inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(lower - upper))
        per_pixel = torch.where(x < 0.5 / 255, F.logsigmoid(upper), inside)
        per_pixel = torch.where(x > 254.5 / 255, F.logsigmoid(-lower), per_pixel)
        return per_pixel.flatten(1).sum(1)
