"""Checkpoints of a training that may be stopped at any moment."""

import os
import shutil
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from genmeta.errors import UserError
from genmeta.models.checkpoint import read_checkpoint

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


class Checkpoints(ModelCheckpoint):
    """Keeps `best.ckpt`, `last.ckpt` and the one before that, `previous.ckpt`; saves on SIGTERM too.

    The last is written after every validation, and when training ends otherwise: in an epoch without one, or without
    any. (Lightning's `save_last` writes it only where the best is written too.)

    Each is written to another file in the same folder, which is renamed when it is whole: a process that is killed, or
    a disk that is full, leaves the old one. (Lightning writes to the folder for temporary files and moves it, which
    between two disks is a copy.) Should `last.ckpt` be damaged all the same, `whole_checkpoint` finds `previous.ckpt`.

    SIGTERM, by which a cluster takes a machine back, stops training after the batch or the validation at hand, with
    `last.ckpt` of that moment. Lightning's own handler saves nothing, and its processes may stop at different batches,
    which leaves the others waiting; here they agree first.

    A run that goes on from a checkpoint has a folder of its own. The best checkpoint of the run before is copied to it,
    with its score; Lightning would choose the best of the rest only.

    Args:
        folder: of all three.
        monitor: metric that the best is chosen by.
        mode: `max` or `min`.
    """

    def __init__(self, folder: Path, monitor: str, mode: str) -> None:
        super().__init__(dirpath=folder, filename="best", monitor=monitor, mode=mode, enable_version_counter=False)
        self.last = folder / LAST
        self._best_before: Path | None = None
        self.told_to_stop = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        # here, not when training starts: there may be nothing left to train, and best.ckpt is what such a run is for
        if self._best_before and trainer.is_global_zero:
            part = self.last.with_name(".best.ckpt.part")
            part.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._best_before, part)
            part.replace(self.best_model_path)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if threading.current_thread() is threading.main_thread():  # no other may; Lightning puts the old one back
            signal.signal(signal.SIGTERM, self._tell)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        # after the last batch of an epoch comes its validation, which is finished first
        if not trainer.is_last_batch and self._all_agree(trainer):
            self._save_checkpoint(trainer, str(self.last))
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if self._should_save_on_train_epoch_end(trainer) and self._all_agree(trainer):
            self._stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        quick = trainer.fast_dev_run  # type: ignore[attr-defined]
        if not quick and self._last_global_step_saved != trainer.global_step:
            self._save_checkpoint(trainer, str(self.last))

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        if self.monitor in monitor_candidates:  # else there was no validation, and so is no best
            super()._save_topk_checkpoint(trainer, monitor_candidates)
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.save()  # a run that goes on from here keeps its numbers until here
        self._save_checkpoint(trainer, str(self.last))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        before, here = Path(state_dict["best_model_path"]), str(self.dirpath)
        if state_dict["dirpath"] != here:
            if not state_dict["best_model_path"]:  # stopped in the first epoch
                return
            if self._score_of(before) != float(state_dict["best_model_score"]):
                # it is gone, or of a later epoch than this checkpoint, which will come again
                return
            self._best_before = before
            best = str(self.last.with_name(before.name))
            state_dict = {
                **state_dict,
                "dirpath": here,
                "best_model_path": best,
                "kth_best_model_path": best,
                "best_k_models": {best: state_dict["best_model_score"]},
            }
        super().load_state_dict(state_dict)

    def _score_of(self, path: Path) -> float | None:
        """Return what a best checkpoint was chosen by; None if it cannot be read."""
        try:
            return float(read_checkpoint(path)["callbacks"][self.state_key]["best_model_score"])
        except (UserError, KeyError):
            return None

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        path = Path(filepath)
        part = path.with_name(f".{path.name}.part")
        try:
            super()._save_checkpoint(trainer, str(part))
        except OSError:
            part.unlink(missing_ok=True)
            raise
        if trainer.is_global_zero:
            with part.open("rb") as file:
                os.fsync(file.fileno())  # on the disk before the old one goes
            if path.name == LAST and path.is_file():
                path.replace(path.with_name(PREVIOUS))
            part.replace(path)

    @staticmethod
    def _stop(trainer: Trainer) -> None:
        """Have Lightning raise SIGTERMException when it has logged this step, or this epoch."""
        trainer._signal_connector.received_sigterm = True

    def _tell(self, *_: Any) -> None:
        self.told_to_stop = True

    def _all_agree(self, trainer: Trainer) -> bool:
        """Whether any process was told to stop; the same on all."""
        if trainer.world_size == 1:
            return self.told_to_stop
        return trainer.strategy.reduce_boolean_decision(self.told_to_stop, all=False)


def batches_seen(checkpoint: Mapping[str, Any]) -> int:
    """Return how many training batches a checkpoint of Lightning has seen, which is what `metrics.csv` counts.

    (Its `global_step` counts the steps of all optimisers: a GAN has two.)
    """
    return int(checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"])


def whole_checkpoint(path: str | Path) -> tuple[Path, dict[str, Any], str]:
    """Return path and content of the checkpoint to go on from, and why it is not the one that was asked for, or "".

    Raises:
        UserError: it cannot be read, and there is none before it.
    """
    path = Path(path)
    try:
        return path, read_checkpoint(path), ""
    except UserError as error:
        before = path.with_name(PREVIOUS)
        if path.name != LAST or not before.is_file():
            raise
        return before, read_checkpoint(before), f"{error}; going on from {before}, which was written before it"
