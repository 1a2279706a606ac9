"""Checkpoints of a run's youth, kept beside the best and the last."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from genmeta.errors import UserError


class KeepAges(Callback):
    """Saves `age-<steps>.ckpt` beside the other checkpoints after so many batches; 0: before the first step, untrained.

    Batches, not Lightning's steps: a GAN makes two of these of a batch.

    Args:
        steps: the ages.

    Raises:
        UserError: an age is below 0.
    """

    def __init__(self, steps: Sequence[int]) -> None:
        if min(steps, default=0) < 0:
            raise UserError(f"KeepAges: steps must be at least 0, found {min(steps)}")
        self.steps = frozenset(steps)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx < 0:  # not when it goes on where it was stopped
            self._save(trainer, 0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._save(trainer, trainer.fit_loop.epoch_loop.total_batch_idx + 1)

    def _save(self, trainer: Trainer, age: int) -> None:
        if age in self.steps:
            folder = getattr(trainer.checkpoint_callback, "dirpath", None) or trainer.default_root_dir
            trainer.save_checkpoint(age_checkpoint(Path(folder), age))


def age_checkpoint(folder: Path, age: int) -> Path:
    """Return the path of the checkpoint of an age, in a folder of checkpoints."""
    return folder / f"age-{age}.ckpt"
