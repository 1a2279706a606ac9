"""What learners over the features of a backbone share: their checks, and the features of an episode."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.learner import feature_count
from genmeta.models.backbones import uses_batch_statistics


def require_own_statistics(backbone: nn.Module, owner: str) -> None:
    """Raise UserError if a backbone normalises with the images at hand: a query's logits would depend on the images
    beside it, of other tasks too, since the tasks of a batch are embedded together. `owner` names the learner.
    """
    if uses_batch_statistics(backbone):
        raise UserError(f"{owner} needs a backbone whose batch norm keeps running statistics: norm: running or group")


def feature_size(owner: str, backbone: nn.Module) -> int:
    """Return the backbone's number of features, `n_features`.

    Raises:
        UserError: it does not state it, or it normalises with the images at hand.
    """
    require_own_statistics(backbone, owner)
    return feature_count(backbone, owner)


def embed(backbone: Callable[[Tensor], Tensor], batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
    """Return what a backbone, or a part of one, makes of all support and query images in one call: features
    `[task, n, …]` and `[task, m, …]`.
    """
    n_support = batch.support_x.shape[1]
    x = torch.cat([batch.support_x, batch.query_x], 1)
    features = backbone(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return features[:, :n_support], features[:, n_support:]


def check_way(owner: str, n_way: int, shape: EpisodeShape) -> None:
    """Raise UserError if a learner with `n_way` outputs meets episodes of another way."""
    if shape.n_way != n_way:
        raise UserError(
            f"the learner is {owner} with n_way={n_way}, but the episodes have n_way={shape.n_way}; "
            f"it has one input and one output a class, so the two must be equal"
        )
