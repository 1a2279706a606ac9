"""Images of the meta-train classes, for pretraining generative models."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from genmeta.data.source import DataSource
from genmeta.data.splits import Split, load_split
from genmeta.data.table import ImageTable
from genmeta.errors import UserError
from genmeta.evaluation.features import FeatureNetwork, feature_network
from genmeta.modules.step_loader import FixedLoader, StepDataModule, StepLoader
from genmeta.rng import make_rng


@dataclass(frozen=True)
class ImagePlan:
    """A batch before it is rendered: rows of the table, those of partners, quarter turns, the key of its noise."""

    rows: Tensor
    partners: Tensor
    turns: Tensor
    noise_key: str


@dataclass(frozen=True)
class ImageBatch:
    """A batch of images, on their device.

    Attributes:
        images: float32 `[n, C, H, W]` in [0, 1].
        partners: for each image another one of its class, the same shape.
        labels: number of the class among the meta-train classes, int64 `[n]`.
        rng: the generator for every draw of this step.
    """

    images: Tensor
    partners: Tensor
    labels: Tensor
    rng: torch.Generator

    def split(self, parts: int) -> list["ImageBatch"]:
        """Return the batch in so many parts of nearly equal size (fewer if there are fewer images)."""
        if parts == 1:
            return [self]
        pieces = zip(self.images.chunk(parts), self.partners.chunk(parts), self.labels.chunk(parts), strict=True)
        return [ImageBatch(x, partners, labels, self.rng) for x, partners, labels in pieces]


class ImageDataModule(StepDataModule):
    """Batches of images of the meta-train classes only; the last images of each class are held out for validation.

    The batch of step t is a pure function of (seed, t). One pass over the images is a permutation of them.

    Args:
        source: where the images come from.
        split: name of a committed split, or path of a JSON file.
        batch_size: images per step, over all processes.
        steps_per_epoch: steps between two validations.
        held_out: share of each class's images (the last ones) that is held out, in (0, 1).
        rotations: turn each image of a step, and its partner with it, by 0, 90, 180 or 270 degrees, as if there were
            four times the classes.
        feature_steps: training steps of the network that generated images are measured with.
        seed: of the order of images and all noise.
    """

    def __init__(
        self,
        source: DataSource,
        split: str,
        batch_size: int = 64,
        steps_per_epoch: int = 100,
        held_out: float = 0.2,
        rotations: bool = False,
        feature_steps: int = 600,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 2 or steps_per_epoch < 1 or not 0 < held_out < 1:
            raise UserError(
                f"data: batch_size must be >= 2, steps_per_epoch >= 1, 0 < held_out < 1; found {batch_size}, "
                f"{steps_per_epoch}, {held_out}"
            )
        if feature_steps < 1:
            raise UserError(f"data.feature_steps must be at least 1, found {feature_steps}")
        self.source, self.split_name, self.seed = source, split, seed
        self.batch_size, self.steps_per_epoch, self.held_out = batch_size, steps_per_epoch, held_out
        self.rotations, self.feature_steps = rotations, feature_steps
        self.table: ImageTable | None = None
        self._orders: dict[int, Tensor] = {}

    def setup(self, stage: str) -> None:
        """Load the table and the split, once.

        Raises:
            UserError: data or split are missing or do not fit.
        """
        if self.table is not None:
            return
        self.split: Split = load_split(self.split_name)
        table = self.source.load()
        class_ids = self.split.class_ids(table, "train")
        self.n_classes = len(class_ids)
        self.starts, counts = table.starts[class_ids], table.counts[class_ids]
        n_held_out = (counts * self.held_out).round().long().clamp(min=1)
        self.counts = counts - n_held_out  # of the images to train on
        self.train_rows = _ranges(self.starts, self.counts)
        self.held_out_rows = _ranges(self.starts + self.counts, n_held_out)
        self.unseen_rows = _ranges(*(t[self.split.class_ids(table, "val")] for t in (table.starts, table.counts)))
        if len(self.train_rows) < self.batch_size:
            raise UserError(
                f"data.batch_size is {self.batch_size}, but the meta-train classes have {len(self.train_rows)} images"
            )
        if self.rotations and table.image_shape[1] != table.image_shape[2]:
            raise UserError(f"data.rotations needs square images, found {list(table.image_shape)}")
        self.labels = torch.zeros(len(table.images), dtype=torch.long)
        self.labels[self.train_rows] = torch.arange(self.n_classes).repeat_interleave(self.counts)
        self.labels[self.held_out_rows] = torch.arange(self.n_classes).repeat_interleave(n_held_out)
        self.images = table.images
        self.table = table

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of the images (after `setup`)."""
        assert self.table is not None
        return self.table.image_shape

    @cached_property
    def features(self) -> FeatureNetwork:
        """The network that generated images are measured with; it has not seen the held-out images."""
        assert self.table is not None
        key = f"{self.table.name}/{self.split.hash}/{self.held_out}"
        return feature_network(self.table, self.starts, self.counts, key, self.feature_steps)

    def plan(self, step: int) -> ImagePlan:
        """Return this process's part of the batch of a step."""
        n = len(self.train_rows)
        first = step * self.batch_size
        order = torch.cat([self._order(epoch) for epoch in range(first // n, (first + self.batch_size - 1) // n + 1)])
        rows = self.train_rows[order[first % n :][: self.batch_size]]
        rng = make_rng(self.seed, "partners", step)
        partners = self._partners(rows, rng)
        turns = torch.randint(4, (len(rows),), generator=rng) if self.rotations else torch.zeros_like(rows)
        rank, world = self._rank_and_world()
        mine = slice(rank, None, world)
        return ImagePlan(rows[mine], partners[mine], turns[mine], f"{self.seed}/noise/{step}/{rank}")

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:  # one permutation an epoch, not one a step
            rng = make_rng(self.seed, "images", epoch)
            self._orders = {k: v for k, v in self._orders.items() if k == epoch - 1}
            self._orders[epoch] = torch.randperm(len(self.train_rows), generator=rng)
        return self._orders[epoch]

    def train_dataloader(self) -> StepLoader:
        return self.step_loader(self.plan, self.steps_per_epoch)

    def val_dataloader(self) -> FixedLoader:
        """The held-out images, all of them in every process: their metrics are of the whole, not means over parts."""
        blocks = self.held_out_rows.split(256)
        rng = make_rng(0, "held out partners")
        return FixedLoader(
            [
                ImagePlan(rows, self._partners(rows, rng), torch.zeros_like(rows), f"0/held out/{i}")
                for i, rows in enumerate(blocks)
            ]
        )

    def transfer_batch_to_device(self, batch: ImagePlan, device: torch.device, dataloader_idx: int) -> ImageBatch:
        """Render: gathers from the table, which stays on the device."""
        if self.images.device != device:
            self.images = self.images.to(device)
        images, partners = (self.rendered(rows, batch.turns) for rows in (batch.rows, batch.partners))
        return ImageBatch(
            images, partners, self.labels[batch.rows].to(device), make_rng(batch.noise_key, device=device)
        )

    def rendered(self, rows: Tensor, turns: Tensor | None = None) -> Tensor:
        """Return images of table rows, turned by quarters, float32 `[n, C, H, W]` in [0, 1], on their device."""
        images = self.images.index_select(0, rows.to(self.images.device)).float() / 255
        if turns is not None and self.rotations:
            for quarter in (1, 2, 3):
                chosen = (turns == quarter).nonzero().flatten().to(images.device)
                images[chosen] = torch.rot90(images[chosen], quarter, (-2, -1))
        return images

    def _partners(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """Return for each row another training row of its class (itself if there is no other)."""
        labels = self.labels[rows]
        counts, place = self.counts[labels], rows - self.starts[labels]
        among = torch.where(place < counts, (counts - 1).clamp(min=1), counts)  # a held-out row is not among them
        offset = (torch.rand(len(rows), generator=rng) * among).long() + 1
        return self.starts[labels] + (place + offset) % counts

    def _rank_and_world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def _ranges(starts: Tensor, counts: Tensor) -> Tensor:
    """Return `starts[i], …, starts[i] + counts[i] - 1` for all i, one after the other."""
    first = counts.cumsum(0) - counts
    return torch.arange(int(counts.sum())) + (starts - first).repeat_interleave(counts)
