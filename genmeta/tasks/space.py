"""The latent space as task samplers see it: tensors only."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from genmeta.tasks.prior import GaussianMixture
from genmeta.tasks.sampling import draw_distinct


@dataclass(frozen=True)
class Encodings:
    """A bank of encodings `q(z | x)` of real images, class by class, computed once.

    Attributes:
        means, scales: means and standard deviations of the codes, float32 `[n, d]`.
        rows: table row of each image, int64 `[n]`.
        firsts, counts: int64 `[n_classes]`, the first place of each class and its number of images.
    """

    means: Tensor
    scales: Tensor
    rows: Tensor
    firsts: Tensor
    counts: Tensor

    @property
    def classes(self) -> Tensor:
        """Number of each image's class, int64 `[n]`."""
        return torch.arange(len(self.counts)).repeat_interleave(self.counts)

    @cached_property
    def place_of_row(self) -> Tensor:
        """Where each table row is among the encodings, int64; -1 where it is not."""
        places = torch.full((int(self.rows.max()) + 1,), -1)
        places[self.rows] = torch.arange(len(self.rows))
        return places

    @cached_property
    def class_means(self) -> Tensor:
        """Mean code of each class, `[n_classes, d]`."""
        sums = torch.zeros(len(self.counts), self.means.shape[1]).index_add(0, self.classes, self.means)
        return sums / self.counts[:, None]

    def places(self, classes: Tensor, n_images: int, rng: torch.Generator) -> Tensor:
        """Draw images of classes, int64 `[..., n_images]` for `[...]`: distinct ones where every class has enough."""
        counts = self.counts[classes]
        if int(counts.min()) >= n_images:
            chosen = draw_distinct(counts, n_images, rng)
        else:
            chosen = (torch.rand(*counts.shape, n_images, generator=rng) * counts[..., None]).long()
        return self.firsts[classes][..., None] + chosen


@dataclass(frozen=True)
class LatentSpace:
    """What policies draw from.

    Attributes:
        prior: distribution of the codes.
        encodings: of the real images, or None.
    """

    prior: GaussianMixture
    encodings: Encodings | None = None

    @property
    def dim(self) -> int:
        """Size of a code, `d`."""
        return self.prior.dim

    @property
    def unit(self) -> float:
        """A typical distance of two codes, `sqrt(2 d) · spread`: the unit of separations."""
        return float((2 * self.dim) ** 0.5 * self.prior.spread)


def move(start: Tensor, end: Tensor, share: Tensor | float, spherical: bool = False) -> Tensor:
    """Return the points at `share` of the way from `start` to `end` (`[..., d]`): 0 is the start, 1 the end.

    Args:
        share: number, or `[..., 1]`; below 0 and above 1 it extrapolates.
        spherical: along the great circle in place of the straight line (White, "Sampling Generative Networks", 2016),
            which keeps the length of codes of N(0, I) typical; codes in (nearly) one line move straight.
    """
    straight = start + share * (end - start)
    if not spherical:
        return straight
    cosine = torch.cosine_similarity(start, end, dim=-1).clamp(-1, 1)[..., None]
    angle = cosine.arccos()
    sine = angle.sin()
    round_ = (((1 - share) * angle).sin() * start + (share * angle).sin() * end) / sine.clamp(min=1e-4)
    return torch.where(sine < 1e-4, straight, round_)
