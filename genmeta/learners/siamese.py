"""Siamese network: are two images of the same class?"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import require_positive
from genmeta.learners.embedding import embed, require_own_statistics
from genmeta.learners.learner import Learner, check_image_shape, feature_count


class SiameseNet(Learner):
    """Siamese network: the class of the support image that is most probably of the query's class.

    Koch, Zemel and Salakhutdinov, "Siamese Neural Networks for One-shot Image Recognition", ICML deep learning workshop
    2015, section 3: the probability that two images are of one class is σ(Σ_j α_j |h_j − h'_j| + b), h being a layer of
    sigmoid units. Trained by the cross-entropy of pairs; these are each query with each support image of its episode,
    and those of one class count as much as the others together, as the paper draws as many. As it looks for the most
    similar image, weights of support images are ignored.

    Args:
        backbone: images `[n, C, H, W]` to features `[n, d]`, with `n_features = d`; its batch norm must keep running
            statistics.
        n_units: sigmoid units.

    Raises:
        UserError: the backbone uses batch statistics, or does not say its number of features.
    """

    def __init__(self, backbone: nn.Module, n_units: int = 256) -> None:
        super().__init__()
        require_positive("SiameseNet", n_units=n_units)
        require_own_statistics(backbone, "SiameseNet")
        n_features = feature_count(backbone, "SiameseNet")
        self.backbone = nn.Sequential(backbone, nn.Linear(n_features, n_units), nn.Sigmoid())
        self.similarity = nn.Linear(n_units, 1)

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self.backbone[0], image_shape)

    def pair_logits(self, batch: EpisodeBatch) -> Tensor:
        """Return the logit that two images are of one class, `[task, query, support]`."""
        support, query = embed(self.backbone, batch)
        return self.similarity((query[:, :, None] - support[:, None]).abs()).squeeze(3)

    def forward(self, batch: EpisodeBatch) -> Tensor:
        return _most_similar(self.pair_logits(batch), batch)

    def loss(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        pairs = self.pair_logits(batch)
        same = batch.query_y[:, :, None] == batch.support_y[:, None]
        losses = F.binary_cross_entropy_with_logits(pairs, same.to(pairs.dtype), reduction="none")
        return (losses[same].mean() + losses[~same].mean()) / 2, _most_similar(pairs, batch)


def _most_similar(pairs: Tensor, batch: EpisodeBatch) -> Tensor:
    """Return the largest logit of each class, `[task, query, way]`."""
    of_class = F.one_hot(batch.support_y, batch.n_way).mT.bool()
    return pairs[:, :, None].masked_fill(~of_class[:, None], -torch.inf).amax(3)
