"""Memory-based learner whose memory is its context: a transformer over the support set."""

import torch
from torch import Tensor, nn

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError, require_positive
from genmeta.learners.draws import Draws
from genmeta.learners.embedding import embed, feature_size
from genmeta.learners.learner import Learner, check_image_shape
from genmeta.rng import make_rng


def orthonormal(n: int, dim: int) -> Tensor:
    """Return `n` fixed random orthonormal vectors, float32 `[n, dim]` with `dim >= n`."""
    noise = torch.randn(dim, n, generator=make_rng("class embeddings", n, dim), dtype=torch.float64)
    return torch.linalg.qr(noise).Q.mT.float().contiguous()


class InContextTransformer(Learner):
    """In-context learner: a transformer reads the support set and one query, and says the query's class.

    As CAMeLU (Vettoruzzo, Braccaioli, Vanschoren and Nowaczyk, "Unsupervised Meta-Learning via In-Context Learning",
    ICLR 2025) after CAML (Fifty et al., ICLR 2024): a support token is an image's projected features beside the
    embedding of its label, a query token has a learned vector in the label's place, attention is full, and there is no
    positional embedding, so that the order of the support set does not matter. The label embeddings are fixed,
    equally long and orthogonal, so that all are equally far from each other. Unlike there, logits are dot products with
    these embeddings, and training gives the classes of each task embeddings at random out of `max_way`, so that any way
    up to it is known in test. Permuted labels permute the logits only as far as training has taught it. No dropout,
    which draws on global random state. `support_weight` is ignored.

    Args:
        backbone: images `[n, C, H, W]` to features `[n, d]`, with `n_features = d` and running statistics.
        max_way: classes of an episode at most.
        image_dim, label_dim: sizes of the two parts of a token; `label_dim >= max_way`.
        n_layers, n_heads: of the transformer encoder; `n_heads` divides `image_dim + label_dim`.

    Raises:
        UserError: a size is out of range, or the backbone uses batch statistics.
    """

    classes: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        max_way: int = 20,
        image_dim: int = 64,
        label_dim: int = 64,
        n_layers: int = 4,
        n_heads: int = 4,
    ) -> None:
        super().__init__()
        n_features = feature_size("InContextTransformer", backbone)
        require_positive(
            "InContextTransformer", max_way=max_way, image_dim=image_dim, n_layers=n_layers, n_heads=n_heads
        )
        dim = image_dim + label_dim
        if label_dim < max_way or dim % n_heads:
            raise UserError(
                f"InContextTransformer needs label_dim >= max_way and n_heads that divide image_dim + label_dim; found "
                f"label_dim={label_dim}, max_way={max_way}, image_dim={image_dim}, n_heads={n_heads}"
            )
        self.backbone, self.max_way, self.draws = backbone, max_way, Draws()
        self.project = nn.Linear(n_features, image_dim)
        self.unknown = nn.Parameter(torch.zeros(label_dim))
        # as long as a vector of features with variance 1, which stands beside them in a token
        self.register_buffer("classes", label_dim**0.5 * orthonormal(max_way, label_dim))
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(dim, n_heads, 2 * dim, dropout=0.0, batch_first=True, norm_first=True)
                for _ in range(n_layers)
            )
        )
        self.read = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, label_dim))

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self.backbone, image_shape)
        if shape.n_way > self.max_way:
            raise UserError(
                f"the learner is InContextTransformer with max_way={self.max_way}, "
                f"but the episodes have n_way={shape.n_way}"
            )

    def forward(self, batch: EpisodeBatch) -> Tensor:
        support, query = (self.project(features) for features in embed(self.backbone, batch))
        classes = self.classes[self._chosen(batch)]  # [task, way, label_dim]
        labels = classes.gather(1, batch.support_y[:, :, None].expand(-1, -1, classes.shape[2]))
        support = torch.cat([support, labels], 2)
        query = torch.cat([query, self.unknown.expand(*query.shape[:2], -1)], 2)
        n_query = query.shape[1]
        # one sequence a query, so that queries do not see each other
        tokens = torch.cat([support[:, None].expand(-1, n_query, -1, -1), query[:, :, None]], 2)
        answers = self.layers(tokens.flatten(0, 1))[:, -1].unflatten(0, query.shape[:2])
        return self.read(answers) @ classes.mT / classes.shape[2] ** 0.5

    def _chosen(self, batch: EpisodeBatch) -> Tensor:
        """Return which embedding each class has, int64 `[task, way]`."""
        n_tasks, n_way = batch.is_generated.shape
        if not self.training:
            return torch.arange(n_way, device=batch.support_y.device).expand(n_tasks, -1)
        chosen = [torch.randperm(self.max_way, generator=rng)[:n_way] for rng in self.draws(batch)]
        return torch.stack(chosen).to(batch.support_y.device)
