"""The checkpoints that a run reads."""

from typing import Any

from genmeta.models.transfer import PretrainedBackbone
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.train_classes import MinedLabels


def inputs_of(model: Any, data: Any, checkpoint: str | None) -> dict[str, Any]:
    """Return the paths of the checkpoints that a run reads, by role.

    Roles are `generator`, `redrawer`, `learner`, `backbone`, the names of trained parts of the learner, and `embedding`
    and `judge` of pseudo-classes.

    Args:
        model: of the run.
        data: its data module, after its setup.
        checkpoint: of the model itself; None if the run is given none.
    """
    episodic = isinstance(data, EpisodicDataModule)
    roles = {"generator": data.generator, "redrawer": data.redrawer} if episodic else {}
    inputs: dict[str, Any] = {role: loaded.path for role, loaded in roles.items() if loaded is not None}
    if isinstance(labels := getattr(data, "labels", None), MinedLabels):
        inputs |= labels.checkpoints
    if checkpoint:
        inputs["learner" if episodic else "generator"] = checkpoint
    for name, part in model.named_modules():
        if isinstance(part, PretrainedBackbone):
            inputs["backbone"] = part.checkpoint
        elif getattr(part, "without_file", None):
            inputs[name.removeprefix("learner.")] = part.checkpoint
    return {role: path for role, path in inputs.items() if path}
