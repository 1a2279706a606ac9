"""The one interface of all learners."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError
from genmeta.models.made_with import MadeWith
from genmeta.models.networks import check_same_shape


class Learner(MadeWith, nn.Module, ABC):
    """Classifies the query images of each task from its support images.

    `forward` must work with gradients on, under `no_grad` and in inference mode (Lightning's test loop): learners that
    adapt by gradients use `torch.func.grad`, which works in all three.

    Attributes:
        uses_base_classes: whether `fit_statistics` must see all base (meta-train) classes before a run.
        compiles: whether its `backbone` can be compiled: the learner calls it as a module, and not inside its own
            gradients.
        begins_with: arguments that are only start values of learned parameters: a training that goes on refuses other
            values.
    """

    begins_with: ClassVar[frozenset[str]] = frozenset()
    uses_base_classes = False
    compiles = True

    @abstractmethod
    def forward(self, batch: EpisodeBatch) -> Tensor:
        """Return logits `[task, way * query, way]`."""

    def loss(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        """Return the training loss, a scalar, and the logits. By default the loss is the queries' cross-entropy."""
        logits = self(batch)
        return cross_entropy(logits, batch.query_y), logits

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        """Raise UserError if the learner cannot work with such episodes. By default it works with all."""

    def moved(self, support: Tensor, query: Tensor) -> dict[str, Tensor]:
        """Return support images moved onto queries, pair by pair, after each stage, for pictures.

        Args:
            support, query: `[n, C, H, W]` in [0, 1].

        Returns:
            Images `[n, C, H, W]` by the name of the stage, in order; empty for a learner that moves nothing.
        """
        return {}

    def fit_statistics(self, images: Tensor, labels: Tensor) -> None:
        """Compute the learner's statistics of the base classes as buffers, so that checkpoints have them.

        Called once when a run is set up, if `uses_base_classes`; a checkpoint that is loaded then overrides it.

        Args:
            images: uint8 `[n, C, H, W]`, all training images that the run may see (with low data, only those).
            labels: int64 `[n]`, number of the class, `0 … n_classes - 1`.

        Raises:
            UserError: the learner cannot be fitted to these images, e.g. too few of a class.
        """


def check_image_shape(backbone: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Raise UserError if a backbone that states its `image_shape` is for other images."""
    of = f"the learner's backbone {type(backbone).__name__} is for images of shape"
    check_same_shape(of, getattr(backbone, "image_shape", image_shape), image_shape)


def feature_count(backbone: nn.Module, owner: str) -> int:
    """Return the number of features of a backbone.

    Raises:
        UserError: the backbone does not state it.
    """
    n_features = getattr(backbone, "n_features", None)
    if not isinstance(n_features, int):
        raise UserError(
            f"{owner} needs a backbone with an attribute n_features; {type(backbone).__name__} has none: "
            f"put it into a genmeta.models.backbones.AnyNetwork"
        )
    return n_features


def cross_entropy(logits: Tensor, query_y: Tensor) -> Tensor:
    """Mean cross-entropy over all queries of logits `[task, query, way]` and labels `[task, query]`."""
    return F.cross_entropy(logits.flatten(0, 1), query_y.flatten())
