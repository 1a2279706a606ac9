"""Registration with a learned prior: which deformations are usual between two drawings of one character?

The search is that of `BendingRegistration`. It registers pairs of training images, of one class and of two classes.
From these are learned a density of displacements for each kind of pairs, and the weights of densities, bending energy
and remaining error. Zhao et al., "Data augmentation using learned transformations for one-shot medical image
segmentation", CVPR 2019, learn from registered pairs as well.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.errors import UserError, require_positive
from genmeta.learners.bending import LEVELS, BendingRegistration
from genmeta.models.deformation_prior import DeformationPrior, GaussianPrior, described
from genmeta.models.registration import bending, identity_grid, relative_errors, scales
from genmeta.rng import make_rng

N_FEATURES = 3 + 1 + 2  # errors at three blurs, bending energy, two densities


class LearnedRegistration(BendingRegistration):
    """Logits are those of a logistic regression: are support image and query of one class?

    `n_pairs` pairs of training images of one class and as many of two classes (the nearest of `n_rivals` random
    images, by blurred pixels) are registered both ways. A density of each kind of pairs is fitted to displacements at
    7 × 7 places. The regression's features, each summed over both ways, are the remaining errors at three blurs,
    `log(1 + bending energy)`, and minus twice the two log densities (for Gaussians: squared Mahalanobis distances and a
    constant).

    Args:
        n_pairs: pairs of each kind.
        n_rivals: random images of other classes, of which the nearest is taken.
        prior: of displacements, fitted once for each kind of pairs; a `GaussianPrior` by default.
        steps, candidates, stiffness, affine_cost, step_size, chunk: as of `BendingRegistration`.

    Raises:
        UserError: a size is out of range, or no class has two images.
    """

    uses_base_classes = True
    weight: Tensor
    middle: Tensor

    def __init__(
        self,
        n_pairs: int = 600,
        n_rivals: int = 20,
        prior: DeformationPrior | None = None,
        steps: int = 30,
        candidates: tuple[int, int] = (10, 5),
        stiffness: float = 0.02,
        affine_cost: float = 0.1,
        step_size: float = 0.04,
        chunk: int = 256,
    ) -> None:
        super().__init__(steps, candidates, stiffness, affine_cost, step_size, chunk)
        require_positive("LearnedRegistration", n_pairs=n_pairs, n_rivals=n_rivals)
        self.n_pairs, self.n_rivals = n_pairs, n_rivals
        prior = GaussianPrior() if prior is None else prior
        self.priors = nn.ModuleList(deepcopy(prior) for _ in range(2))  # of pairs of one class and of two
        self.register_buffer("weight", torch.tensor([1.0] * 3 + [0.02, 0.0, 0.0]))
        self.register_buffer("middle", torch.zeros(N_FEATURES))

    def fit_statistics(self, images: Tensor, labels: Tensor) -> None:
        from sklearn.linear_model import LogisticRegression  # here: scikit-learn is slow to import

        first, second, rivals = pairs_of_images(images, labels, self.n_pairs, self.n_rivals)
        x = [images[rows].float().div(255).to(self.weight) for rows in (first, second, rivals)]
        registered = [self.registered(x[0], other) for other in (x[1], x[2])]
        for prior, displacements in zip(self.priors, registered, strict=True):
            prior.fit(described(displacements.transpose(0, 1).flatten(0, 1)))  # type: ignore[operator]
        features = torch.cat([self.features(x[0], x[1], registered[0]), self.features(x[0], x[2], registered[1])])
        middle, size = features.mean(0), features.std(0).clamp(min=1e-6)
        target = [0] * self.n_pairs + [1] * self.n_pairs
        regression = LogisticRegression(max_iter=1000).fit(((features - middle) / size).double().cpu().numpy(), target)
        self.middle = middle
        self.weight = torch.from_numpy(regression.coef_[0]).to(self.weight) / size

    def judged(self, a: Tensor, b: Tensor, energy: Tensor, displacements: Tensor) -> Tensor:
        return (self.features(a, b, displacements) - self.middle) @ self.weight

    def features(self, a: Tensor, b: Tensor, displacements: Tensor) -> Tensor:
        """Return the regression's features `[n, 6]` of pairs of images `[n, C, H, W]`, from displacements
        `[2, n, H, W, 2]`.
        """
        images = scales(a), scales(b)
        total = a.new_zeros(len(a), N_FEATURES)
        for moving, fixed, d in ((*images, displacements[0]), (*images[::-1], displacements[1])):
            moved = F.grid_sample(moving, identity_grid(moving) + d, align_corners=False)
            errors = relative_errors(moved, fixed)
            unusual = [-2 * prior.log_prob(described(d)) for prior in self.priors]  # type: ignore[operator]
            total = total + torch.cat([errors, torch.stack([torch.log1p(bending(d)), *unusual], 1)], 1)
        return total

    def registered(self, a: Tensor, b: Tensor) -> Tensor:
        """Return displacements of both ways after all levels, `[2, n, H, W, 2]`."""
        displacements: Tensor | None = None
        for cells, sigma in LEVELS:
            _, displacements = self._both_ways(a, b, cells, sigma, displacements)
        assert displacements is not None
        return displacements


def pairs_of_images(images: Tensor, labels: Tensor, n_pairs: int, n_rivals: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows of images, of other images of their classes, and of near images of other classes, int64 `[n_pairs]`
    each.
    """
    rng = make_rng("pairs of training images")
    counts = torch.bincount(labels)
    if int(counts.max()) < 2:
        raise UserError(
            "LearnedRegistration: pairs of images of a class are needed, but no class has two to learn from"
        )
    order, starts = labels.argsort(stable=True), counts.cumsum(0) - counts
    able = (counts >= 2).nonzero().squeeze(1)
    of_class = able[torch.randint(len(able), (n_pairs,), generator=rng)]
    i = (torch.rand(n_pairs, generator=rng) * counts[of_class]).long()
    j = (torch.rand(n_pairs, generator=rng) * (counts[of_class] - 1)).long()
    first, second = order[starts[of_class] + i], order[starts[of_class] + j + (j >= i)]
    drawn = torch.randint(len(images), (n_pairs, n_rivals), generator=rng)
    small = F.adaptive_avg_pool2d(images.float().mean(1, keepdim=True), 7).flatten(1)
    distance = (small[drawn] - small[first][:, None]).square().sum(2)
    distance = distance.masked_fill(labels[drawn] == labels[first][:, None], torch.inf)
    return first, second, drawn.gather(1, distance.argmin(1, keepdim=True)).squeeze(1)
