"""Meta-learning with generative models: new knowledge from latent space.

Importing this package loads nothing else; its parts are imported by name.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # `typing` would be loaded
if TYPE_CHECKING:
    from pathlib import Path

    from genmeta.learners.predictor import Predictor


def load(path: "str | Path", redrawer: "str | Path | None" = None) -> "Predictor":
    """Return the learner of a checkpoint, to name pictures with: `genmeta.learners.predictor.load`."""
    from genmeta.learners.predictor import load as load_predictor  # here: it loads torch

    return load_predictor(path, redrawer)
