"""What a run prints while it goes on."""

import logging
import os
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme

from genmeta.output import say


class LiveBar(RichProgressBar):
    """Lightning's progress bar of the package rich, without the version number. Each metric has a line of its own, so
    that the bar has room in a terminal of 80 columns.
    """

    def __init__(self) -> None:
        theme = RichProgressBarTheme(progress_bar="cyan", progress_bar_finished="green", metrics_text_delimiter="\n")
        super().__init__(refresh_rate=4, theme=theme)  # a second; Lightning's hundred take time from training

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        description, bar, batches, time = super().configure_columns(trainer)[:4]  # then comes the speed
        assert self._console is not None
        bar.bar_width = max(10, min(40, self._console.width - 66))  # the other columns and the longest number take 66
        return [description, bar, batches, time]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}
        return dict(in_words(metrics))


class EpochLines(ProgressBar):
    """For logs: one line an epoch, since a redrawn bar would fill them."""

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


def progress_bar() -> ProgressBar:
    """Return a bar for a terminal, else lines.

    Both outputs must be terminals: rich prints everything above the bar, also what was meant for a file.
    """
    terminal = sys.stdout.isatty() and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return LiveBar() if terminal else EpochLines()


def in_words(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return metrics as they are printed: each once, accuracies in percent with their interval.

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
    """Silence messages of Lightning that do not concern the user."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        # our config.yaml is there first; run folders are never used twice
        r"Experiment logs directory .* exists and is not empty",
        # as intended: the run goes on in its own folder
        r"Checkpoint directory .* exists and is not empty",
        # a test needs no ModelCheckpoint
        r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint need to be provided",
        # Lightning's own tree code against torch >= 2.10
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    ):
        warnings.filterwarnings("ignore", message)
