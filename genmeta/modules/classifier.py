"""Training of a classifier of all training classes at once, for learners that see episodes at the test only."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from genmeta.data.table import gather
from genmeta.episode import EpisodeBatch, EpisodePlan
from genmeta.errors import UserError
from genmeta.learners.pretrained import PretrainedLearner
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.generative_module import evenly
from genmeta.modules.meta_module import MetaModule

N_BASE_IMAGES = 10_000  # at most, for the mean of the training images


@dataclass(frozen=True)
class ClassBatch(EpisodeBatch):
    """Episodes that know which classes they are made of.

    Attributes:
        classes: int64 `[task, way]`, by label: the number of the class among the training classes, of which a turned
            one is another; without meaning in episodes of other classes.
    """

    classes: Tensor | None = None

    def images(self) -> tuple[Tensor, Tensor]:
        """Return all images `[n, C, H, W]` and their classes `[n]`."""
        assert self.classes is not None
        x = torch.cat([self.support_x, self.query_x], 1)
        labels = torch.cat([self.support_y, self.query_y], 1)
        return x.flatten(0, 1), self.classes.gather(1, labels).flatten()


class ClassDataModule(EpisodicDataModule):
    """The episodes of `EpisodicDataModule`, which know their classes: a batch is the images of `train`, `n_way` classes
    and `n_shot + n_query` images of each. Validation and test are the same, so that rows of a table compare.
    """

    def setup(self, stage: str) -> None:
        super().setup(stage)
        assert self.table is not None
        if self.train_tasks.latent_range[1] > 0:
            raise UserError("data.train_tasks draws generated classes, which a classifier has no number for; use real")
        if self.labels != "all":
            raise UserError("data.labels: a classifier needs the classes of the data; leave the option out")
        train = self.split.class_ids(self.table, "train")
        self.n_upright = len(train)
        self.numbers = torch.zeros(len(self.table.class_names), dtype=torch.int64)
        self.numbers[train] = torch.arange(len(train))

    @property
    def n_classes(self) -> int:
        """Number of the training classes, turned and mirrored ones included (after `setup`)."""
        needs = self.train_tasks.needs  # mirrors alone have the turns 0 and 4
        return self.n_upright * (8 if "mirrors" in needs else 4 if "turns" in needs else 1)

    def on_after_batch_transfer(self, batch: EpisodePlan, dataloader_idx: int) -> ClassBatch:
        assert self.table is not None
        rendered = super().on_after_batch_transfer(batch, dataloader_idx)
        slots = self.numbers[self.table.class_ids[batch.rows[..., 0].cpu()]].to(batch.rows.device)
        slots = slots + batch.turns * self.n_upright
        return ClassBatch(**vars(rendered), classes=torch.zeros_like(slots).scatter(1, batch.labels, slots))

    def base_images(self, device: torch.device) -> list[Tensor]:
        """Return upright training images, evenly spaced, at most `N_BASE_IMAGES`, float32 in [0, 1], in chunks."""
        rows = evenly(self.pools["train"].all_rows, N_BASE_IMAGES)
        upright = self.images if self.images.dim() == 4 else self.images[0]
        return [gather(upright, chunk.to(upright.device)).to(device).float() / 255 for chunk in rows.split(256)]


class ClassifierModule(MetaModule):
    """Trains a learner's backbone and classifier by cross-entropy on all training classes, and evaluates the learner on
    episodes as `MetaModule` does.
    """

    def check(self, data: EpisodicDataModule, stage: str) -> None:
        if not isinstance(self.learner, PretrainedLearner):
            raise UserError(
                f"ClassifierModule trains a PretrainedLearner such as SimpleShot, found {type(self.learner).__name__}"
            )
        if not isinstance(data, ClassDataModule):
            raise UserError(
                f"data: ClassifierModule needs genmeta.modules.classifier.ClassDataModule, found {type(data).__name__}"
            )
        super().check(data, stage)
        if stage == "fit" and data.n_classes > self.learner.max_classes:
            raise UserError(
                f"model.learner has room for {self.learner.max_classes} classes, but the data have {data.n_classes}; "
                f"set model.learner.max_classes to at least that"
            )

    def logged(self, data: EpisodicDataModule) -> set[str]:
        return {"train/loss", "train/acc", "val/loss", "val/acc", "val/acc_ci95"}

    def training_step(self, batch: EpisodeBatch, batch_idx: int) -> Tensor:
        data, learner = self.data, self.learner
        assert isinstance(batch, ClassBatch)
        assert isinstance(data, ClassDataModule)
        assert isinstance(learner, PretrainedLearner)
        x, classes = batch.images()
        logits = learner.class_logits(x, data.n_classes)
        loss = F.cross_entropy(logits, classes)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(x))
        self.log("train/acc", (logits.argmax(1) == classes).float().mean(), prog_bar=True, batch_size=len(x))
        return loss

    def on_validation_epoch_start(self) -> None:
        if self.trainer.state.fn == "fit":  # otherwise the checkpoint knows
            data, learner = self.data, self.learner
            assert isinstance(data, ClassDataModule)
            assert isinstance(learner, PretrainedLearner)
            with torch.no_grad():
                features = [learner.backbone(x) for x in data.base_images(self.device)]
            learner.see_training_images(torch.cat(features))
