"""Metric-based learners: compare query images with support images in a space of features."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.learner import Learner, check_image_shape
from genmeta.models.backbones import uses_batch_statistics


def prototypes(features: Tensor, labels: Tensor, n_way: int, weight: Tensor | None = None) -> Tensor:
    """Return the mean of each class's features, `[task, way, d]`, from `[task, n, d]` and labels `[task, n]`.

    Args:
        weight: `[task, n]`, how much each counts in its class's mean; all alike by default.
    """
    members = F.one_hot(labels, n_way).to(features.dtype).mT
    if weight is not None:
        members = members * weight[:, None]
    return members @ features / members.sum(2, keepdim=True)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return squared Euclidean distances `[task, n, m]` of `[task, n, d]` and `[task, m, d]`."""
    return x.square().sum(2)[:, :, None] - 2 * x @ y.mT + y.square().sum(2)[:, None]


class ProtoNet(Learner):
    """Prototypical networks: softmax over negative squared Euclidean distances to class means.

    Snell, Swersky and Zemel, "Prototypical Networks for Few-shot Learning", NeurIPS 2017, eq. 1 and 2. Reference code:
    github.com/jakesnell/prototypical-networks.

    Args:
        backbone: images `[n, C, H, W]` to features `[n, d]`. Its batch norm must keep running statistics: tasks are
            embedded together, and in evaluation a prediction must not depend on which others stand beside it.

    Raises:
        UserError: the backbone uses batch statistics.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        if uses_batch_statistics(backbone):
            raise UserError(
                "ProtoNet needs a backbone whose batch norm keeps running statistics: norm: running or group"
            )
        self.backbone = backbone

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self.backbone, image_shape)

    def forward(self, batch: EpisodeBatch) -> Tensor:
        n_support = batch.support_x.shape[1]
        x = torch.cat([batch.support_x, batch.query_x], 1)
        features = self.backbone(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        centres = prototypes(features[:, :n_support], batch.support_y, batch.n_way, batch.support_weight)
        return -squared_distances(features[:, n_support:], centres)


class PixelNearestNeighbour(Learner):
    """Baseline without training: the class of the nearest support image, by Euclidean distance of the pixels."""

    def forward(self, batch: EpisodeBatch) -> Tensor:
        distances = squared_distances(batch.query_x.flatten(2), batch.support_x.flatten(2))
        of_class = F.one_hot(batch.support_y, batch.n_way).mT.bool()
        return -distances[:, :, None].masked_fill(~of_class[:, None], torch.inf).amin(3)
