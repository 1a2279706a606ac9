"""What the data modules of generators and of learners share: one table of images and its split, read once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genmeta.data.low_data import LowData
from genmeta.data.seen import Origin
from genmeta.data.source import DataSource, outline_and_table
from genmeta.data.splits import DrawnSplit, Split, Wanted, read_split
from genmeta.data.table import ImageTable
from genmeta.errors import UserError
from genmeta.modules.step_loader import StepDataModule
from genmeta.modules.train_classes import Labels, MinedLabels, train_classes


class TableDataModule(StepDataModule):
    """Has the image table of a source, and its split.

    Args:
        source: where the images come from.
        split: what its class says.
        seed: of all that is drawn in training.
        low_data: what is kept of the train part; None: all of it.
        labels: `all`; `none`: no class id of a training image is used, each is a class of its own; or how
            pseudo-classes are found.

    Attributes:
        table: None before it is read.
        whole_split: of the table, all classes in it.
        split: with the train classes that are kept.
        class_rows: table rows that are trained on of each class, int64 `[n]` each: of the train classes, or what stands
            in their place (`labels`).
        group_ids: int64, the group of each of these classes, numbers from 0 on.
        images: of the table, where they were needed last; uint8 `[N, C, H, W]`.
        facts: what goes into `run.json`.
    """

    whole_split: Split
    split: Split
    class_rows: Sequence[Tensor]
    group_ids: Tensor
    images: Tensor
    facts: dict[str, Any]

    def __init__(
        self, source: DataSource, split: str | DrawnSplit, seed: int, low_data: LowData | None, labels: Labels = "all"
    ) -> None:
        super().__init__()
        self.source, self.split_name, self.seed, self.labels = source, split, seed, labels
        self.low_data = low_data or LowData()
        if self.low_data and labels != "all":
            raise UserError(
                f"data.low_data keeps some of the classes or some images of each, which data.labels "
                f"{self.labels_told} does not know; leave one of the two out"
            )
        self.table: ImageTable | None = None

    def read(self, stage: str) -> None:
        """Read table and split, once; what follows from names and counts is checked before the long work.

        Raises:
            UserError: data or split are missing or do not fit.
        """
        if self.table is not None:
            return
        # a wrong name is told before the table is made, which may take long
        wanted = read_split(self.split_name)
        self.check_wanted(wanted, stage)
        if isinstance(self.labels, MinedLabels):
            self.labels.check()
        for table, split in outline_and_table(self.source, wanted, outline=not isinstance(self.labels, MinedLabels)):
            self.arrange(table, split, stage)
        self.table = table

    def check_wanted(self, wanted: Wanted, stage: str) -> None:
        """Check what can be checked without the table; nothing unless overridden."""

    def arrange(self, table: ImageTable, split: Split, stage: str) -> None:
        """Set all that follows from names and counts: of an outline, if the source has one, and of the table."""
        self.whole_split = split
        low_data = LowData() if split.test_only else self.low_data  # which is of the train part
        self.split = low_data.keep_classes(split, table)
        class_ids = self.split.class_ids(table, "train")
        class_rows, group_ids = low_data.keep_images(table, class_ids), table.group_ids(class_ids)
        if len(class_rows):
            if isinstance(self.labels, MinedLabels):
                self.labels.check_trained_on(Origin.of(split, table))
            classes = train_classes(self.labels, table, class_rows, group_ids)
            class_rows, group_ids = list(classes.rows), classes.group_ids
        self.class_rows, self.group_ids = class_rows, group_ids
        self.images = table.images
        self.facts = {"pictures": table.account.facts()} if table.account else {}
        if self.labels != "all":
            self.facts["labels"] = self.labels_told
        if low_data:
            self.facts["low_data"] = low_data.facts(self.split, self.class_rows)

    @property
    def labels_told(self) -> str:
        """`labels` in one word: `all`, `none` or `mined`."""
        return self.labels if isinstance(self.labels, str) else "mined"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of the images (after `setup`)."""
        assert self.table is not None
        return self.table.image_shape

    @property
    def account(self) -> str:
        """One line of what was used of the files that the table was read from; "" before `setup`, or if it was read
        from none.
        """
        return str(self.table.account) if self.table is not None and self.table.account else ""

    def images_on(self, device: torch.device) -> Tensor:
        """Return the images, moved to a device, where they stay, unless they are too large for that."""
        assert self.table is not None
        if self.images.device != device and self.table.resident:
            self.images = self.images.to(device)
        return self.images

    @property
    def rank_and_world(self) -> tuple[int, int]:
        """Number of this process, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
