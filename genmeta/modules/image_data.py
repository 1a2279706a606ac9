"""Images of the meta-train classes, for pretraining generative models."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from genmeta.data.low_data import LowData
from genmeta.data.source import DataSource
from genmeta.data.splits import DrawnSplit, Split
from genmeta.data.table import ImageTable, gather
from genmeta.errors import UserError
from genmeta.evaluation.features import FeatureNetwork, feature_network
from genmeta.modules.step_loader import FixedLoader, StepLoader
from genmeta.modules.table_data import TableDataModule
from genmeta.modules.train_classes import Labels
from genmeta.rng import Rng, SharedRng, make_rng
from genmeta.tasks.sampler import TaskPool


@dataclass(frozen=True)
class ImagePlan:
    """A batch before it is rendered.

    Attributes:
        rows, partners: of the table, int64 `[n]`; a partner is another image of the same class.
        labels: number of the class among the meta-train classes, int64 `[n]`.
        turns: quarter turns of both, int64 `[n]`.
        noise_key: what the noise of this step follows from, the same on all processes.
        rank, world: of the batch's images this plan has every `world`-th, from `rank` on.
    """

    rows: Tensor
    partners: Tensor
    labels: Tensor
    turns: Tensor
    noise_key: str
    rank: int = 0
    world: int = 1


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
    rng: Rng

    def split(self, parts: int) -> list["ImageBatch"]:
        """Return the batch in so many parts of nearly equal size (fewer if there are fewer images)."""
        if parts == 1:
            return [self]
        pieces = zip(self.images.chunk(parts), self.partners.chunk(parts), self.labels.chunk(parts), strict=True)
        return [ImageBatch(x, partners, labels, self.rng) for x, partners, labels in pieces]


class ImageDataModule(TableDataModule):
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
        rotations: turn each image of a step, and its partner with it, by 0, 90, 180 or 270 degrees, as if there were
            four times the classes.
        feature_steps: training steps of the network that generated images are measured with.
        seed: of the order of images and all noise.
        low_data: what is kept of the train part; all of it by default.
        labels: `all`: classes are those of the data. `none`: no class id of a training image is used; each is a class
            of its own, and the last of all images, in the order of hashes of their pixels, are held out. Or how
            pseudo-classes are found (`MinedLabels`).
    """

    def __init__(
        self,
        source: DataSource,
        split: str | DrawnSplit,
        batch_size: int = 64,
        steps_per_epoch: int = 100,
        held_out: float = 0.2,
        rotations: bool = False,
        feature_steps: int = 600,
        seed: int = 0,
        low_data: LowData | None = None,
        labels: Labels = "all",
    ) -> None:
        super().__init__(source, split, seed, low_data, labels)
        if batch_size < 2 or steps_per_epoch < 1 or not 0 < held_out < 1:
            raise UserError(
                f"data: batch_size must be >= 2, steps_per_epoch >= 1, 0 < held_out < 1; found {batch_size}, "
                f"{steps_per_epoch}, {held_out}"
            )
        if feature_steps < 1:
            raise UserError(f"data.feature_steps must be at least 1, found {feature_steps}")
        self.batch_size, self.steps_per_epoch, self.held_out = batch_size, steps_per_epoch, held_out
        self.rotations, self.feature_steps = rotations, feature_steps
        self._orders: dict[int, Tensor] = {}
        self._device = torch.device("cpu")

    @property
    def images_per_step(self) -> int:
        """Images of an optimiser step, over all processes."""
        return self.batch_size

    def setup(self, stage: str) -> None:
        """Load the table and the split, once.

        Raises:
            UserError: data or split are missing or do not fit.
        """
        self.read(stage)

    def arrange(self, table: ImageTable, split: Split, stage: str) -> None:
        split.check_has("train", "val")
        super().arrange(table, split, stage)
        if self.labels == "none":  # each image is a class
            n = len(self.class_rows) - max(1, round(len(self.class_rows) * self.held_out))
            self.train_of_class, held_out = list(self.class_rows[:n]), list(self.class_rows[n:])
        else:
            parts = [self._parted(rows) for rows in self.class_rows]
            self.train_of_class, held_out = [train for train, _ in parts], [last for _, last in parts]
        self.train_rows, self.held_out_rows = torch.cat(self.train_of_class), torch.cat(held_out)
        self.unseen_rows = torch.cat(
            [_rows_of_class(table, class_id) for class_id in self.split.class_ids(table, "val").tolist()]
        )
        if len(self.held_out_rows) == 0:
            raise UserError(
                "every meta-train class has a single image, so none can be held out to validate a generative model; it "
                "needs a class with two or more"
            )
        if len(self.train_rows) < self.batch_size:
            raise UserError(
                f"data.batch_size is {self.batch_size}, but the meta-train classes have {len(self.train_rows)} images"
            )
        if self.rotations and table.image_shape[1] != table.image_shape[2]:
            raise UserError(f"data.rotations needs square images, found {list(table.image_shape)}")
        numbers = torch.arange(len(self.train_of_class))
        self.counts = torch.tensor([len(rows) for rows in self.train_of_class])
        self.firsts = self.counts.cumsum(0) - self.counts  # places in train_rows
        self.train_labels = numbers.repeat_interleave(self.counts)
        # without labels an image that is held out is of no class that is trained on: 0 stands for none
        self.held_out_labels = (
            torch.zeros_like(self.held_out_rows)
            if self.labels == "none"
            else numbers.repeat_interleave(torch.tensor([len(rows) for rows in held_out]))
        )

    def _parted(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of a class that are trained on, and those that are held out."""
        n = len(rows) - min(max(1, round(len(rows) * self.held_out)), len(rows) - 1)
        return rows[:n], rows[n:]

    @property
    def n_classes(self) -> int:
        """Number of the meta-train classes (after `setup`)."""
        return len(self.train_of_class)

    @cached_property
    def features(self) -> FeatureNetwork:
        """The network that generated images are measured with; it has not seen the held-out images."""
        assert self.table is not None
        key = f"{self.table.name}/{self.split.hash}/{self.held_out}"
        pool = TaskPool.of_rows(self.train_of_class, self.group_ids[: len(self.train_of_class)])
        made = feature_network(self.table.images, pool, key, self.feature_steps, single_images=self.labels == "none")
        return replace(made, learner="ProtoNet on pseudo-classes") if self.labels_told == "mined" else made

    def plan(self, step: int) -> ImagePlan:
        """Return this process's part of the batch of a step."""
        n = len(self.train_rows)
        first = step * self.batch_size
        order = torch.cat([self._order(epoch) for epoch in range(first // n, (first + self.batch_size - 1) // n + 1)])
        places = order[first % n :][: self.batch_size]
        labels = self.train_labels[places]
        rng = make_rng(self.seed, "partners", step)
        # another image of the class: as many places on, round and round, as a number below the class's count
        others = (self.counts[labels] - 1).clamp(min=1)
        on = (torch.rand(len(places), generator=rng) * others).long() + 1
        partners = self.firsts[labels] + (places - self.firsts[labels] + on) % self.counts[labels]
        turns = torch.randint(4, (len(places),), generator=rng) if self.rotations else torch.zeros_like(places)
        rank, world = self.rank_and_world
        mine = slice(rank, None, world)
        rows, partners = self.train_rows[places], self.train_rows[partners]
        key = f"{self.seed}/noise/{step}/0"
        return ImagePlan(rows[mine], partners[mine], labels[mine], turns[mine], key, rank, world)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:  # one permutation an epoch, not one a step
            rng = make_rng(self.seed, "images", epoch)
            self._orders = {k: v for k, v in self._orders.items() if k == epoch - 1}
            self._orders[epoch] = torch.randperm(len(self.train_rows), generator=rng)
        return self._orders[epoch]

    def train_dataloader(self) -> StepLoader:
        _, world = self.rank_and_world
        if self.batch_size % world:  # gradients of parts of different size would be averaged as if they were equal
            raise UserError(f"data.batch_size is {self.batch_size}, which {world} processes cannot share evenly")
        return self.step_loader(self.plan, self.steps_per_epoch)

    def val_dataloader(self) -> FixedLoader:
        """The held-out images, all of them in every process: their metrics are of the whole, not means over parts."""
        plans: list[ImagePlan] = []
        rng = make_rng(0, "held out partners")
        for rows, labels in zip(self.held_out_rows.split(256), self.held_out_labels.split(256), strict=True):
            among = (torch.rand(len(rows), generator=rng) * self.counts[labels]).long()
            partners = self.train_rows[self.firsts[labels] + among]
            plans.append(ImagePlan(rows, partners, labels, torch.zeros_like(rows), f"0/held out/{len(plans)}"))
        return FixedLoader(plans)

    def transfer_batch_to_device(self, batch: ImagePlan, device: torch.device, dataloader_idx: int) -> ImageBatch:
        """Render: gathers from the table, which stays on the device unless it is large."""
        self._device = device
        self.images_on(device)
        images, partners = (self.rendered(rows, batch.turns) for rows in (batch.rows, batch.partners))
        rng = SharedRng(make_rng(batch.noise_key, device=device), batch.rank, batch.world)
        return ImageBatch(images, partners, batch.labels.to(device), rng)

    def rendered(self, rows: Tensor, turns: Tensor | None = None) -> Tensor:
        """Return images of table rows, turned by quarters, float32 `[n, C, H, W]` in [0, 1], on the training device."""
        images = gather(self.images, rows.to(self._device)).float() / 255
        if turns is not None and self.rotations:
            for quarter in (1, 2, 3):
                chosen = (turns == quarter).nonzero().flatten().to(images.device)
                images[chosen] = torch.rot90(images[chosen], quarter, (-2, -1))
        return images


def _rows_of_class(table: ImageTable, class_id: int) -> Tensor:
    return torch.arange(int(table.counts[class_id])) + int(table.starts[class_id])
