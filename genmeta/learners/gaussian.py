"""Few-shot classes as Gaussians over frozen features, with a spread from the base (meta-train) classes.

Nothing is trained on episodes. The features come from a network that was trained before, such as a generative model's
encoder, and the base classes' statistics are computed once.
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.learner import Learner, check_image_shape
from genmeta.learners.metric import prototypes, squared_distances

CHUNK = 256  # images embedded together


def within_class_covariance(features: Tensor, labels: Tensor) -> Tensor:
    """Return the pooled covariance within classes, `Σ_c Σ_i (x_ci - μ_c)(x_ci - μ_c)ᵀ / (n - n_classes)`.

    Args:
        features: `[n, d]`.
        labels: int64 `[n]`, with all values `0 … n_classes - 1`.

    Raises:
        UserError: no class has two images.
    """
    centred = features - class_means(features, labels)[labels]
    n_free = len(labels) - int(labels.max()) - 1
    if n_free < 1:
        raise UserError("a spread within classes needs a meta-train class with at least 2 images")
    return centred.mT @ centred / n_free


def class_means(features: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of each class, `[n_classes, d]`, of features `[n, d]` with labels int64 `[n]`."""
    return prototypes(features[None], labels[None], int(labels.max()) + 1)[0]


def class_covariances(features: Tensor, labels: Tensor) -> Tensor:
    """Return the covariance of each class, `Σ_i (x_i - μ_c)(x_i - μ_c)ᵀ / (n_c - 1)`, `[n_classes, d, d]`.

    Yang, Liu and Xu (ICLR 2021), eq. 2. A class of one image has the covariance 0.
    """
    centred = features - class_means(features, labels)[labels]
    of_class = (centred[labels == number] for number in range(int(labels.max()) + 1))
    return torch.stack([x.mT @ x / max(len(x) - 1, 1) for x in of_class])


def shrunk(covariance: Tensor, shrinkage: float) -> Tensor:
    """Return `(1 - λ) Σ + λ (tr Σ / d) I`, for covariances `[..., d, d]` and λ in [0, 1].

    Friedman, "Regularized Discriminant Analysis", Journal of the American Statistical Association 84, 1989, eq. 18.
    """
    d = covariance.shape[-1]
    scale = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return (1 - shrinkage) * covariance + shrinkage * scale * torch.eye(d).to(covariance)


def whitening(covariance: Tensor) -> Tensor:
    """Return W `[..., d, d]` with `W Wᵀ = Σ⁻¹`, so that `x W` has the covariance I, for covariances `[..., d, d]`.

    Raises:
        UserError: a covariance is singular.
    """
    factor, info = torch.linalg.cholesky_ex(covariance)
    if info.any():
        raise UserError(
            "the spread of the features within the meta-train classes is singular; a shrinkage above 0 mends that, "
            "unless all features are alike"
        )
    eye = torch.eye(covariance.shape[-1]).to(covariance).expand_as(covariance)
    return torch.linalg.solve_triangular(factor, eye, upper=False).mT


class _GaussianLearner(Learner):
    """Features of a frozen backbone, and statistics of the base classes in float64 buffers."""

    uses_base_classes = True

    def __init__(self, backbone: nn.Module, shrinkage: float) -> None:
        super().__init__()
        if any(p.requires_grad for p in backbone.parameters()):
            raise UserError(
                f"{type(self).__name__} needs a frozen backbone, since statistics of its features are computed once, "
                f"e.g. genmeta.models.transfer.EncoderBackbone with frozen: true"
            )
        if not 0 <= shrinkage <= 1:
            raise UserError(f"{type(self).__name__}: shrinkage must be in [0, 1], found {shrinkage}")
        self.backbone, self.shrinkage = backbone, shrinkage

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self.backbone, image_shape)

    def features(self, images: Tensor) -> Tensor:
        """Return features `[n, d]` of images `[n, C, H, W]` in [0, 1]."""
        with torch.no_grad():
            return self.backbone(images)

    def fit_statistics(self, images: Tensor, labels: Tensor) -> None:
        self.eval()
        device = next((p.device for p in self.backbone.parameters()), images.device)
        chunks = (chunk.to(device).float().div(255) for chunk in images.split(CHUNK))
        self.fit_features(torch.cat([self.features(chunk) for chunk in chunks]).double(), labels.to(device))

    @abstractmethod
    def fit_features(self, features: Tensor, labels: Tensor) -> None:
        """Set the buffers from the base classes' features, float64 `[n, d]`, and labels int64 `[n]`."""

    @abstractmethod
    def classify(self, support: Tensor, batch: EpisodeBatch, query: Tensor) -> Tensor:
        """Return logits `[task, query, way]` from features `[task, n, d]`."""

    def forward(self, batch: EpisodeBatch) -> Tensor:
        if not all(buffer.numel() for buffer in self.buffers(recurse=False)):
            raise ValueError(f"{type(self).__name__}: fit_statistics comes first")
        support, query = (
            self.features(x.flatten(0, 1)).unflatten(0, x.shape[:2]) for x in (batch.support_x, batch.query_x)
        )
        logits = self.classify(support.double(), batch, query.double())
        return logits.to(query.dtype)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name, buffer in self._buffers.items():  # the base classes decide their sizes
            if prefix + name in state_dict:
                assert buffer is not None
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *args)


