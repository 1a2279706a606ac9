"""Meta-training and meta-testing of a learner."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from genmeta.data.seen import Origin, Seen
from genmeta.data.table import gather
from genmeta.episode import PROVENANCE, EpisodeBatch
from genmeta.errors import UserError
from genmeta.evaluation.accuracy import EpisodeAccuracy, mean_and_ci95
from genmeta.evaluation.confusion import ClassConfusion, Confusion
from genmeta.learners.checkpoint import describe_learner, differences, load_learner
from genmeta.learners.learner import Learner, cross_entropy
from genmeta.models.checkpoint import KEY, FromCheckpoint
from genmeta.models.made_with import made_of
from genmeta.models.networks import check_same_shape
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.memory import HalvingLoss
from genmeta.modules.trained_module import TrainedModule


class MetaModule(TrainedModule):
    """Minimises the learner's loss, usually the cross-entropy of the query images; evaluates on fixed episodes.

    Args:
        learner: episodes to query logits.
        optimizer: makes the outer loop's optimiser of the learner's parameters.
        lr_scheduler: makes a schedule, stepped once an epoch.
        halve_if_out_of_memory: compute half as many tasks at a time whenever memory is used up, the step at hand
            included; the gradient is that of the whole meta-batch but for rounding (`loss_in_parts`).
        compile: have `torch.compile` take the learner's backbone in training.

    Attributes:
        learner_config: `{class_path, init_args}` of the learner, which the command line knows; else that of `made_of`.
            With it, `load_learner` builds the learner from a checkpoint alone.
    """

    monitor, monitor_mode = "val/acc", "max"

    def __init__(
        self,
        learner: Learner,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        halve_if_out_of_memory: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if compile and not learner.compiles:
            raise UserError(
                f"model.compile: torch.compile cannot take the backbone of {type(learner).__name__}, which is not "
                f"called as a module, or within gradients of its own; leave it at false"
            )
        self.compiled = compile
        self.halving = HalvingLoss() if halve_if_out_of_memory else None
        self.learner, self.optimizer, self.lr_scheduler = learner, optimizer, lr_scheduler
        self.learner_config: dict[str, Any] | None = None
        # means over an epoch: by the provenance of images, and by whether classes are the data's or made up
        self.acc_of = nn.ModuleDict({name: MeanMetric() for name in PROVENANCE})
        self.share_of = nn.ModuleDict({name: MeanMetric() for name in PROVENANCE if name != "real"})
        self.acc_real_classes, self.acc_made_up, self.made_up_share = MeanMetric(), MeanMetric(), MeanMetric()
        self.val_accuracy, self.val_loss = EpisodeAccuracy(), MeanMetric()
        self.test_accuracies = nn.ModuleList()  # of EpisodeAccuracy, one for each shape
        self.test_confusions = nn.ModuleList()  # of ClassConfusion, the same
        self._test_classes: list[Tensor] = []  # of each label of their episodes
        self.episode_accuracies: dict[str, list[float]] = {}
        self.confusions: dict[str, Confusion] = {}

    def check(self, data: EpisodicDataModule, stage: str) -> None:
        """Raise UserError if the learner cannot work with the episodes of a stage."""
        for shape in data.shapes(stage):
            self.learner.check(shape, data.image_shape)
        if not data.split.test_only:  # else `check_new_classes`
            assert data.table is not None
            for part in self.pretrained:
                part.check_origin(Origin.of(data.split, data.table, data.labels_told))
        if stage == "test" and data.test_part == "train" and (self.pretrained or self.learner.uses_base_classes):
            raise UserError(
                f"data.test_part is 'train', but {type(self.learner).__name__} knows the train classes, by its "
                f"pretrained parts or their statistics; test on unseen classes: test, or val to choose settings"
            )
        if stage == "fit" and not any(p.requires_grad for p in self.learner.parameters()):
            raise UserError(f"{type(self.learner).__name__} has nothing to train; use it with genmeta test")

    @property
    def pretrained(self) -> list[FromCheckpoint]:
        """The parts of the learner that come from checkpoints."""
        return [part for part in self.learner.modules() if isinstance(part, FromCheckpoint)]

    def check_new_classes(self, data: EpisodicDataModule, seen: Seen | None, path: str) -> None:
        """Raise UserError if the learner cannot be tested on a split of test classes only: nobody can tell whether its
        pretrained parts have seen them, or there are no base classes for its statistics.

        Args:
            data: of the test.
            seen: the record of the learner's checkpoint. What its parts have seen is in it if they are of its split.
                None: there is no checkpoint.
            path: of the checkpoint.
        """
        if not data.split.test_only:
            return
        if seen is None and (self.pretrained or self.learner.uses_base_classes):
            raise UserError(
                f"data.split: '{data.split.name}' has test classes only, but {type(self.learner).__name__} has "
                f"statistics of base classes, or parts that are trained already; give the checkpoint of a learner that "
                f"was trained with them (ckpt_path), or a split with train classes"
            )
        for part in self.pretrained if seen is not None else ():
            part.check_origin(seen.origin, f"the learner's checkpoint {path} is of")  # type: ignore[union-attr]

    def setup(self, stage: str) -> None:
        self.check(self.data, stage)  # the command line has done so, who trains by the Trainer alone has not
        self.test_accuracies = nn.ModuleList(EpisodeAccuracy() for _ in self.data.test)
        if stage == "test":
            n_classes = len(getattr(self.data.split, self.data.test_part))
            self._test_classes = [self.data.test_classes(episodes) for episodes in self.data.test]
            self.test_confusions = nn.ModuleList(ClassConfusion(n_classes) for _ in self.data.test)
        # here, so that statistics of a checkpoint, which comes later, count
        if self.learner.uses_base_classes and not self.data.split.test_only:
            assert self.data.table is not None
            pool = self.data.pools["train"]
            labels = torch.repeat_interleave(pool.counts)
            places = torch.arange(len(labels)) - (pool.counts.cumsum(0) - pool.counts)[labels]
            rows = pool.table_rows(labels, places[:, None]).squeeze(1)
            self.learner.fit_statistics(gather(self.data.table.images, rows), labels)

    def on_fit_start(self) -> None:
        if self.halving and self.trainer.precision == "16-mixed":
            raise UserError(
                "model.halve_if_out_of_memory: with trainer.precision 16-mixed gradients of parts would be too small "
                "for its numbers; use bf16-mixed"
            )
        if self.compiled:
            self.learner.backbone.compile()  # type: ignore[operator, union-attr]

    def trained_parameters(self) -> list[Iterable[nn.Parameter]]:
        return [self.learner.parameters()]

    def logged(self, data: EpisodicDataModule) -> set[str]:
        tasks = data.train_tasks
        made = tasks.provenances.support | tasks.provenances.query
        return {
            *("train/loss", "train/acc", "val/loss", "val/acc", "val/acc_ci95"),
            *(f"train/acc_{name}" for name, number in PROVENANCE.items() if number in tasks.provenances.query),
            *(f"train/{name}_share" for name in self.share_of if PROVENANCE[name] in made),
            *(["train/made_up_share"] if tasks.latent_range[1] > 0 else []),
        }

    def training_step(self, batch: EpisodeBatch, batch_idx: int) -> Tensor:
        loss, logits = self.halving(self.learner, batch) if self.halving else self.learner.loss(batch)
        right = (logits.argmax(2) == batch.query_y).float()
        n = len(logits)
        self.log("train/loss", loss, prog_bar=True, batch_size=n)
        self.log("train/acc", right.mean(), prog_bar=True, batch_size=n)
        self._log_by_provenance(batch, right)
        # processes' gradients are averaged, each with the same weight, also where one has a task more than another
        return loss * (n * self.trainer.world_size / self.data.tasks_per_step)

    def _log_by_provenance(self, batch: EpisodeBatch, right: Tensor) -> None:
        """Log shares and accuracies of what is generated, over the epoch: single steps, every tenth of which is logged,
        may show another share than the mean.

        What the training tasks can have decides what is logged, so that it is the same on all processes: none may skip
        a collective.
        """
        tasks = self.data.train_tasks
        assert batch.support_provenance is not None
        assert batch.query_provenance is not None
        images = torch.cat([batch.support_provenance, batch.query_provenance], 1)
        for name, number in PROVENANCE.items():
            if number in tasks.provenances.query:
                self._log_mean(
                    f"train/acc_{name}", self.acc_of[name], right, (batch.query_provenance == number).float()
                )
            if name in self.share_of and number in tasks.provenances.support | tasks.provenances.query:
                self._log_mean(f"train/{name}_share", self.share_of[name], (images == number).float())
        made_up = batch.query_is_generated.float()
        self.acc_real_classes.update(right, 1 - made_up)
        self.acc_made_up.update(right, made_up)
        if tasks.latent_range[1] > 0:
            self._log_mean("train/made_up_share", self.made_up_share, batch.is_generated.float())

    def _log_mean(self, name: str, metric: nn.Module, *values: Tensor) -> None:
        assert isinstance(metric, MeanMetric)
        metric.update(*values)
        self.log(name, metric, on_step=False, on_epoch=True)

    def on_train_epoch_start(self) -> None:
        for metric in self._means:  # not when an epoch goes on where it was stopped
            metric.reset()

    def validation_step(self, batch: EpisodeBatch, batch_idx: int) -> None:
        logits = self.learner(batch)
        self.val_accuracy.update(logits, batch.query_y)
        # a metric: Lightning's own mean over processes weighs each alike, however many episodes it had
        self.val_loss.update(cross_entropy(logits, batch.query_y), len(logits))
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True)

    def on_validation_epoch_end(self) -> None:
        mean, half = mean_and_ci95(self.val_accuracy.compute().reshape(-1))
        self.val_accuracy.reset()
        self.log("val/acc", mean, prog_bar=True)
        self.log("val/acc_ci95", half)
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            for schedule in self.data.schedules:
                # the same on all processes: these metrics are of all of them
                real, made_up = self._so_far(self.acc_real_classes), self._so_far(self.acc_made_up)
                schedule.update(self._steps_done, real, made_up, mean)

    @property
    def _means(self) -> list[MeanMetric]:
        """Means over an epoch."""
        by_image = [*self.acc_of.values(), *self.share_of.values()]
        return [*by_image, self.acc_real_classes, self.acc_made_up, self.made_up_share]  # type: ignore[list-item]

    @property
    def _steps_done(self) -> int:
        return self.trainer.fit_loop.epoch_loop.total_batch_idx + 1

    def _of_all(self, values: Tensor) -> Tensor:
        """Return the sum over all processes."""
        strategy = self.trainer.strategy
        return strategy.reduce(values.to(strategy.root_device), reduce_op="sum")  # type: ignore[return-value]

    @staticmethod
    def _so_far(metric: MeanMetric) -> float:
        """Return what a metric has collected in this epoch, NaN if nothing."""
        return float(metric.compute()) if metric.update_called else float("nan")

    def on_test_start(self) -> None:
        if not self.trainer.ckpt_path:  # which is known from here on
            self.check_new_classes(self.data, None, "")

    def test_step(self, batch: EpisodeBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        metric, confusion = self.test_accuracies[dataloader_idx], self.test_confusions[dataloader_idx]
        assert isinstance(metric, EpisodeAccuracy)
        assert isinstance(confusion, ClassConfusion)
        logits = self.learner(batch)
        metric.update(logits, batch.query_y)
        classes = self._test_classes[dataloader_idx][batch.first_task :][: len(logits)].to(logits.device)
        confusion.update(logits, batch.query_y, classes)
        return {"logits": logits, "classes": classes}  # for pictures

    def on_test_epoch_end(self) -> None:
        names = getattr(self.data.split, self.data.test_part)
        groups = self.data.groups_of(self.data.test_part)
        for episodes, metric, confusion in zip(self.data.test, self.test_accuracies, self.test_confusions, strict=True):
            assert isinstance(metric, EpisodeAccuracy)
            assert isinstance(confusion, ClassConfusion)
            accuracies = metric.compute().reshape(-1)
            metric.reset()
            name = episodes.name
            offered, chosen = (counts.cpu().clone() for counts in confusion.compute())
            confusion.reset()
            self.confusions[name] = Confusion(names, groups, offered, chosen)
            self.episode_accuracies[name] = accuracies.tolist()
            mean, half = mean_and_ci95(accuracies)
            self.log(f"test/acc_{name}", mean)
            self.log(f"test/acc_{name}_ci95", half)

    def check_going_on(self, checkpoint: Mapping[str, Any], path: str) -> None:
        super().check_going_on(checkpoint, path)
        for option, old, new, only_begins in self._differences(checkpoint):
            if only_begins:
                raise UserError(
                    f"{option}: found {new}, but checkpoint {path} was trained with {old}: learned parameters only "
                    f"begin with it, and go on from what the checkpoint has learned; leave it at {old}"
                )

    def changes_since(self, checkpoint: Mapping[str, Any]) -> list[str]:
        return [f"{option} {new} in place of {old}" for option, old, new, _ in self._differences(checkpoint)]

    def _differences(self, checkpoint: Mapping[str, Any]) -> list[tuple[str, Any, Any, bool]]:
        mine = describe_learner(self.learner_config or made_of(self.learner), self.learner)
        return list(differences(checkpoint[KEY].get("learner"), mine, "model.learner"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        data = self.data
        super().on_save_checkpoint(checkpoint)
        checkpoint[KEY] |= {
            **data.seen.state(),
            "generator": None if data.generator is None else str(data.generator.path),  # of the same split
            "redrawer": None if data.redrawer is None else str(data.redrawer.path),
            "image_shape": list(data.image_shape),
            "learner": describe_learner(self.learner_config or made_of(self.learner), self.learner),
            # Lightning forgets them in mid-epoch
            "means": [self._of_all(torch.stack([m.mean_value, m.weight])).tolist() for m in self._means],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that has seen the classes that it would be evaluated on; go on with an epoch's means."""
        if self._trainer is None:  # by `load_from_checkpoint`: nothing is trained or tested yet
            return
        self.check_checkpoint(checkpoint, self.data, self.trainer.state.fn or "fit", str(self.trainer.ckpt_path))
        super().on_load_checkpoint(checkpoint)
        if self.trainer.state.fn == "fit" and self.trainer.is_global_zero:  # the sums of all processes
            for metric, (total, weight) in zip(self._means, checkpoint[KEY].get("means", ()), strict=False):
                metric.update(0.0, 0.0)
                metric.mean_value, metric.weight = torch.as_tensor(total), torch.as_tensor(weight)

    def check_checkpoint(self, checkpoint: dict[str, Any], data: EpisodicDataModule, stage: str, path: str) -> None:
        """Raise UserError unless the checkpoint's record allows this stage on these data (`Seen.check_unseen`)."""
        seen = Seen.read(checkpoint.get(KEY, {}), path)
        shape = checkpoint[KEY].get("image_shape")
        if stage != "fit" and shape is not None:
            advice = (
                f", so that nobody can tell whether it has seen them; read them at that size "
                f"(data.source.size {shape[1]}, data.source.channels {shape[0]})"
            )
            check_same_shape(f"checkpoint {path} is of images of shape", shape, data.image_shape, advice)
        data.check_seen(seen, stage, path)
        if stage == "fit":
            seen.origin.check_labels(data.labels_told, f"checkpoint {path}")
        self.check_new_classes(data, seen, path)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:  # type: ignore[override]
        """Return the module of a checkpoint, with the learner built as the checkpoint says, unless one is given.

        Raises:
            UserError: the checkpoint does not say how to build it.
        """
        if "learner" not in kwargs:
            kwargs["learner"] = load_learner(str(checkpoint_path)).learner.requires_grad_(True).train()
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    @property
    def data(self) -> EpisodicDataModule:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, EpisodicDataModule):
            raise UserError(f"MetaModule needs an EpisodicDataModule as data, found {type(data).__name__}")
        return data
