"""Episodes for meta-training, validation and test: planned on the CPU, rendered on the device."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from genmeta.data.low_data import LowData
from genmeta.data.seen import Seen
from genmeta.data.source import DataSource
from genmeta.data.splits import AllTest, DrawnSplit, Part, Split, Wanted
from genmeta.data.table import ImageTable
from genmeta.data.unlabelled import rows_by_pixels
from genmeta.episode import EpisodeBatch, EpisodePlan, EpisodeShape, plan_hash
from genmeta.errors import UserError, tell
from genmeta.models.checkpoint import LatentModel
from genmeta.models.strokes import draw_strokes
from genmeta.modules.frozen import load_decoder, load_redrawer, with_codes, with_strokes
from genmeta.modules.step_loader import FixedLoader, StepLoader
from genmeta.modules.table_data import TableDataModule
from genmeta.modules.train_classes import Labels
from genmeta.rng import make_rng
from genmeta.tasks.bank import Bank, BankedTasks
from genmeta.tasks.evaluated import Episodes
from genmeta.tasks.mixed import MixedTasks
from genmeta.tasks.real import RealTasks
from genmeta.tasks.render import render, table_of_turns
from genmeta.tasks.sampler import Need, TaskPool, TaskSampler
from genmeta.tasks.share import Adaptive

TURNED_TABLE_BYTES = 2**30  # a table of all turns may take this much; larger images are turned as they come


class EpisodicDataModule(TableDataModule):
    """Meta-batches of the train classes, and fixed real episodes of the val and test classes.

    The meta-batch of optimiser step t is a pure function of (seed, "train", t); each process takes a contiguous slice
    of it.

    Args:
        source: where the images come from.
        split: name of a committed split, path of a JSON file, `{seed: 0}` for one that is drawn, `own` for the one that
            the data set brings with it, or `all_test`: all classes are test classes, for a learner that was trained on
            others.
        train_tasks: draws the training tasks.
        train: size of a training episode.
        tasks_per_step: tasks in a meta-batch, over all processes.
        steps_per_epoch: optimiser steps between two validations.
        val: validation episodes.
        test: test episodes, one entry a shape.
        test_part: the part of the split that is tested on: `test`, or `val` while choosing settings.
        train_part: the part that is trained on: `train`, or `val` to fit few numbers, such as the weights of
            `genmeta.learners.fused.Fused`, on classes that their learners were not trained on.
        generator: checkpoint of a GAN or VAE; needed if `train_tasks` draws images from codes.
        redrawer: checkpoint of a VAE that draws given images again; needed if `train_tasks`, `val` or `test`
            draw images again.
        tasks_per_eval_batch: tasks evaluated together (speed and memory only).
        n_workers: processes that draw plans; 0 is fastest unless tasks are huge.
        low_data: what is kept of the train part; all of it by default.
        seed: of the training tasks.
        labels: `all`: training classes are those of the data. `none`: no class id of a training image is used; each is
            a class of its own, in the order of hashes of their pixels, with `train_part: val` those of the validation
            classes too. Or how pseudo-classes are found (`MinedLabels`). Validation and test use the classes of the
            data.
    """

    def __init__(
        self,
        source: DataSource,
        split: str | DrawnSplit,
        train_tasks: TaskSampler,
        train: EpisodeShape,
        val: Episodes,
        test: Sequence[Episodes],
        tasks_per_step: int = 4,
        steps_per_epoch: int = 100,
        test_part: Part = "test",
        generator: str | None = None,
        redrawer: str | None = None,
        tasks_per_eval_batch: int = 10,
        n_workers: int = 0,
        seed: int = 0,
        low_data: LowData | None = None,
        train_part: Literal["train", "val"] = "train",
        labels: Labels = "all",
    ) -> None:
        super().__init__(source, split, seed, low_data, labels)
        sizes = {
            "tasks_per_step": tasks_per_step,
            "steps_per_epoch": steps_per_epoch,
            "tasks_per_eval_batch": tasks_per_eval_batch,
            "val.n_episodes": val.n_episodes,
            **{f"test.{i}.n_episodes": episodes.n_episodes for i, episodes in enumerate(test)},
        }
        for name, value in sizes.items():
            if value < 1:
                raise UserError(f"data.{name} must be at least 1, found {value}")
        if train_part == "val" and labels not in ("all", "none"):
            raise UserError(
                "data.train_part is 'val', but data.labels finds pseudo-classes of the train part; set data.labels to "
                "none, and no class of a validation image that is trained on is used either"
            )
        names = [episodes.name for episodes in test]
        if len(set(names)) < len(names):
            raise UserError(f"data.test: entries must differ in shape, groups or support, found {', '.join(names)}")
        self.generator_path, self.redrawer_path = generator, redrawer
        self.train_tasks, self.train_shape, self.val, self.test = train_tasks, train, val, tuple(test)
        self.tasks_per_step, self.steps_per_epoch = tasks_per_step, steps_per_epoch
        self.test_part, self.tasks_per_eval_batch = test_part, tasks_per_eval_batch
        self.n_workers, self.train_part = n_workers, train_part
        self.generator: LatentModel | None = None
        self.redrawer: LatentModel | None = None
        self._prepared = False  # the training tasks
        self._bank: Bank | None = None

    def setup(self, stage: str) -> None:
        """Load table, split and generator, once, and check that all episodes asked for can be drawn.

        Raises:
            UserError: data, split or generator are missing or do not fit each other, or episodes are too large.
        """
        self.read(stage)
        self._check_parts(self.split, stage)  # of a later stage, too
        needs = self._needs(stage)
        self._load_networks(needs)
        if stage in ("fit", "validate"):
            self._check("data.val", self.val.tasks, "val", self.val.shape)
        if stage == "test":
            for number, episodes in enumerate(self.test):
                self._check(f"data.test.{number}", episodes.tasks, self.test_part, episodes.shape)
        if stage == "fit":
            self._prepare_training(needs)

    def check_wanted(self, wanted: Wanted, stage: str) -> None:
        """Check that checkpoints are there."""
        needs = self._needs(stage)
        # with test classes only no checkpoint of these is taken
        tests_only = isinstance(wanted, AllTest) or (isinstance(wanted, Split) and wanted.test_only)
        for path, of in ((self.generator_path, {"decoder", "encoder"}), (self.redrawer_path, {"redrawer"})):
            if path and needs & of and not tests_only and not Path(path).is_file():
                raise UserError(f"checkpoint {path}: no such file")

    def arrange(self, table: ImageTable, split: Split, stage: str) -> None:
        self._check_parts(split, stage)
        super().arrange(table, split, stage)
        self.pools = {part: TaskPool.of(table, self.split.class_ids(table, part)) for part in ("train", "val", "test")}
        if (self.low_data or self.labels != "all") and self.class_rows:
            self.pools["train"] = TaskPool.of_rows(self.class_rows, self.group_ids)
        self._check_real_episodes(stage)

    def _needs(self, stage: str) -> set[Need]:
        return {need for sampler in self.samplers(stage) for need in sampler.needs}

    def _check_parts(self, split: Split, stage: str) -> None:
        """Check that a stage has classes to work on."""
        if stage == "test":
            split.check_has(self.test_part)
        else:
            split.check_has(*(("train", "val") if stage == "fit" else ("val",)))

    def _check_real_episodes(self, stage: str) -> None:
        """Check what needs neither pixels nor a generator."""
        if stage == "test":
            for number, episodes in enumerate(self.test):
                real = RealTasks(groups=episodes.groups)
                self._check(f"data.test.{number}", real, self.test_part, episodes.shape)
        elif stage in ("fit", "validate"):
            self._check("data.val", RealTasks(groups=self.val.groups), "val", self.val.shape)
        if stage == "fit" and isinstance(self.train_tasks, RealTasks):
            self._check("data.train", self.train_tasks, "train", self.train_shape)

    def _load_networks(self, needs: set[Need]) -> None:
        """Load what tasks are drawn and rendered with, each once, and tell the pools."""
        assert self.table is not None
        if "redrawer" in needs and self.redrawer is None:
            self.redrawer = load_redrawer(self.redrawer_path, self.split, self.table, self.labels_told)
            dim = self.redrawer.latent_dim
            self.pools = {part: replace(pool, redraw_dim=dim) for part, pool in self.pools.items()}
        if needs & {"decoder", "encoder"} and self.generator is None:
            generator = load_decoder(self.generator_path, self.split, self.table, self.labels_told)
            images = self.images if "encoder" in needs else None
            self.pools["train"] = with_codes(self.pools["train"], generator, images)
            self.generator = generator
        if "strokes" in needs and self.pools["train"].strokes is None:
            if "decoder" in needs:
                raise UserError("data.train_tasks: codes of a generator and of strokes do not go into one meta-batch")
            self.pools["train"] = with_strokes(self.pools["train"], self.images)

    def _prepare_training(self, needs: set[Need]) -> None:
        if sum(isinstance(sampler, BankedTasks) for sampler in self.train_tasks.walk()) > 1:
            raise UserError("data.train_tasks: there can be one bank of generated tasks only, found more")
        if not self._prepared:
            try:
                self.train_tasks = self.train_tasks.prepared(self.train_pool)
            except UserError as error:
                raise UserError(f"data.train_tasks: {error}") from error
            self._prepared = True
        self._check("data.train", self.train_tasks, self.train_part, self.train_shape, self.train_pool)
        if notes := self.train_tasks.notes:
            if "notes" not in self.facts:  # the trainer sets up once more
                rank_zero_only(tell)("; ".join(notes))
            self.facts["notes"] = notes
        if needs & {"turns", "mirrors"}:
            self._prepare_turns("turns" in needs, "mirrors" in needs)

    def samplers(self, stage: str) -> list[TaskSampler]:
        """Return what draws the tasks of a stage (`fit`, `validate`, `test`)."""
        if stage == "test":
            return [episodes.tasks for episodes in self.test]
        return [self.val.tasks, self.train_tasks] if stage == "fit" else [self.val.tasks]

    def _prepare_turns(self, rotations: bool, mirrors: bool) -> None:
        _, height, width = self.image_shape
        if rotations and height != width:
            raise UserError(
                f"data.train_tasks: rotations need square images, but the data have {list(self.image_shape)} "
                f"(channels, height, width); set rotations: false"
            )
        n = 8 if mirrors else 4
        if self.images.dim() == 4 and height == width and n * self.images.nbytes <= TURNED_TABLE_BYTES:
            self.images = table_of_turns(self.images, n)

    def _check(
        self, option: str, sampler: TaskSampler, part: Part, shape: EpisodeShape, pool: TaskPool | None = None
    ) -> None:
        pool = pool or self.pools[part]
        try:
            sampler.check(pool, shape)
        except UserError as error:
            few = shape.n_images > int(pool.counts.min())
            if few and option == "data.train" and self.labels != "all":
                where = (
                    "; data.labels is none, so each training image is a class of its own: SingleImageTasks, "
                    "ClusterTasks and LatentTasks need no labels"
                    if self.labels == "none"
                    else "; data.labels.smallest is how many images a pseudo-class has at least"
                )
            else:
                smallest = f": '{getattr(self.split, part)[int(pool.counts.argmin())]}'" if few else ""
                where = f" (split '{self.split.name}', part '{part}'{smallest})"
            raise UserError(f"{option}: {error}{where}") from error

    @property
    def train_pool(self) -> TaskPool:
        """What training tasks are drawn from; without labels never a class of the data (after `setup`)."""
        pool = self.pools[self.train_part]
        if self.train_part == "train" or self.labels == "all":
            return pool
        single = TaskPool.of_rows(self._val_rows, torch.zeros(len(self._val_rows), dtype=torch.long))
        return replace(single, redraw_dim=pool.redraw_dim)

    @cached_property
    def _val_rows(self) -> tuple[Tensor, ...]:
        """The images of the validation classes, in the order of hashes of their pixels, one by one."""
        assert self.table is not None
        return rows_by_pixels(self.table.images, self.pools["val"].all_rows).split(1)

    @property
    def images_per_step(self) -> int:
        """Images of an optimiser step, support and query, over all processes."""
        return self.tasks_per_step * self.train_shape.n_way * self.train_shape.n_images

    @cached_property
    def seen(self) -> Seen:
        """What a learner sees in training and validation (after `setup`)."""
        assert self.table is not None
        return Seen.of(self.split, self.table, self.labels_told)

    def check_seen(self, seen: Seen, stage: str, path: str) -> None:
        """Check what a checkpoint has seen against this data: the guard against testing on training classes.

        Raises:
            UserError: it has seen classes that this stage evaluates on, or, in `fit`, is of another split.
        """
        assert self.table is not None
        if stage != "fit":
            seen.check_unseen(self.table, self.split, self.test_part if stage == "test" else "val", path)
        elif seen.split_hash != self.split.hash:  # what it trained on would be in neither record
            raise UserError(
                f"checkpoint {path} was trained on split '{seen.split_name}' ({seen.split_hash}), but this run "
                f"uses split '{self.split.name}' ({self.split.hash}); training goes on with the same split only"
            )
        elif seen.content and seen.content != self.table.content:
            raise UserError(
                f"checkpoint {path} was trained on other pictures: content {seen.content} of '{seen.dataset}', but "
                f"this run has {self.table.content} of '{self.table.name}'; training goes on with the same ones only"
            )

    def shapes(self, stage: str) -> tuple[EpisodeShape, ...]:
        """Return the sizes of all episodes of a stage (`fit`, `validate`, `test`)."""
        if stage == "test":
            return tuple(episodes.shape for episodes in self.test)
        return (self.val.shape, self.train_shape) if stage == "fit" else (self.val.shape,)

    @property
    def schedules(self) -> list[Adaptive]:
        """The adaptive schedules of the training tasks."""
        mixed = [sampler for sampler in self.train_tasks.walk() if isinstance(sampler, MixedTasks)]
        return [sampler.share for sampler in mixed if isinstance(sampler.share, Adaptive)]

    def state_dict(self) -> dict[str, Any]:
        """Return the number of batches handed out, and the states of adaptive schedules."""
        return {**super().state_dict(), "schedules": [schedule.state_dict() for schedule in self.schedules]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after a saved state."""
        super().load_state_dict(state_dict)
        for schedule, state in zip(self.schedules, state_dict["schedules"], strict=True):
            schedule.load_state_dict(state)

    def train_plan(self, step: int) -> EpisodePlan:
        """Return the whole meta-batch of a step, all processes' parts."""
        rng = make_rng(self.seed, "train", step)
        return self.train_tasks.sample(self.train_pool, self.train_shape, self.tasks_per_step, step, rng)

    def train_slice(self, rank: int, world: int, step: int) -> EpisodePlan:
        """Return one process's contiguous part of the meta-batch of a step."""
        plan = self.train_plan(step)
        return plan if world == 1 else plan[_slice(len(plan), rank, world)]

    def eval_plan(self, part: Part, episodes: Episodes) -> EpisodePlan:
        """Return all evaluation episodes of a part and name: the same for every run on this split, low data or not."""
        return episodes.plan(self.pools[part], part, self.whole_split.hash)

    def test_classes(self, episodes: Episodes) -> Tensor:
        """Return the class of each label in the test episodes of a name, int64 `[episode, way]`: its place among the
        classes of the tested part.
        """
        assert self.table is not None
        plan = self.eval_plan(self.test_part, episodes)
        ids = self.split.class_ids(self.table, self.test_part)
        place = torch.full((len(self.table.class_names),), -1)
        place[ids] = torch.arange(len(ids))
        classes = place[self.table.class_ids[plan.rows[..., -1]]]  # the last image of a slot is a query, a real one
        return torch.empty_like(classes).scatter(1, plan.labels, classes)

    def groups_of(self, part: Part) -> tuple[str, ...]:
        """Return the group of each class of a part (after `setup`)."""
        assert self.table is not None
        return tuple(self.table.groups[number] for number in self.split.class_ids(self.table, part).tolist())

    def train_dataloader(self) -> StepLoader:
        rank, world = self.rank_and_world
        if self.tasks_per_step < world:
            raise UserError(f"data.tasks_per_step is {self.tasks_per_step}, but there are {world} processes to feed")
        return self.step_loader(partial(self.train_slice, rank, world), self.steps_per_epoch, self.n_workers)

    def val_dataloader(self) -> FixedLoader:
        return self._eval_batches(self.eval_plan("val", self.val))

    def test_dataloader(self) -> list[FixedLoader]:
        return [self._eval_batches(self.eval_plan(self.test_part, episodes)) for episodes in self.test]

    def eval_hashes(self, stage: str) -> dict[str, str]:
        """Return the hash of the fixed episodes of a stage, by a name such as `test/5w1s`: of classes and rows, not
        of the pictures, which have one of their own (`ImageTable.content`).
        """
        if stage == "test":
            # with generated support images, those of the real ones alone too, by which they pair with other tests
            alone = [replace(episodes, support=None) for episodes in self.test]
            tested = dict.fromkeys([*self.test, *alone])
            return {f"test/{e.name}": plan_hash(self.eval_plan(self.test_part, e)) for e in tested}
        return {"val": plan_hash(self.eval_plan("val", self.val))}

    def on_after_batch_transfer(self, batch: EpisodePlan, dataloader_idx: int) -> EpisodeBatch:
        """Render the plan from the table, which stays on the device unless it is large, by the frozen networks."""
        device = batch.rows.device
        self.images_on(device)
        if batch.period is None:
            return self.render(batch)
        bank = self.bank(batch.period, device)
        return self.render(batch, bank.images, bank.provenance)

    def render(self, plan: EpisodePlan, *bank: Tensor) -> EpisodeBatch:
        """Render a plan, on its device, from the table and by the frozen networks; see `genmeta.tasks.render.render`.

        Args:
            plan: of this data.
            bank: images and provenance of its period, if it has rows of a bank.
        """
        decode = self.generator.decode if self.generator else partial(draw_strokes, size=self.image_shape[-1])
        return render(plan, self.images, decode, self.redrawer.redraw if self.redrawer else None, *bank)

    def bank(self, period: int, device: torch.device) -> Bank:
        """Return the bank's images of a period, rendered when the period begins, in bfloat16 if the trainer's precision
        says so.
        """
        if self._bank is None or not self._bank.is_of(period, device):
            [banked] = [sampler for sampler in self.train_tasks.walk() if isinstance(sampler, BankedTasks)]
            rng = make_rng(self.seed, "bank", period)
            plan = banked.fill(self.pools["train"], self.train_shape, period, rng)
            bfloat16 = self.trainer is not None and self.trainer.precision == "bf16-mixed"
            self._bank = Bank.rendered(period, plan, self.render, device, bfloat16)
        return self._bank

    def _eval_batches(self, plan: EpisodePlan) -> FixedLoader:
        rank, world = self.rank_and_world
        if len(plan) < world:
            raise UserError(f"there are {len(plan)} episodes to evaluate, fewer than the {world} processes")
        mine = plan[_slice(len(plan), rank, world)]
        # many generated support images: fewer tasks at a time, for the memory's sake
        n = max(1, self.tasks_per_eval_batch // max(1, plan.n_shot // 10))
        return FixedLoader([mine[slice(first, first + n)] for first in range(0, len(mine), n)])


def _slice(n: int, rank: int, world: int) -> slice:
    return slice(n * rank // world, n * (rank + 1) // world)
