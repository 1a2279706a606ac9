"""Meta-training and meta-testing of a learner."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from genmeta.episode import EpisodeBatch
from genmeta.errors import UserError
from genmeta.evaluation.accuracy import EpisodeAccuracy, mean_and_ci95
from genmeta.learners.learner import Learner
from genmeta.models.checkpoint import KEY
from genmeta.modules.episodic_data import EpisodicDataModule


class MetaModule(LightningModule):
    """Minimises the cross-entropy of the query images; evaluates on fixed episodes.

    Args:
        learner: episodes to query logits.
        optimizer: makes the outer loop's optimiser of the learner's parameters.
        lr_scheduler: makes a scheduler, stepped once an epoch.
    """

    monitor, monitor_mode = "val/acc", "max"

    def __init__(
        self,
        learner: Learner,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.learner, self.optimizer, self.lr_scheduler = learner, optimizer, lr_scheduler
        self.train_sources = nn.ModuleDict({"real": MeanMetric(), "latent": MeanMetric()})
        self.val_accuracy = EpisodeAccuracy()
        self.test_accuracies = nn.ModuleList()
        self.episode_accuracies: dict[str, list[float]] = {}

    def check(self, data: EpisodicDataModule, stage: str) -> None:
        """Raise UserError if the learner cannot work with the episodes of a stage."""
        for shape in data.shapes(stage):
            self.learner.check(shape, data.image_shape)
        if stage == "fit" and not any(p.requires_grad for p in self.learner.parameters()):
            raise UserError(f"{type(self.learner).__name__} has nothing to train; use it with genmeta test")

    def setup(self, stage: str) -> None:
        data = self._data
        self.test_accuracies = nn.ModuleList(EpisodeAccuracy() for _ in data.test)
        self._sources = [
            name
            for name, there in (("real", data.train_tasks.latent_share < 1), ("latent", data.train_tasks.uses_latents))
            if there
        ]

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.learner.parameters())
        return optimizer if self.lr_scheduler is None else ([optimizer], [self.lr_scheduler(optimizer)])

    def training_step(self, batch: EpisodeBatch, batch_idx: int) -> Tensor:
        logits = self.learner(batch)
        loss = cross_entropy(logits, batch.query_y)
        right = (logits.argmax(2) == batch.query_y).float()
        n = len(logits)
        self.log("train/loss", loss, prog_bar=True, batch_size=n)
        self.log("train/acc", right.mean(), prog_bar=True, batch_size=n)
        self.log("train/latent_share", batch.is_latent.float().mean(), batch_size=n)
        for name in self._sources:  # the same on all processes: none may skip a collective
            of_source = batch.query_is_latent == (name == "latent")
            self.train_sources[name].update(right, of_source.float())
            self.log(f"train/acc_{name}", self.train_sources[name], on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        logits = self.learner(batch)
        self.val_accuracy.update(logits, batch.query_y)
        self.log("val/loss", cross_entropy(logits, batch.query_y), sync_dist=True, batch_size=len(logits))

    def on_validation_epoch_end(self) -> None:
        mean, half = mean_and_ci95(self.val_accuracy.compute())
        self.val_accuracy.reset()
        self.log("val/acc", mean, prog_bar=True)
        self.log("val/acc_ci95", half)

    def test_step(self, batch: EpisodeBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.test_accuracies[dataloader_idx].update(self.learner(batch), batch.query_y)

    def on_test_epoch_end(self) -> None:
        for episodes, metric in zip(self._data.test, self.test_accuracies, strict=True):
            accuracies = metric.compute()
            metric.reset()
            name = str(episodes.shape)
            self.episode_accuracies[name] = accuracies.tolist()
            mean, half = mean_and_ci95(accuracies)
            self.log(f"test/acc_{name}", mean)
            self.log(f"test/acc_{name}_ci95", half)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        split = self._data.split
        checkpoint[KEY] = {"split_name": split.name, "split_hash": split.hash}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of a run on another split: its training classes might be this run's test classes."""
        split, trained_on = self._data.split, checkpoint.get(KEY, {})
        if trained_on.get("split_hash") != split.hash:
            raise UserError(
                f"the checkpoint was trained on split '{trained_on.get('split_name')}' ({trained_on.get('split_hash')}), "
                f"but this run uses split '{split.name}' ({split.hash})"
            )

    @property
    def _data(self) -> EpisodicDataModule:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, EpisodicDataModule):
            raise UserError(f"MetaModule needs an EpisodicDataModule as data, found {type(data).__name__}")
        return data


def cross_entropy(logits: Tensor, query_y: Tensor) -> Tensor:
    """Mean cross-entropy over all queries of logits `[task, query, way]` and labels `[task, query]`."""
    return F.cross_entropy(logits.flatten(0, 1), query_y.flatten())
