"""The backbone of a learner as an ONNX file for other programs, by torch's exporter."""

import importlib.util
import warnings
from typing import Any

import torch
from torch import nn

from genmeta.errors import UserError
from genmeta.learners.checkpoint import LoadedLearner
from genmeta.models.backbones import uses_batch_statistics

ONNX = "backbone.onnx"
INPUT, OUTPUT = "images", "features"
_NEEDED = ("onnx", "onnxscript")  # by torch's exporter


def check_onnx() -> None:
    """Raise UserError if torch's exporter lacks a package."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'--onnx: needs {" and ".join(missing)}, not installed here; pip install "genmeta[onnx]"')


def as_onnx(loaded: LoadedLearner) -> Any:
    """Return the backbone as torch's `ONNXProgram`: any number of images `[n, C, H, W]` in [0, 1] to features.

    Raises:
        UserError: the learner has no fixed backbone (it adapts its network to each task), or the features of an image
            depend on other images.
    """
    name, network = type(loaded.learner).__name__, getattr(loaded.learner, "backbone", None)
    if not isinstance(network, nn.Module):
        raise UserError(f"--onnx: {name} has no backbone that is the same in every task; export it without")
    if uses_batch_statistics(network):
        raise UserError(
            f"--onnx: the backbone of this {name} normalises each image with the others of a batch, so its features "
            f"are not of one image alone; train one with norm: running or group"
        )
    images = torch.zeros(2, *loaded.image_shape)
    dynamic = ({0: torch.export.Dim("n", min=1)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own parts, and different in each version of torch
        return torch.onnx.export(
            network,
            (images,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=dynamic,
            dynamo=True,
            verbose=False,
        )


def about_onnx(loaded: LoadedLearner) -> str:
    """Return the part of the model card on this file, as Markdown."""
    shape = ", ".join(map(str, loaded.image_shape))
    return (
        f"\n## {ONNX}\n\nThe backbone alone, for other programs: `{INPUT}` float32 `[n, {shape}]` in [0, 1] to "
        f"`{OUTPUT}`, any `n`. What the learner does with the features of support and query images is not in it.\n"
    )
