"""What the data modules of generators and of learners share: one table of images and its split, read once."""

from typing import Any

import torch
from torch import Tensor

from genmeta.data.low_data import LowData
from genmeta.data.source import DataSource, outline_and_table
from genmeta.data.splits import DrawnSplit, Split, Wanted, read_split
from genmeta.data.table import ImageTable
from genmeta.modules.step_loader import StepDataModule


class TableDataModule(StepDataModule):
    """Has the image table of a source, and its split.

    Args:
        source: where the images come from.
        split: what its class says.
        seed: of all that is drawn in training.
        low_data: what is kept of the train part; None: all of it.

    Attributes:
        table: None before it is read.
        whole_split: of the table, all classes in it.
        split: with the train classes that are kept.
        class_rows: table rows that are kept of each train class, int64 `[n]` each.
        keeps_all: whether they are all that the split has.
        images: of the table, where they were needed last; uint8 `[N, C, H, W]`.
        facts: what goes into `run.json`.
    """

    whole_split: Split
    split: Split
    class_rows: list[Tensor]
    keeps_all: bool
    images: Tensor
    facts: dict[str, Any]

    def __init__(self, source: DataSource, split: str | DrawnSplit, seed: int, low_data: LowData | None) -> None:
        super().__init__()
        self.source, self.split_name, self.seed = source, split, seed
        self.low_data = low_data or LowData()
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
        for table, split in outline_and_table(self.source, wanted):
            self.arrange(table, split, stage)
        self.table = table

    def check_wanted(self, wanted: Wanted, stage: str) -> None:
        """Check what can be checked without the table; nothing unless overridden."""

    def arrange(self, table: ImageTable, split: Split, stage: str) -> None:
        """Set all that follows from names and counts: of an outline, if the source has one, and of the table."""
        self.whole_split = split
        low_data = LowData() if split.test_only else self.low_data  # which is of the train part
        self.split = low_data.keep_classes(split, table)
        self.class_rows = low_data.keep_images(table, self.split.class_ids(table, "train"))
        self.keeps_all = not low_data
        self.images = table.images
        self.facts = {"pictures": table.account.facts()} if table.account else {}
        if low_data:
            self.facts["low_data"] = low_data.facts(self.split, self.class_rows)

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
