"""A trained learner that labels pictures, from a few examples of each class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from genmeta.data.pictures import Pictures, as_images
from genmeta.data.seen import Seen
from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.checkpoint import load_learner
from genmeta.learners.learner import Learner
from genmeta.models.checkpoint import LatentModel, load_generator
from genmeta.rng import make_rng
from genmeta.tasks.redrawn import RedrawnSupport

N_REDRAWN, WEIGHT = (
    RedrawnSupport.n,
    RedrawnSupport.weight,
)  # generated images beside an example, their share of its class
_CHUNK = 256  # pictures that are labelled together


@dataclass(frozen=True)
class Predictions:
    """Predictions for pictures.

    Attributes:
        classes: names of all classes.
        probabilities: float32 `[n, class]`, each row's sum is 1.
    """

    classes: tuple[str, ...]
    probabilities: Tensor

    @property
    def labels(self) -> list[str]:
        """The most probable class of each picture."""
        return [self.classes[number] for number in self.probabilities.argmax(1).tolist()]

    @property
    def confidences(self) -> list[float]:
        """Its probability."""
        return self.probabilities.amax(1).tolist()


@dataclass(frozen=True)
class Predictor:
    """A learner, ready for use. It does not change: each call gives the examples of new classes again.

    Attributes:
        learner: in evaluation mode.
        image_shape: `(C, H, W)` of its images.
        seen: its training classes.
        redrawer: draws more examples from the given ones; None: no more examples.
    """

    learner: Learner
    image_shape: tuple[int, int, int]
    seen: Seen
    redrawer: LatentModel | None = None

    def predict(self, support: Mapping[str, Pictures], query: Pictures) -> Predictions:
        """Label pictures.

        Sizes and modes may be mixed; `genmeta.data.decode.decode` says how pictures are converted. Classes may have
        different numbers of examples; each class counts the same. A transductive learner, which uses all pictures of a
        task together, sees 256 at a time.

        Args:
            support: examples by class.
            query: the pictures to label.

        Raises:
            UserError: a picture cannot be used, there are fewer than two classes, or the learner cannot work with so
                many (a MAML has as many as it was trained with).
        """
        channels, height, width = self.image_shape
        if height != width:
            raise UserError(f"the learner is for images of {height} × {width}; pictures are made square")
        if len(support) < 2:
            raise UserError(f"support: expected two classes or more, found {', '.join(support) or 'none'}")
        examples = [as_images(of, height, channels, f"support of class '{name}'") for name, of in support.items()]
        images = as_images(query, height, channels, "query")
        with torch.inference_mode():
            support_x, weight = self._with_redrawn(*balanced(examples))
            n_way, n_shot = support_x.shape[:2]
            self.learner.check(EpisodeShape(n_way, n_shot, 1), self.image_shape)
            logits = [self._logits(support_x, weight, chunk) for chunk in images.split(_CHUNK)]
        probabilities = torch.cat(logits).double().softmax(1).float()
        if not probabilities.isfinite().all():
            raise UserError("the learner's answers are not finite numbers; train it again")
        return Predictions(tuple(support), probabilities)

    def _logits(self, support_x: Tensor, weight: Tensor | None, query: Tensor) -> Tensor:
        n_way, n_shot = support_x.shape[:2]
        batch = EpisodeBatch(
            support_x=support_x.flatten(0, 1)[None],
            support_y=torch.arange(n_way).repeat_interleave(n_shot)[None],
            query_x=query[None].float() / 255,
            query_y=torch.zeros(1, len(query), dtype=torch.long),  # not known
            is_generated=torch.zeros(1, n_way, dtype=torch.bool),
            support_weight=None if weight is None else weight.flatten()[None],
        )
        return self.learner(batch)[0]

    def _with_redrawn(self, support: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return examples `[class, n, C, H, W]` and weights `[class, n]`, followed by redrawn examples.

        The codes are the same at each call.
        """
        if self.redrawer is None:
            return support, weight
        n_way, n_shot = support.shape[:2]
        again = support.repeat_interleave(N_REDRAWN, 1)
        codes = torch.randn(n_way * n_shot * N_REDRAWN, self.redrawer.latent_dim, generator=make_rng(0, "predict"))
        redrawn = self.redrawer.redraw(again.flatten(0, 1), codes).view_as(again)
        weight = torch.ones(n_way, n_shot) if weight is None else weight
        of_redrawn = weight.repeat_interleave(N_REDRAWN, 1) * WEIGHT / N_REDRAWN
        return torch.cat([support, redrawn], 1), torch.cat([weight * (1 - WEIGHT), of_redrawn], 1)


def balanced(examples: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return examples of classes, uint8 `[n_i, C, H, W]` each, as float32 `[class, n, C, H, W]` in [0, 1], with n the
    largest number, and weights `[class, n]` with the sum n in each class; None: all are 1.

    Examples of smaller classes are repeated with smaller weights, so that all examples of a class count the same.
    """
    counts = torch.tensor([len(of) for of in examples])
    n = int(counts.max())
    rows = [torch.arange(n) % len(of) for of in examples]
    support = torch.stack([of[row] for of, row in zip(examples, rows, strict=True)]).float() / 255
    if bool((counts == n).all()):
        return support, None
    times = torch.stack([torch.bincount(row)[row] for row in rows])
    return support, n / counts[:, None] / times


def load(path: str | Path, redrawer: str | Path | None = None) -> Predictor:
    """Return the learner of a checkpoint, to label pictures of new classes. No code in the file is run.

    Args:
        path: of a learner's checkpoint, or of the folder that `genmeta export` made from it.
        redrawer: the same for a model that draws given images again (`vae_deformation`). It adds 30 generated images to
            each example, which count 0.7 of a class.

    Raises:
        UserError: a file is missing or damaged, is of another kind, or the two are for images of different shapes.
    """
    loaded = load_learner(str(path))
    model = None if redrawer is None else load_generator(redrawer)
    if model is not None:
        model.check_redraws()
        model.check_image_shape(loaded.image_shape)
    return Predictor(loaded.learner, loaded.image_shape, loaded.seen, model)
