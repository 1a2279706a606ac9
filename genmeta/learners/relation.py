"""Relation network: a learned comparison of feature maps."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.embedding import embed, require_own_statistics
from genmeta.learners.learner import Learner, check_image_shape
from genmeta.learners.metric import prototypes
from genmeta.models.backbones import ConvBackbone


class RelationNet(Learner):
    """Relation network: a small convolutional network says how well a query's maps go with those of each class.

    Sung et al., "Learning to Compare: Relation Network for Few-Shot Learning", CVPR 2018, eq. 1 and 2 and figure 2.
    Trained as there by the squared error of the relation scores, in [0, 1], to 1 for the right class and 0 for the
    others. Logits are the scores before the sigmoid. A class's maps are the (weighted) mean of those of its support
    images where the paper has their sum: the same with one shot, and what is trained with one can be tested with five
    (with the sum, 49 % in place of 94 % with one).

    Args:
        backbone: one with feature maps, at least 4 × 4 of them: of 28-pixel images, Conv4 with `pools: 2`, as in the
            paper. Its batch norm must keep running statistics.
        hidden: of the fully-connected layer; 8 in the paper.

    Raises:
        UserError: the backbone has no feature maps, too small ones, or uses batch statistics.
    """

    compiles = False

    def __init__(self, backbone: nn.Module, hidden: int = 8) -> None:
        super().__init__()
        require_own_statistics(backbone, "RelationNet")
        if not isinstance(backbone, ConvBackbone):
            raise UserError(
                f"RelationNet needs a backbone with feature maps, such as genmeta.models.backbones.Conv4; "
                f"{type(backbone).__name__} has none"
            )
        channels, height, width = backbone.map_shape
        if min(height, width) < 4:
            raise UserError(
                f"RelationNet halves feature maps twice: they must be at least 4 × 4, but those of "
                f"{type(backbone).__name__} are {height} × {width}; Conv4 has larger ones with fewer pools"
            )
        self.backbone = backbone
        # a convolution of joined maps is the sum of one of each part: of every image once, not of every pair
        self.of_class = nn.Conv2d(channels, channels, 3, padding=1)
        self.of_query = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.relation = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(channels * (height // 4) * (width // 4), hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        )

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self.backbone, image_shape)

    def forward(self, batch: EpisodeBatch) -> Tensor:
        support, query = embed(self.backbone.maps, batch)
        centres = prototypes(support.flatten(2), batch.support_y, batch.n_way, batch.support_weight)
        classes = centres.unflatten(2, support.shape[2:])
        # in training batch norm sees all pairs; in evaluation, where it does not matter, memory does
        parts = 1 if self.training else len(query)
        pairs = zip(classes.chunk(parts), query.chunk(parts), strict=True)
        return torch.cat([self._scores(*part) for part in pairs])

    def _scores(self, classes: Tensor, query: Tensor) -> Tensor:
        """Return `[task, query, way]` from maps `[task, way, c, h, w]` and `[task, query, c, h, w]`."""
        one = self.of_class(classes.flatten(0, 1)).unflatten(0, classes.shape[:2])
        other = self.of_query(query.flatten(0, 1)).unflatten(0, query.shape[:2])
        joined = other[:, :, None] + one[:, None]
        return self.relation(joined.flatten(0, 2)).view(joined.shape[:3])

    def loss(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        logits = self(batch)
        scores = logits.sigmoid()
        return F.mse_loss(scores, F.one_hot(batch.query_y, batch.n_way).to(scores.dtype)), logits
