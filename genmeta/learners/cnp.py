"""Memory-based learner whose memory is a mean: the conditional neural process."""

import torch
from torch import Tensor, nn

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import require_positive
from genmeta.learners.embedding import check_way, embed, feature_size
from genmeta.learners.learner import Learner, check_image_shape
from genmeta.learners.metric import prototypes


class CNP(Learner):
    """Conditional neural process: a query is classified from the mean encoding of each class's support images.

    Garnelo et al., "Conditional Neural Processes", ICML 2018, eq. 1 to 3 and, for classification, sec. 4.3: encodings
    `h(x)` are averaged by class, the means are concatenated in the order of the labels, and a network `g` computes the
    logits from them and the query's features. `g` has an input and an output for each class, so the way is fixed, and
    permuted labels permute the logits only as far as `g` has learned it. `support_weight` weights the mean.

    Args:
        backbone: images `[n, C, H, W]` to features `[n, d]`, with `n_features = d` and running statistics.
        n_way: classes of every episode in training and test.
        encoding_dim: size of an encoding.
        hidden: units of the hidden layers, one of `h` and two of `g`.

    Raises:
        UserError: a size is out of range, or the backbone uses batch statistics.
    """

    def __init__(self, backbone: nn.Module, n_way: int = 5, encoding_dim: int = 64, hidden: int = 256) -> None:
        super().__init__()
        require_positive("CNP", n_way=n_way, encoding_dim=encoding_dim, hidden=hidden)
        n_features = feature_size("CNP", backbone)
        self.backbone, self.n_way = backbone, n_way
        self.h = nn.Sequential(nn.Linear(n_features, hidden), nn.ReLU(), nn.Linear(hidden, encoding_dim))
        self.g = nn.Sequential(
            nn.Linear(n_features + n_way * encoding_dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, n_way),
        )

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self.backbone, image_shape)
        check_way("CNP", self.n_way, shape)

    def forward(self, batch: EpisodeBatch) -> Tensor:
        support, query = embed(self.backbone, batch)
        means = prototypes(self.h(support), batch.support_y, batch.n_way, batch.support_weight).flatten(1)
        return self.g(torch.cat([query, means[:, None].expand(-1, query.shape[1], -1)], 2))
