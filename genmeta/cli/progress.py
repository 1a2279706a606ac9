"""What is seen while a run goes on."""

import logging
import warnings
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

from genmeta.cli.output import say


class LiveBar(TQDMProgressBar):
    """Lightning's bar with losses and accuracies, without the version number."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}


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
            metrics = self.get_metrics(trainer, pl_module)
            numbers = "  ".join(f"{k} {v:.3f}" for k, v in metrics.items() if isinstance(v, float))
            say(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {numbers}")


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
