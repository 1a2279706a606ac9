"""How good pseudo-classes are, where the classes are known: for reports, never for training."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PseudoClassQuality:
    """What pseudo-classes have to do with classes.

    Attributes:
        n_pseudo, n_images: pseudo-classes, and images in them.
        purity: share of images whose class is the most frequent one of their pseudo-class.
        pair_precision: share of the pairs within a pseudo-class that are of one class.
        found: share of the classes that are the most frequent one of some pseudo-class.
        across: share of the wrong pairs whose classes are of two groups, such as one letter of two alphabets.
    """

    n_pseudo: int
    n_images: int
    purity: float
    pair_precision: float
    found: float
    across: float


def quality(pseudo: Sequence[Tensor], classes: Tensor, groups: Tensor) -> PseudoClassQuality:
    """Return how pure pseudo-classes are.

    Args:
        pseudo: the images of each, int64 `[n]`, places in `classes`; at least two images in one of them.
        classes: of all images, int64 `[N]`.
        groups: of all images, int64 `[N]`.
    """
    n_classes = len(classes.unique())
    counts = torch.stack([torch.bincount(classes[places], minlength=int(classes.max()) + 1) for places in pseudo])
    of_groups = torch.stack([torch.bincount(groups[places], minlength=int(groups.max()) + 1) for places in pseudo])
    n_images = int(counts.sum())
    pairs, of_one, within = (_pairs(n) for n in (counts.sum(1, keepdim=True), counts, of_groups))
    return PseudoClassQuality(
        n_pseudo=len(pseudo),
        n_images=n_images,
        purity=float(counts.amax(1).sum() / n_images),
        pair_precision=float(of_one / pairs),
        found=len(counts.argmax(1).unique()) / n_classes,
        across=float((pairs - within) / (pairs - of_one).clamp(min=1)),
    )


def _pairs(counts: Tensor) -> Tensor:
    return (counts * (counts - 1)).sum() / 2
