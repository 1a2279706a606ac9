"""Matching networks: attention over the support images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.embedding import embed, require_own_statistics
from genmeta.learners.learner import Learner, check_image_shape, feature_count


class FullContextEmbeddings(nn.Module):
    """Features of each image that depend on the whole support set (Vinyals et al. 2016, appendix A.1 and A.2).

    Args:
        n_features: d.
        steps: K of the attention LSTM.
    """

    def __init__(self, n_features: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.of_support = nn.LSTM(n_features, n_features, batch_first=True, bidirectional=True)
        # their LSTM(x, [h, r], c) has weights for x, h and r: a cell with the input [x, r] and the state h has the same
        self.of_query = nn.LSTMCell(2 * n_features, n_features)

    def forward(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedded `support` `[task, n, d]` and `query` `[task, m, d]`, of the same shapes."""
        forwards, backwards = self.of_support(support)[0].chunk(2, 2)
        support = support + forwards + backwards
        h, c = torch.zeros_like(query), torch.zeros_like(query)
        for _ in range(self.steps):
            r = (h @ support.mT).softmax(2) @ support
            inputs, state = torch.cat([query, r], 2).flatten(0, 1), (h.flatten(0, 1), c.flatten(0, 1))
            h, c = (t.unflatten(0, query.shape[:2]) for t in self.of_query(inputs, state))
            h = h + query
        return support, h


class MatchingNet(Learner):
    """Matching networks: a query's class by attention over the support images, a softmax over cosine similarities.

    Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016, eq. 1 and section 2.1.1; logits are the
    logarithms of the probabilities. A support image's weight multiplies its attention.

    Args:
        backbone: images `[n, C, H, W]` to features `[n, d]`; its batch norm must keep running statistics.
        context_steps: processing steps K of full-context embeddings, which need `n_features` of the backbone; 0: none.
            With them the order of the support images matters, since an LSTM reads them one after the other; it is
            random in every episode.
        scale: of the cosines; 1 in the paper. Features after a ReLU have cosines from 0 to 1, so with a scale of 1 no
            class has more than e times the probability of another, and training stops early. Chen et al., ICLR 2019,
            use a scale too.

    Raises:
        UserError: a number is out of range, the backbone uses batch statistics, or does not state its number of
            features when that is needed.
    """

    def __init__(self, backbone: nn.Module, context_steps: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        if context_steps < 0 or scale <= 0:
            raise UserError(
                f"MatchingNet needs context_steps >= 0 and scale > 0; found context_steps={context_steps}, "
                f"scale={scale}"
            )
        require_own_statistics(backbone, "MatchingNet")
        self.backbone, self.scale = backbone, scale
        self.context = (
            FullContextEmbeddings(feature_count(backbone, "MatchingNet"), context_steps) if context_steps else None
        )

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self.backbone, image_shape)

    def forward(self, batch: EpisodeBatch) -> Tensor:
        support, query = embed(self.backbone, batch)
        if self.context is not None:
            support, query = self.context(support, query)
        scores = self.scale * F.normalize(query, dim=2) @ F.normalize(support, dim=2).mT
        if batch.support_weight is not None:
            scores = scores + batch.support_weight.log()[:, None]
        attention = scores.log_softmax(2)
        of_class = F.one_hot(batch.support_y, batch.n_way).mT.bool()
        return attention[:, :, None].masked_fill(~of_class[:, None], -torch.inf).logsumexp(3)
