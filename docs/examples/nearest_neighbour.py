"""A learner of one's own: the nearest support image in a space of features that is learned."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.learners.embedding import embed, require_own_statistics
from genmeta.learners.learner import Learner, check_image_shape
from genmeta.learners.metric import squared_distances


class NearestNeighbour(Learner):
    """The class of the nearest support image; a class's logit is minus the squared distance to its nearest one.

    With one shot that is ProtoNet. How much support images count (`support_weight`) makes no difference.

    Args:
        backbone: images `[n, C, H, W]` to features `[n, d]`; its batch norm must keep running statistics.

    Raises:
        UserError: the backbone uses batch statistics.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        require_own_statistics(backbone, "NearestNeighbour")
        self.backbone = backbone

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self.backbone, image_shape)

    def forward(self, batch: EpisodeBatch) -> Tensor:
        support, query = embed(self.backbone, batch)  # [task, way * shot, d], [task, way * query, d]
        distances = squared_distances(query, support)  # [task, way * query, way * shot]
        of_class = F.one_hot(batch.support_y, batch.n_way).mT.bool()  # [task, way, way * shot]
        of_each = distances[:, :, None].masked_fill(~of_class[:, None], torch.inf)
        return -of_each.amin(3)  # [task, way * query, way]
