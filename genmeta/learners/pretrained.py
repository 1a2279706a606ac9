"""Baselines whose backbone learns to classify all training classes at once; episodes come only in the test.

They are trained by `genmeta.modules.classifier.ClassifierModule`.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError, require_positive
from genmeta.learners.embedding import embed, require_own_statistics
from genmeta.learners.learner import Learner, check_image_shape, feature_count
from genmeta.learners.metric import prototypes, squared_distances


class PretrainedLearner(Learner, ABC):
    """A backbone with a classifier of the training classes, which is used only in training.

    Args:
        backbone: images `[n, C, H, W]` to features `[n, d]`, with `n_features = d`; its batch norm must keep running
            statistics.
        max_classes: size of the classifier, which is made before the data are known; classes that the data do not have
            are not used.

    Raises:
        UserError: the backbone uses batch statistics, or does not say its number of features; a size is out of range.
    """

    def __init__(self, backbone: nn.Module, max_classes: int = 4096) -> None:
        super().__init__()
        require_positive(type(self).__name__, max_classes=max_classes)
        require_own_statistics(backbone, type(self).__name__)
        n_features = feature_count(backbone, type(self).__name__)
        self.backbone, self.max_classes = backbone, max_classes
        self.weight = nn.Parameter(torch.randn(max_classes, n_features) / n_features**0.5)

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self.backbone, image_shape)

    @abstractmethod
    def class_logits(self, x: Tensor, n_classes: int) -> Tensor:
        """Return logits `[n, n_classes]` of training images `[n, C, H, W]`."""

    def see_training_images(self, features: Tensor) -> None:
        """Use the features `[n, d]` of upright training images, before each validation; ignored by default."""

    def loss(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        raise UserError(
            f"{type(self).__name__} is not trained on episodes: use genmeta.modules.classifier.ClassifierModule"
        )


class SimpleShot(PretrainedLearner):
    """Nearest class mean of features that are centred by the mean of the training images and scaled to length 1.

    Wang et al., "SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning", 2019 (arXiv
    1911.04623), section 3, CL2N; the classifier is linear.
    """

    base_mean: Tensor

    def __init__(self, backbone: nn.Module, max_classes: int = 4096) -> None:
        super().__init__(backbone, max_classes)
        self.bias = nn.Parameter(torch.zeros(max_classes))
        self.register_buffer("base_mean", torch.zeros(self.weight.shape[1]))

    def class_logits(self, x: Tensor, n_classes: int) -> Tensor:
        return F.linear(self.backbone(x), self.weight[:n_classes], self.bias[:n_classes])

    def see_training_images(self, features: Tensor) -> None:
        self.base_mean.copy_(features.mean(0))

    def forward(self, batch: EpisodeBatch) -> Tensor:
        support, query = (F.normalize(features - self.base_mean, dim=2) for features in embed(self.backbone, batch))
        return -squared_distances(query, prototypes(support, batch.support_y, batch.n_way, batch.support_weight))


class BaselinePlusPlus(PretrainedLearner):
    """Baseline++: a cosine classifier of the training classes, then one for each task, fitted to its support set.

    Chen et al., "A Closer Look at Few-shot Classification", ICLR 2019, section 3.2, with the scales of their code
    (github.com/wyharveychen/CloserLookFewShot): 10 for many classes, 2 for those of a task. Two things differ: the
    task's classifier begins with the class means instead of random vectors, so nothing is drawn and no label is
    special; and its gradient steps use all support images at once.

    Args:
        backbone: as above.
        max_classes: as above.
        steps: gradient steps on a task; 100 in the paper.
        lr: their learning rate.
        scale: of cosines in training.
        task_scale: of cosines on a task.

    Raises:
        UserError: a number is out of range.
    """

    def __init__(
        self,
        backbone: nn.Module,
        max_classes: int = 4096,
        steps: int = 100,
        lr: float = 0.1,
        scale: float = 10.0,
        task_scale: float = 2.0,
    ) -> None:
        super().__init__(backbone, max_classes)
        if steps < 0 or min(lr, scale, task_scale) <= 0:
            raise UserError(
                f"BaselinePlusPlus needs steps >= 0 and lr, scale, task_scale > 0; found steps={steps}, lr={lr}, "
                f"scale={scale}, task_scale={task_scale}"
            )
        self.steps, self.lr, self.scale, self.task_scale = steps, lr, scale, task_scale

    def class_logits(self, x: Tensor, n_classes: int) -> Tensor:
        return self.scale * _cosines(self.backbone(x), self.weight[:n_classes])

    def forward(self, batch: EpisodeBatch) -> Tensor:
        support, query = (F.normalize(features, dim=2) for features in embed(self.backbone, batch))
        weight = torch.ones_like(support[..., 0]) if batch.support_weight is None else batch.support_weight
        share = weight / weight.sum(1, keepdim=True)
        classes = prototypes(support, batch.support_y, batch.n_way, weight)

        def loss(classes: Tensor) -> Tensor:
            logits = self.task_scale * _cosines(support, classes)
            losses = F.cross_entropy(logits.flatten(0, 1), batch.support_y.flatten(), reduction="none")
            return (losses * share.flatten()).sum()  # each task's own: their classes have nothing in common

        for _ in range(self.steps):
            classes = classes - self.lr * torch.func.grad(loss)(classes)
        return self.task_scale * _cosines(query, classes)


def _cosines(features: Tensor, classes: Tensor) -> Tensor:
    return F.normalize(features, dim=-1) @ F.normalize(classes, dim=-1).mT
