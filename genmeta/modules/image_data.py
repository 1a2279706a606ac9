"""Images of the meta-train classes, for pretraining generative models."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from genmeta.data.low_data import LowData
from genmeta.data.source import DataSource
from genmeta.data.splits import DrawnSplit, Split, find_split, read_split
from genmeta.data.table import ImageTable, gather
from genmeta.errors import UserError
from genmeta.modules.step_loader import FixedLoader, StepLoader
from genmeta.rng import make_rng


@dataclass(frozen=True)
class ImagePlan:
    """A batch before it is rendered: table rows, and what the noise of this step follows from."""

    rows: Tensor
    noise_key: str


@dataclass(frozen=True)
class ImageBatch:
    """Float32 images `[n, C, H, W]` in [0, 1], and the generator for every draw of this step, on their device."""

    images: Tensor
    rng: torch.Generator


class ImageDataModule(LightningDataModule):
    """Batches of images of the meta-train classes only; the last images of each class are held out for validation.

    The batch of step t is a pure function of (seed, t). One pass over the images is a permutation of them.

    Args:
        source: where the images come from.
        split: name of a committed split, path of a JSON file, `{seed: 0}` for one that is drawn, or `own` for the one
            that the data set brings with it.
        batch_size: images per step, over all processes.
        steps_per_epoch: steps between two validations.
        held_out: share of each class's images (the last ones) that is held out, in (0, 1); at least one, but a class
            with a single image keeps it for training.
        seed: of the order of images and all noise.
        low_data: what is kept of the train part; all of it by default.
    """

    def __init__(
        self,
        source: DataSource,
        split: str | DrawnSplit,
        batch_size: int = 64,
        steps_per_epoch: int = 100,
        held_out: float = 0.1,
        seed: int = 0,
        low_data: LowData | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 2 or steps_per_epoch < 1 or not 0 < held_out < 1:
            raise UserError(
                f"data: batch_size must be >= 2, steps_per_epoch >= 1, 0 < held_out < 1; found {batch_size}, "
                f"{steps_per_epoch}, {held_out}"
            )
        self.source, self.split_name, self.seed = source, split, seed
        self.low_data = low_data or LowData()
        self.batch_size, self.steps_per_epoch, self.held_out = batch_size, steps_per_epoch, held_out
        self.table: ImageTable | None = None

    def setup(self, stage: str) -> None:
        """Load the table and the split, once.

        Raises:
            UserError: data or split are missing or do not fit.
        """
        if self.table is not None:
            return
        # a wrong name is told before the table is made, which may take long
        wanted = read_split(self.split_name)
        table = self.source.load()
        self.split: Split = self.low_data.keep_classes(find_split(wanted, table), table)
        kept = self.low_data.keep_images(table, self.split.class_ids(table, "train"))
        self.facts: dict[str, Any] = {"low_data": self.low_data.facts(self.split, kept)} if self.low_data else {}
        train_rows, held_out_rows = [], []
        for rows in kept:
            n_train = len(rows) - min(max(1, round(len(rows) * self.held_out)), len(rows) - 1)
            train_rows.append(rows[:n_train])
            held_out_rows.append(rows[n_train:])
        self.train_rows, self.held_out_rows = torch.cat(train_rows), torch.cat(held_out_rows)
        if len(self.held_out_rows) == 0:
            raise UserError(
                "every meta-train class has a single image, so none can be held out to validate a generative model; it "
                "needs a class with two or more"
            )
        if len(self.train_rows) < self.batch_size:
            raise UserError(
                f"data.batch_size is {self.batch_size}, but the meta-train classes have {len(self.train_rows)} images"
            )
        self.images = table.images
        self.table = table

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of the images (after `setup`)."""
        assert self.table is not None
        return self.table.image_shape

    def plan(self, step: int) -> ImagePlan:
        """Return this process's part of the batch of a step."""
        n = len(self.train_rows)
        first = step * self.batch_size
        order = torch.cat(
            [
                torch.randperm(n, generator=make_rng(self.seed, "images", epoch))
                for epoch in range(first // n, (first + self.batch_size - 1) // n + 1)
            ]
        )
        chosen = order[first % n :][: self.batch_size]
        rank, world = self._rank_and_world()
        return ImagePlan(self.train_rows[chosen[rank::world]], f"{self.seed}/noise/{step}/{rank}")

    def train_dataloader(self) -> StepLoader:
        return StepLoader(self.plan, self.steps_per_epoch)

    def val_dataloader(self) -> FixedLoader:
        rank, world = self._rank_and_world()
        blocks = self.held_out_rows[rank::world].split(256)
        return FixedLoader([ImagePlan(rows, f"0/held out/{i}/{rank}") for i, rows in enumerate(blocks)])

    def transfer_batch_to_device(self, batch: ImagePlan, device: torch.device, dataloader_idx: int) -> ImageBatch:
        """Render: one gather from the table, which stays on the device unless it is large."""
        assert self.table is not None
        if self.images.device != device and self.table.resident:
            self.images = self.images.to(device)
        images = gather(self.images, batch.rows.to(device)).float() / 255
        return ImageBatch(images, make_rng(batch.noise_key, device=device))

    def _rank_and_world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
