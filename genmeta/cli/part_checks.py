"""Whether model, data, trainer and checkpoint of a run go together, told before the run begins."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

from genmeta.cli.trainer_checks import check_precision, check_trainer, never_validates
from genmeta.errors import UserError, tell
from genmeta.models.checkpoint import read_checkpoint
from genmeta.modules.checkpoints import batches_seen, whole_checkpoint
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.image_data import ImageDataModule
from genmeta.modules.meta_module import MetaModule
from genmeta.output import say


@dataclass(frozen=True)
class Given:
    """The checkpoint that a run is given: the weights to test, or where to go on.

    Attributes:
        path: its file; None if there is none.
        content: what is in it.
        batches: that it has seen; 0 but in `fit`.
    """

    path: str | None = None
    content: Mapping[str, Any] = field(default_factory=dict)
    batches: int = 0

    @classmethod
    def read(cls, path: str | None, stage: str) -> "Given":
        """Return it; in `fit`, of several that stand in for one another, the whole one."""
        if not path:
            return cls()
        if stage != "fit":
            return cls(path, read_checkpoint(path))
        whole, checkpoint, note = whole_checkpoint(path)
        if note:
            tell(note)
        return cls(str(whole), checkpoint, batches_seen(checkpoint))


def check_parts(stage: str, config: Namespace, model: Any, data: Any, aloud: bool) -> Given:
    """Check the parts of a run against each other; loads its data and its checkpoint.

    Args:
        stage: `fit`, `validate` or `test`.
        config: of the run, as parsed.
        model: to be trained or tested.
        data: its data module, which is set up.
        aloud: say what was used of the data's files, and that there will be no validation.

    Returns:
        The checkpoint that is given.

    Raises:
        UserError: something does not fit.
    """
    expected = EpisodicDataModule if isinstance(model, MetaModule) else ImageDataModule
    if not isinstance(data, expected):
        raise UserError(f"data: {type(model).__name__} needs a {expected.__name__}, found {type(data).__name__}")
    if getattr(model, "optimizer", config) is None:
        raise UserError("model.optimizer: found null; expected a class such as torch.optim.Adam")
    check_precision(config.trainer.precision)
    if stage == "test" and not isinstance(model, MetaModule):
        raise UserError(f"genmeta test is for learners; use genmeta validate for a {type(model).__name__}")
    if config.ckpt_path == "":  # of a variable that a script has not set
        raise UserError("ckpt_path: is empty; expected the path of a checkpoint, or leave the option out")
    given = Given.read(config.ckpt_path, stage)  # before the data: these may take long
    data.setup(stage)
    if aloud and data.account:
        rank_zero_only(say)(data.account)
    model.check(data, stage)
    if stage == "fit":
        _check_training(config.trainer, model, data, aloud)
    if given.path:
        _check_weights(given.path, given.content["state_dict"], model)
        if stage == "fit":
            model.check_going_on(given.content, given.path)
        if isinstance(data, EpisodicDataModule):
            model.check_checkpoint(given.content, data, stage, given.path)
    elif isinstance(data, EpisodicDataModule):
        model.check_new_classes(data, None, "")
    return given


def _check_training(trainer: Mapping[str, Any], model: Any, data: Any, aloud: bool) -> None:
    try:
        model.configure_optimizers()
    except (TypeError, ValueError) as error:  # optimisers check their numbers when they are made
        raise UserError(f"model.optimizer: {error}") from error
    check_trainer(trainer, model, data)
    if aloud and (why := never_validates(trainer, model, data.steps_per_epoch)):
        rank_zero_only(tell)(f"{why}: no checkpoint can be chosen as the best, and the last is the result")


def _check_weights(path: str, weights: Mapping[str, torch.Tensor], model: Any) -> None:
    expected = {name: list(value.shape) for name, value in model.state_dict().items()}
    found = {name: list(value.shape) for name, value in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"ckpt_path: {path} is not of this model: it has {name} {found.get(name, '(none)')}, "
                f"the model has {expected.get(name, '(none)')}; use the config.yaml of the checkpoint's run"
            )
