"""Checks that model, data, trainer and checkpoint of a run fit together, before the run begins."""

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
    """The checkpoint that a run begins with: weights to test, or a training to go on with.

    Attributes:
        path: its file; None without a checkpoint.
        content: of the file.
        batches: how many it has seen, in `fit`; else 0.
    """

    path: str | None = None
    content: Mapping[str, Any] = field(default_factory=dict)
    batches: int = 0

    @classmethod
    def read(cls, path: str | None, stage: str) -> "Given":
        """Read it; in `fit`, if the file is damaged, read the one kept beside it."""
        if not path:
            return cls()
        if stage != "fit":
            return cls(path, read_checkpoint(path))
        whole, checkpoint, note = whole_checkpoint(path)
        if note:
            tell(note)
        return cls(str(whole), checkpoint, batches_seen(checkpoint))


def check_parts(stage: str, config: Namespace, model: Any, data: Any, aloud: bool) -> Given:
    """Load the data and the checkpoint of a run, and check that its parts fit together.

    Args:
        stage: `fit`, `validate` or `test`.
        config: of the run, as parsed.
        model: to train or test.
        data: its data module; it is set up here.
        aloud: print how many files of the data were used, and if there will be no validation.

    Returns:
        The checkpoint.

    Raises:
        UserError: something does not fit.
    """
    expected = EpisodicDataModule if isinstance(model, MetaModule) else ImageDataModule
    if not isinstance(data, expected):
        raise UserError(f"data: {type(model).__name__} needs a {expected.__name__}, found {type(data).__name__}")
    if getattr(model, "optimizer", config) is None:
        raise UserError("model.optimizer: found null; expected a class such as torch.optim.Adam")
    if "precision" not in config.trainer:  # a value in its place wiped out the defaults
        raise UserError("trainer: one of the YAMLs gives a single value; expected options such as max_epochs: 10")
    check_precision(config.trainer.precision)
    if stage == "test" and not isinstance(model, MetaModule):
        raise UserError(f"genmeta test is for learners; use genmeta validate for a {type(model).__name__}")
    if config.ckpt_path == "":  # from a variable that a script has not set
        raise UserError("ckpt_path: is empty; expected the path of a checkpoint, or leave the option out")
    given = Given.read(config.ckpt_path, stage)  # before the data, which may take long
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
        rank_zero_only(tell)(f"{why}: no validation chooses the best checkpoint, so the last is the result")


def _check_weights(path: str, weights: Mapping[str, torch.Tensor], model: Any) -> None:
    expected = {name: list(value.shape) for name, value in model.state_dict().items()}
    found = {name: list(value.shape) for name, value in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"ckpt_path: {path} is not of this model: it has {name} {found.get(name, '(none)')}, "
                f"the model has {expected.get(name, '(none)')}; use the config.yaml of the checkpoint's run"
            )