class GaussianDiscriminant(_GaussianLearner):
    """Linear discriminant analysis of few-shot classes: means from the support, one covariance from the base classes.

    Logits are `-½ (q - μ_c)ᵀ Σ⁻¹ (q - μ_c)`, μ_c the class's prototype and Σ the base classes' pooled covariance within
    classes, shrunk towards a multiple of I (Friedman 1989). These are log densities of Gaussians up to a constant. With
    shrinkage 1 it is the nearest prototype.

    Args:
        backbone: images `[n, C, H, W]` to features `[n, d]`, frozen.
        shrinkage: λ of the covariance, in [0, 1].

    Raises:
        UserError: the backbone is not frozen, the shrinkage out of range; in `fit_statistics`: Σ is singular.
    """

    whiten: Tensor

    def __init__(self, backbone: nn.Module, shrinkage: float = 0.1) -> None:
        super().__init__(backbone, shrinkage)
        self.register_buffer("whiten", torch.empty(0, 0, dtype=torch.float64))

    def fit_features(self, features: Tensor, labels: Tensor) -> None:
        self.whiten = whitening(shrunk(within_class_covariance(features, labels), self.shrinkage))

    def classify(self, support: Tensor, batch: EpisodeBatch, query: Tensor) -> Tensor:
        weight = None if batch.support_weight is None else batch.support_weight.double()
        centres = prototypes(support, batch.support_y, batch.n_way, weight)
        return -0.5 * squared_distances(query @ self.whiten, centres @ self.whiten)


class DistributionCalibration(_GaussianLearner):
    """Few-shot classes as Gaussians, with means and covariances calibrated by the nearest base classes.

    Yang, Liu and Xu, "Free Lunch for Few-shot Learning: Distribution Calibration", ICLR 2021. Features are transformed
    by Tukey's ladder of powers (eq. 3); each support feature x̃ finds the k base classes with the nearest means (eq. 4,
    5) and gets the mean `(Σ μ_i + x̃) / (k + 1)` and the covariance `Σ Σ_i / k + α` (eq. 6).

    Departures:
    - The paper draws hundreds of features from these Gaussians and trains a logistic regression on them. Here the
      Gaussians themselves classify: exactly, without draws, by one product of matrices. All classes of the task share
      the mean of their covariances, so the log odds are linear in the features, as in logistic regression: the limit
      of a linear discriminant for ever more draws. A class with several support images has the mean of their means.
    - In the paper α is added to every entry of the covariance, in units of its features. Here the covariance is shrunk
      towards a multiple of I, as in `GaussianDiscriminant`, which does not depend on units.
    - Base statistics are of transformed features too.

    Args:
        backbone: images `[n, C, H, W]` to features `[n, d]`, frozen.
        k: nearest base classes.
        pull: share of the base classes in the mean, `(1 - pull) x̃ + pull · (mean of the k μ_i)`, in [0, 1]. The paper's
            is k / (k + 1); of a ProtoNet's features on Omniglot it costs 5 points (5-way 1-shot, validation classes).
        power: λ of Tukey's transform `x^λ` in (0, 1], 1: none. Below 1 the features must not be negative: the output of
            a ReLU, not posterior means.
        shrinkage: of the covariance, in [0, 1].

    Raises:
        UserError: the backbone is not frozen, or a number out of range; in `fit_statistics`: fewer than k base classes,
            negative features with power < 1, or the covariance is singular.
    """

    means: Tensor
    covariances: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        k: int = 8,
        pull: float = 0.3,
        power: float = 1.0,
        shrinkage: float = 0.2,
    ) -> None:
        super().__init__(backbone, shrinkage)
        if k < 1 or not 0 < power <= 1 or not 0 <= pull <= 1:
            raise UserError(
                f"DistributionCalibration needs k >= 1, pull in [0, 1] and power in (0, 1]; "
                f"found k={k}, pull={pull}, power={power}"
            )
        self.k, self.pull, self.power = k, pull, power
        self.register_buffer("means", torch.empty(0, 0, dtype=torch.float64))
        self.register_buffer("covariances", torch.empty(0, 0, 0, dtype=torch.float64))

    def features(self, images: Tensor) -> Tensor:
        features = super().features(images)
        if self.power == 1:
            return features
        return features.pow(self.power)

    def fit_features(self, features: Tensor, labels: Tensor) -> None:
        if features.isnan().any():
            raise UserError(
                f"DistributionCalibration: power {self.power} needs features of at least 0, but those of "
                f"{type(self.backbone).__name__} are negative too; set power: 1"
            )
        within_class_covariance(features, labels)  # raises the error if there is none
        self.means, self.covariances = class_means(features, labels), class_covariances(features, labels)
        if len(self.means) < self.k:
            raise UserError(
                f"DistributionCalibration: k is {self.k}, but there are {len(self.means)} meta-train classes"
            )

    def calibrated(self, support: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means `[task, n, d]` and covariances `[task, n, d, d]` of support features `[task, n, d]`."""
        nearest = squared_distances(support, self.means[None]).topk(self.k, largest=False).indices
        means = torch.lerp(support, self.means[nearest].mean(2), self.pull)
        return means, self.covariances[nearest].mean(2)

    def classify(self, support: Tensor, batch: EpisodeBatch, query: Tensor) -> Tensor:
        means, covariances = self.calibrated(support)
        weight = None if batch.support_weight is None else batch.support_weight.double()
        centres = prototypes(means, batch.support_y, batch.n_way, weight)
        of_class = prototypes(covariances.flatten(2), batch.support_y, batch.n_way, weight)
        whiten = whitening(shrunk(of_class.mean(1).unflatten(1, covariances.shape[2:]), self.shrinkage))
        return -0.5 * squared_distances(query @ whiten, centres @ whiten)
