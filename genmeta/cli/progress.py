"""What is seen while a run goes on."""

import logging
import warnings
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

from genmeta.output import say


class LiveBar(TQDMProgressBar):
    """Lightning's bar with losses and accuracies, without the version number."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}
        return dict(in_words(metrics))


class EpochLines(ProgressBar):
    """Where there is no terminal: one line an epoch, since a bar that is redrawn fills a log."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True

    def disable(self) -> None:
        """Called by Lightning on all processes but the first."""
        self._enabled = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._enabled:
            metrics = {k: v for k, v in self.get_metrics(trainer, pl_module).items() if isinstance(v, float)}
            numbers = "  ".join(f"{name} {value}" for name, value in in_words(metrics).items())
            say(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {numbers}")


def in_words(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return metrics as they are printed: each once, accuracies in percent and with their interval, as in tables.

    (In files and W&B they are in [0, 1].)
    """
    words = {}
    for name, value in metrics.items():
        half = metrics.get(f"{name}_ci95")
        if name.endswith("_ci95") and name.removesuffix("_ci95") in metrics:
            continue
        if isinstance(value, float) and name.partition("/")[2].split("_")[0] == "acc":
            words[name] = f"{100 * value:.2f}" + (f" ± {100 * half:.2f}" if half is not None else "") + " %"
        else:
            words[name] = f"{value:.4g}" if isinstance(value, float) else str(value)
    return words


def quiet() -> None:
    """Leave out what Lightning says at every start and what does not concern the user."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        # our config.yaml is there first; run folders are never used twice
        r"Experiment logs directory .* exists and is not empty",
        # a test needs no ModelCheckpoint
        r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint need to be provided",
        # Lightning's own tree code against torch >= 2.10
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    ):
        warnings.filterwarnings("ignore", message)
