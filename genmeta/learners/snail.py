"""Memory-based learner over a sequence: temporal convolutions and causal attention."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError, require_positive
from genmeta.learners.draws import Draws, support_order
from genmeta.learners.embedding import check_way, embed, feature_size
from genmeta.learners.learner import Learner, check_image_shape


class DenseBlock(nn.Module):
    """Appends gated causal convolutions of size 2 to a sequence (Mishra et al., ICLR 2018, algorithm 1, DenseBlock).

    `[b, t, c]` becomes `[b, t, c + filters]`; time t sees t and t - dilation.
    """

    def __init__(self, channels: int, dilation: int, filters: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.conv = nn.Conv1d(channels, 2 * filters, 2, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        values, gates = self.conv(F.pad(x.mT, (self.dilation, 0))).mT.chunk(2, 2)
        return torch.cat([x, values.tanh() * gates.sigmoid()], 2)


class TCBlock(nn.Sequential):
    """Dense blocks of dilations 1, 2, 4 … that together see `length` steps (algorithm 1, TCBlock).

    `[b, t, c]` becomes `[b, t, c + filters * ceil(log2(length))]`, the last also its attribute `channels`.
    """

    def __init__(self, channels: int, length: int, filters: int) -> None:
        n_blocks = math.ceil(math.log2(length))
        super().__init__(*(DenseBlock(channels + i * filters, 2**i, filters) for i in range(n_blocks)))
        self.channels = channels + n_blocks * filters


class AttentionBlock(nn.Module):
    """Appends what causal attention reads to a sequence (algorithm 1, AttentionBlock).

    `[b, t, c]` becomes `[b, t, c + value_size]`; time t sees the times up to t.
    """

    def __init__(self, channels: int, key_size: int, value_size: int) -> None:
        super().__init__()
        self.key, self.query = nn.Linear(channels, key_size), nn.Linear(channels, key_size)
        self.value = nn.Linear(channels, value_size)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).mT / self.key.out_features**0.5
        later = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
        return torch.cat([x, scores.masked_fill(later, -torch.inf).softmax(2) @ self.value(x)], 2)


class SNAIL(Learner):
    """Simple neural attentive learner: reads support images with their labels, then a query without, as a sequence.

    Mishra, Rohaninejad, Chen and Abbeel, "A Simple Neural Attentive Meta-Learner", ICLR 2018, sec. 3 and 5.1:
    attention, TC block, attention, TC block, attention, a linear layer; the loss is that of the last step. Each query
    has a sequence of its own. The order of the support set matters (`draws.support_order`), and labels are one-hot
    inputs: permuted labels permute the logits only as far as training has taught it. `support_weight` is ignored.

    Args:
        backbone: images `[n, C, H, W]` to features `[n, d]`, with `n_features = d` and running statistics.
        n_way: classes of every episode in training and test.
        length: the longest sequence, `way * shot + 1`, which TC blocks shall see.
        width: filters of a dense block, keys, and values of the last two attentions are `width`, `width`, `2 * width`;
            the first attention has half of that.

    Raises:
        UserError: a size is out of range, or the backbone uses batch statistics.
    """

    def __init__(self, backbone: nn.Module, n_way: int = 5, length: int = 26, width: int = 32) -> None:
        super().__init__()
        n_features = feature_size("SNAIL", backbone)
        require_positive("SNAIL", n_way=n_way, length=length - 1, width=width // 2)
        self.backbone, self.n_way, self.length, self.draws = backbone, n_way, length, Draws()
        channels = n_features + n_way
        layers: list[nn.Module] = [AttentionBlock(channels, width, width)]
        channels += width
        for _ in range(2):
            block = TCBlock(channels, length, width)
            layers += [block, AttentionBlock(block.channels, width, 2 * width)]
            channels = block.channels + 2 * width
        self.network = nn.Sequential(*layers, nn.Linear(channels, n_way))

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self.backbone, image_shape)
        check_way("SNAIL", self.n_way, shape)
        if shape.n_way * shape.n_shot + 1 > self.length:
            raise UserError(
                f"the learner is SNAIL with length={self.length}, but episodes of n_way={shape.n_way}, "
                f"n_shot={shape.n_shot} are sequences of {shape.n_way * shape.n_shot + 1}"
            )

    def forward(self, batch: EpisodeBatch) -> Tensor:
        support, query = embed(self.backbone, batch)
        labels = F.one_hot(batch.support_y, self.n_way).to(support.dtype)
        order = support_order(self.draws, batch, self.training)[:, :, None]
        labelled = torch.cat([support, labels], 2)
        labelled = labelled.gather(1, order.expand(-1, -1, labelled.shape[2]))
        n_query = query.shape[1]
        unlabelled = F.pad(query, (0, self.n_way))
        sequences = torch.cat([labelled[:, None].expand(-1, n_query, -1, -1), unlabelled[:, :, None]], 2)
        return self.network(sequences.flatten(0, 1))[:, -1].unflatten(0, query.shape[:2])
