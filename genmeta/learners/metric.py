"""Metric-based learners: compare query images with support images in a space of features."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.embedding import embed, require_own_statistics
from genmeta.learners.learner import Learner, check_image_shape


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
        require_own_statistics(backbone, type(self).__name__)
        self.backbone = backbone

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self.backbone, image_shape)

    def forward(self, batch: EpisodeBatch) -> Tensor:
        support, query = embed(self.backbone, batch)
        return self.compare(query, prototypes(support, batch.support_y, batch.n_way, batch.support_weight))

    def compare(self, query: Tensor, centres: Tensor) -> Tensor:
        """Return logits `[task, n, way]` of features `[task, n, d]` for class means `[task, way, d]`."""
        return -squared_distances(query, centres)


class CosineProtoNet(ProtoNet):
    """ProtoNet with scaled cosine similarity in place of distances: softmax over τ cos(f(x), class mean).

    τ, the inverse of a temperature, is learned and starts at 10: Chen et al., "Meta-Baseline: Exploring Simple
    Meta-Learning for Few-Shot Learning", ICCV 2021, section 3.2.

    Args:
        backbone: as ProtoNet's.
        scale: τ at the start of training.

    Raises:
        UserError: the backbone uses batch statistics, or the scale is not positive.
    """

    begins_with = frozenset({"scale"})

    def __init__(self, backbone: nn.Module, scale: float = 10.0) -> None:
        super().__init__(backbone)
        if scale <= 0:
            raise UserError(f"CosineProtoNet needs a scale > 0, found {scale}")
        self.scale = nn.Parameter(torch.tensor(scale))

    def compare(self, query: Tensor, centres: Tensor) -> Tensor:
        return self.scale * F.normalize(query, dim=2) @ F.normalize(centres, dim=2).mT


class TransductiveProtoNet(ProtoNet):
    """ProtoNet whose class means are refined with the query images of the task, all of them together: transductive.

    Soft k-means of Ren et al., "Meta-Learning for Semi-Supervised Few-Shot Classification", ICLR 2018, eq. 2 and 3,
    with the queries in the place of their unlabelled images: each query counts in the mean of each class as likely as
    it is taken for it. In training as in evaluation, as there.

    Args:
        backbone: as ProtoNet's.
        steps: of refinement; one in the paper.

    Raises:
        UserError: the backbone uses batch statistics, or there is no step.
    """

    def __init__(self, backbone: nn.Module, steps: int = 1) -> None:
        super().__init__(backbone)
        if steps < 1:
            raise UserError(f"TransductiveProtoNet needs steps >= 1, found {steps}; without any it is ProtoNet")
        self.steps = steps

    def forward(self, batch: EpisodeBatch) -> Tensor:
        support, query = embed(self.backbone, batch)
        centres = prototypes(support, batch.support_y, batch.n_way, batch.support_weight)
        members = F.one_hot(batch.support_y, batch.n_way).to(support.dtype)
        if batch.support_weight is not None:
            members = members * batch.support_weight[..., None]
        both = torch.cat([support, query], 1)
        for _ in range(self.steps):
            shares = torch.cat([members, self.compare(query, centres).softmax(2)], 1).mT
            centres = shares @ both / shares.sum(2, keepdim=True)
        return self.compare(query, centres)


class PixelNearestNeighbour(Learner):
    """Baseline without training: the class of the nearest support image, by Euclidean distance of the pixels."""

    def forward(self, batch: EpisodeBatch) -> Tensor:
        distances = squared_distances(batch.query_x.flatten(2), batch.support_x.flatten(2))
        of_class = F.one_hot(batch.support_y, batch.n_way).mT.bool()
        return -distances[:, :, None].masked_fill(~of_class[:, None], torch.inf).amin(3)
