"""Accuracies of test episodes as panels: a histogram for each shape and a table of results."""

import math
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from genmeta.evaluation.accuracy import mean_and_ci95
from genmeta.modules.meta_module import MetaModule

BINS = 20
COLUMNS = ("episodes", "accuracy", "ci95", "n", "lowest", "median", "highest")


class EpisodePanels(Callback):
    """After a test, `episodes/acc_<shape>` (how the accuracies of episodes are distributed) and `tables/results`."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MetaModule)
        accuracies = {name: np.array(values) for name, values in pl_module.episode_accuracies.items()}
        if not trainer.is_global_zero or not accuracies:
            return
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                import wandb  # here: it is slow to import, and not needed when off

                panels: dict[str, Any] = {
                    f"episodes/acc_{name}": wandb.Histogram(np_histogram=np.histogram(values, BINS, (0, 1)))
                    for name, values in accuracies.items()
                }
                rows = [_row(*entry) for entry in accuracies.items()]
                panels["tables/results"] = wandb.Table(columns=list(COLUMNS), data=rows)
                logger.log_metrics(panels)
            if isinstance(logger, TensorBoardLogger):
                for name, values in accuracies.items():
                    logger.experiment.add_histogram(f"episodes/acc_{name}", values)


def _row(name: str, values: np.ndarray) -> list[str | float | int | None]:
    mean, half = mean_and_ci95(values.tolist())
    interval = half if math.isfinite(half) else None
    return [name, mean, interval, len(values), values.min().item(), float(np.median(values)), values.max().item()]
