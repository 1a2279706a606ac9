"""Episodes for meta-training, validation and test: planned on the CPU, rendered on the device."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from genmeta.data.low_data import LowData
from genmeta.data.seen import Seen
from genmeta.data.source import DataSource, outline_and_table
from genmeta.data.splits import AllTest, DrawnSplit, Part, Split, read_split
from genmeta.data.table import ImageTable, gather
from genmeta.episode import EpisodeBatch, EpisodePlan, EpisodeShape, plan_hash
from genmeta.errors import UserError, tell
from genmeta.models.checkpoint import LatentModel, load_generator
from genmeta.models.strokes import characters_of, draw_strokes
from genmeta.modules.step_loader import FixedLoader, StepDataModule, StepLoader
from genmeta.rng import make_rng
from genmeta.tasks.bank import BankedTasks
from genmeta.tasks.mixed import MixedTasks
from genmeta.tasks.real import Grouping, RealTasks
from genmeta.tasks.redrawn import Redraw, RedrawnSupport
from genmeta.tasks.render import render, table_of_turns
from genmeta.tasks.sampler import Need, TaskPool, TaskSampler
from genmeta.tasks.share import Adaptive
from genmeta.tasks.space import Encodings

EVALUATION_SEED = 0  # evaluation episodes are the same for every training seed, so that runs compare pairwise
BANK_CHUNK = 20  # episodes of the bank that are rendered at a time, for the memory's sake
TURNED_TABLE_BYTES = 2**30  # a table of all turns may take this much; larger images are turned as they come


@dataclass(frozen=True)
class Support:
    """Generated images beside each support image; see `RedrawnSupport`.

    Attributes:
        redraw: how the support image is drawn again.
        n: how many, for each support image.
        weight: their share of a class's prototype.
    """

    redraw: Redraw = field(default_factory=Redraw)
    n: int = 30
    weight: float = 0.7

    @property
    def title(self) -> str:
        """In words: `30 redrawn`, `30 elastic` if nothing learned is used."""
        return f"{self.n} {'redrawn' if self.redraw.learned else 'elastic'}"

    @property
    def suffix(self) -> str:
        """What it adds to the name of episodes: `+30redrawn`."""
        return f"+{self.title.replace(' ', '')}"


@dataclass(frozen=True)
class Episodes:
    """Fixed evaluation episodes: a shape and how many of them.

    Attributes:
        n_way, n_shot, n_query: size of an episode.
        n_episodes: how many; the 95 % interval shrinks with its square root.
        groups: classes of `any` groups, all `within` one group, or each from another (`across`); see `RealTasks`.
        support: generated images beside each support image, of the class that is tested; none by default.
    """

    n_way: int = 5
    n_shot: int = 1
    n_query: int = 15
    n_episodes: int = 600
    groups: Grouping = "any"
    support: Support | None = None

    @property
    def shape(self) -> EpisodeShape:
        """Size of one episode."""
        return EpisodeShape(self.n_way, self.n_shot, self.n_query)

    @property
    def name(self) -> str:
        """Name in metrics and hashes: `5w1s`, `20w1s_within`, `5w1s+30redrawn`."""
        return self.base_name + (self.support.suffix if self.support else "")

    @property
    def base_name(self) -> str:
        """Name of the real images in them."""
        return str(self.shape) if self.groups == "any" else f"{self.shape}_{self.groups}"

    @property
    def tasks(self) -> TaskSampler:
        """What draws the episodes; the real images are the same whatever is generated beside them."""
        tasks = RealTasks(groups=self.groups)
        return (
            RedrawnSupport(tasks, self.support.redraw, self.support.n, self.support.weight) if self.support else tasks
        )


class EpisodicDataModule(StepDataModule):
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
    ) -> None:
        super().__init__()
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
        names = [episodes.name for episodes in test]
        if len(set(names)) < len(names):
            raise UserError(f"data.test: entries must differ in shape, groups or support, found {', '.join(names)}")
        self.source, self.split_name = source, split
        self.generator_path, self.redrawer_path = generator, redrawer
        self.low_data = low_data or LowData()
        self.train_tasks, self.train_shape, self.val, self.test = train_tasks, train, val, tuple(test)
        self.tasks_per_step, self.steps_per_epoch = tasks_per_step, steps_per_epoch
        self.test_part, self.tasks_per_eval_batch = test_part, tasks_per_eval_batch
        self.n_workers, self.seed, self.train_part = n_workers, seed, train_part
        self.table: ImageTable | None = None
        self.generator: LatentModel | None = None
        self.redrawer: LatentModel | None = None
        self._prepared = False  # the training tasks
        self._bank: tuple[int, Tensor, Tensor] | None = None  # a period, its images and their provenance

    def setup(self, stage: str) -> None:
        """Load table, split and generator, once, and check that all episodes asked for can be drawn.

        Raises:
            UserError: data, split or generator are missing or do not fit each other, or episodes are too large.
        """
        needs = {need for sampler in self.samplers(stage) for need in sampler.needs}
        if self.table is None:
            # a wrong name is told before the table is made, which may take long
            wanted = read_split(self.split_name)
            # with test classes only no checkpoint of these is taken
            tests_only = isinstance(wanted, AllTest) or (isinstance(wanted, Split) and wanted.test_only)
            for path, of in ((self.generator_path, {"decoder", "encoder"}), (self.redrawer_path, {"redrawer"})):
                if path and needs & of and not tests_only and not Path(path).is_file():
                    raise UserError(f"checkpoint {path}: no such file")
            for table, split in outline_and_table(self.source, wanted):
                self._check_parts(split, stage)
                self._arrange(table, split)
                self._check_real_episodes(stage)
            self.table = table
        self._check_parts(self.split, stage)  # of a later stage, too
        if "redrawer" in needs and self.redrawer is None:
            self._load_redrawer()
        if needs & {"decoder", "encoder"} and self.generator is None:
            self._load_generator("encoder" in needs)
        if "strokes" in needs and self.pools["train"].strokes is None:
            self._find_strokes(needs)
        if stage in ("fit", "validate"):
            self._check("data.val", self.val.tasks, "val", self.val.shape)
        if stage == "test":
            for number, episodes in enumerate(self.test):
                self._check(f"data.test.{number}", episodes.tasks, self.test_part, episodes.shape)
        if stage == "fit":
            if sum(isinstance(sampler, BankedTasks) for sampler in self.train_tasks.walk()) > 1:
                raise UserError("data.train_tasks: there can be one bank of generated tasks only, found more")
            if not self._prepared:
                try:
                    self.train_tasks = self.train_tasks.prepared(self.pools[self.train_part])
                except UserError as error:
                    raise UserError(f"data.train_tasks: {error}") from error
                self._prepared = True
            self._check("data.train", self.train_tasks, self.train_part, self.train_shape)
            if notes := self.train_tasks.notes:
                if "notes" not in self.facts:  # the trainer sets up once more
                    rank_zero_only(tell)("; ".join(notes))
                self.facts["notes"] = notes
            if needs & {"turns", "mirrors"}:
                self._prepare_turns("turns" in needs, "mirrors" in needs)

    def _check_parts(self, split: Split, stage: str) -> None:
        """Check that a stage has classes to work on."""
        if stage == "test":
            split.check_has(self.test_part)
        else:
            split.check_has(*(("train", "val") if stage == "fit" else ("val",)))

    def _arrange(self, table: ImageTable, split: Split) -> None:
        """Set all that follows from names and counts; of the outline, to check it before the long work."""
        self.whole_split: Split = split
        low_data = LowData() if split.test_only else self.low_data  # which is of the train part
        self.split: Split = low_data.keep_classes(split, table)
        self.images = table.images
        self.pools = {part: TaskPool.of(table, self.split.class_ids(table, part)) for part in ("train", "val", "test")}
        self.facts: dict[str, Any] = {"pictures": table.account.facts()} if table.account else {}
        if low_data:
            rows = low_data.keep_images(table, self.split.class_ids(table, "train"))
            self.pools["train"] = TaskPool.of(table, self.split.class_ids(table, "train"), rows)
            self.facts["low_data"] = low_data.facts(self.split, rows)

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

    def samplers(self, stage: str) -> list[TaskSampler]:
        """Return what draws the tasks of a stage (`fit`, `validate`, `test`)."""
        if stage == "test":
            return [episodes.tasks for episodes in self.test]
        return [self.val.tasks, self.train_tasks] if stage == "fit" else [self.val.tasks]

    def _load_generator(self, encodes: bool) -> None:
        if self.generator_path is None:
            raise UserError(
                "data.train_tasks draws generated tasks, but data.generator is not set; expected a checkpoint"
            )
        generator = self._load(self.generator_path)
        generator.check_draws_from_codes()
        pool = replace(self.pools["train"], prior=generator.prior)
        if encodes:
            pool = replace(pool, encodings=self._encode(generator, pool))
        self.pools["train"] = pool
        self.generator = generator

    def _find_strokes(self, needs: set[Need]) -> None:
        if "decoder" in needs:
            raise UserError("data.train_tasks: codes of a generator and of strokes do not go into one meta-batch")
        pool = self.pools["train"]
        images = gather(self.images, pool.all_rows).float() / 255
        try:
            self.pools["train"] = replace(pool, strokes=characters_of(images))
        except UserError as error:
            raise UserError(f"data.train_tasks: {error}") from error

    def _load_redrawer(self) -> None:
        if self.redrawer_path is None:
            raise UserError(
                "the tasks draw images again, but data.redrawer is not set; expected the checkpoint of a model that "
                "draws given images again (make train-vae VAE=vae_deformation)"
            )
        self.redrawer = self._load(self.redrawer_path)
        self.redrawer.check_redraws()
        self.pools = {part: replace(pool, redraw_dim=self.redrawer.latent_dim) for part, pool in self.pools.items()}

    def _load(self, path: str) -> LatentModel:
        if self.split.test_only:
            raise UserError(
                f"data.split: '{self.split.name}' has test classes only, and {path} does not say whether it has seen "
                f"them; test without generated support images"
            )
        model = load_generator(path)
        model.check_image_shape(self.image_shape)
        assert self.table is not None
        model.check_split(self.split, self.table.content)
        return model

    def _encode(self, generator: LatentModel, pool: TaskPool) -> Encodings:
        """Return the bank of encodings of a pool's images, computed once."""
        rows = pool.all_rows
        encoded = [generator.encode(gather(self.images, part).float() / 255) for part in rows.split(256)]
        means, log_vars = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        return Encodings(means, (log_vars / 2).exp(), rows, pool.counts.cumsum(0) - pool.counts, pool.counts)

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

    def _check(self, option: str, sampler: TaskSampler, part: Part, shape: EpisodeShape) -> None:
        pool = self.pools[part]
        try:
            sampler.check(pool, shape)
        except UserError as error:
            few = shape.n_images > int(pool.counts.min())
            smallest = f": '{getattr(self.split, part)[int(pool.counts.argmin())]}'" if few else ""
            raise UserError(f"{option}: {error} (split '{self.split.name}', part '{part}'{smallest})") from error

    @property
    def images_per_step(self) -> int:
        """Images of an optimiser step, support and query, over all processes."""
        return self.tasks_per_step * self.train_shape.n_way * self.train_shape.n_images

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of the images (after `setup`)."""
        assert self.table is not None
        return self.table.image_shape

    @cached_property
    def seen(self) -> Seen:
        """What a learner sees in training and validation (after `setup`)."""
        assert self.table is not None
        return Seen.of(self.split, self.table)

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
        return self.train_tasks.sample(self.pools[self.train_part], self.train_shape, self.tasks_per_step, step, rng)

    def train_slice(self, rank: int, world: int, step: int) -> EpisodePlan:
        """Return one process's contiguous part of the meta-batch of a step."""
        plan = self.train_plan(step)
        return plan if world == 1 else plan[_slice(len(plan), rank, world)]

    def eval_plan(self, part: Part, episodes: Episodes) -> EpisodePlan:
        """Return all evaluation episodes of a part and name: the same for every run on this split, low data or not."""
        rng = make_rng(EVALUATION_SEED, part, self.whole_split.hash, episodes.base_name, episodes.n_query)
        return episodes.tasks.sample(self.pools[part], episodes.shape, episodes.n_episodes, 0, rng)

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
        rank, world = self._rank_and_world()
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
        assert self.table is not None
        if self.images.device != device and self.table.resident:
            self.images = self.images.to(device)
        return self._render(batch, *(() if batch.period is None else self._bank_of(batch.period, device)))

    def _render(self, plan: EpisodePlan, *bank: Tensor) -> EpisodeBatch:
        decode = self.generator.decode if self.generator else partial(draw_strokes, size=self.image_shape[-1])
        return render(plan, self.images, decode, self.redrawer.redraw if self.redrawer else None, *bank)

    def _bank_of(self, period: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the bank's images of a period, uint8 `[n, C, H, W]`, rendered when the period begins, and their
        provenance, int8 `[n]`.

        The networks run in bfloat16 if the trainer's precision says so: what they draw is rounded to 8 bits anyway.
        """
        if self._bank is None or self._bank[0] != period or self._bank[1].device != device:
            [banked] = [sampler for sampler in self.train_tasks.walk() if isinstance(sampler, BankedTasks)]
            rng = make_rng(self.seed, "bank", period)
            plan = banked.fill(self.pools["train"], self.train_shape, period, rng)
            mixed = self.trainer is not None and self.trainer.precision == "bf16-mixed"
            parts = []
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                for first in range(0, len(plan), BANK_CHUNK):
                    batch = self._render(plan[first : first + BANK_CHUNK].to(device))
                    n_way, n_tasks = batch.n_way, len(batch.is_generated)
                    by_slot = [x.view(n_tasks, n_way, -1, *self.image_shape) for x in (batch.support_x, batch.query_x)]
                    parts.append((torch.cat(by_slot, 2).flatten(0, 2) * 255).round().to(torch.uint8))
            self._bank = (period, torch.cat(parts), plan.provenance().flatten().to(device))
        return self._bank[1:]

    def _eval_batches(self, plan: EpisodePlan) -> FixedLoader:
        rank, world = self._rank_and_world()
        if len(plan) < world:
            raise UserError(f"there are {len(plan)} episodes to evaluate, fewer than the {world} processes")
        mine = plan[_slice(len(plan), rank, world)]
        # many generated support images: fewer tasks at a time, for the memory's sake
        n = max(1, self.tasks_per_eval_batch // max(1, plan.n_shot // 10))
        return FixedLoader([mine[slice(first, first + n)] for first in range(0, len(mine), n)])

    def _rank_and_world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def _slice(n: int, rank: int, world: int) -> slice:
    return slice(n * rank // world, n * (rank + 1) // world)
