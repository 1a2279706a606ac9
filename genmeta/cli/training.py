"""`genmeta fit`, `validate`, `test`: LightningCLI with errors in one line, run folders and our loggers."""

import contextlib
import inspect
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from genmeta.cli.faults import refused_by_lightning, what_happened
from genmeta.cli.inputs import inputs_of
from genmeta.cli.labels import job_type, place_of, place_tags, tags
from genmeta.cli.parser import Parser, fill_sizes, parse, why_not_made
from genmeta.cli.part_checks import Given, check_parts
from genmeta.cli.progress import progress_bar, quiet
from genmeta.cli.recorder import Recorder
from genmeta.cli.tracking import check_loggers, finish_tracking, keep_rows, make_loggers
from genmeta.cli.trainer_checks import check_ends_with_best
from genmeta.errors import UserError, tell
from genmeta.experiments.run_folder import RunSettings, claim_run_folder, find_same_run, goes_on
from genmeta.learn2learn_import import leave_out_gym
from genmeta.modules.checkpoints import Checkpoints
from genmeta.modules.class_files import ClassFiles
from genmeta.modules.episode_panels import EpisodePanels
from genmeta.modules.meta_module import MetaModule
from genmeta.modules.nonfinite import StopAtNonFinite
from genmeta.modules.pictures import picture_callbacks
from genmeta.modules.stages import StagesPicture
from genmeta.modules.worst_queries import WorstQueries
from genmeta.shipped import with_config_files

_TASKS = "a YAML of configs/tasks or a path, instead of the one that the learner's YAML names"
_NO_OPTIONS = {"model", "dataloaders", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only", "verbose"}


class TrainingCLI(LightningCLI):
    """Parses the options, checks all that can be checked, and claims a run folder; then `run` trains or tests.

    Args:
        args: subcommand and options.
        check_only: stop after the checks: make no folder, and `run` does nothing.
        set_up: load data and checkpoints for the checks; if not, only make the configured parts.

    Attributes:
        stage: the subcommand: `fit`, `validate` or `test`.
        run_folder: of this run, or of the earlier one that is used instead.
        reused: whether an earlier run is used.
        went_on: whether the run goes on in its own folder.
    """

    run_folder: Path
    recorder: Recorder
    reused = False
    went_on = False
    _given = Given()

    def __init__(self, args: Sequence[str], check_only: bool = False, set_up: bool = True) -> None:
        self.started = time.monotonic()
        self.stage, self.options = args[0], with_config_files(args[1:])
        self.check_only, self.set_up = check_only, set_up
        quiet()
        leave_out_gym()
        what = inspect.getdoc(getattr(Trainer, self.stage)) or ""
        super().__init__(
            LightningModule,
            LightningDataModule,
            run=False,  # with subcommands, a second parser would parse and check everything again
            save_config_callback=None,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={"prog": f"genmeta {self.stage}", "description": what.partition("\n")[0]},
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=self.options,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults={"enable_model_summary": False, "num_sanity_val_steps": 0, "log_every_n_steps": 10},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(RunSettings, "run")
        parser.add_argument("--tasks", type=str | None, help=_TASKS)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)
        parser.add_method_arguments(Trainer, self.stage, skip=set(_NO_OPTIONS))

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config: Namespace = parse(parser, self.options)

    def before_instantiate_classes(self) -> None:
        fill_sizes(self.config)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise why_not_made(error) from None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        run = RunSettings(**self.config.run.as_dict())
        self.config.run.folder = str(run.root)
        check_loggers(run)
        if self.set_up:
            self._given = check_parts(self.stage, self.config, self.model, self.datamodule, not self.check_only)
            self.config.ckpt_path = self._given.path
        if self.check_only:
            return Trainer(logger=False, barebones=True)
        resolved = yaml.safe_load(text := self.resolved())
        if isinstance(self.model, MetaModule):
            self.model.learner_config = resolved["model"].get("init_args", {}).get("learner")
        if run.reuse and (earlier := find_same_run(run, resolved)):
            self.run_folder, self.reused = earlier, True
            return Trainer(logger=False, barebones=True)
        self.run_folder = claim_run_folder(run, self.config.ckpt_path if self.stage == "fit" else None)
        self.recorder = Recorder(self.stage, self.model, self.datamodule, run, self.run_folder, self.started)
        self.recorder.begin(text)
        placed = place_of(run, resolved["seed_everything"])
        loggers = self._loggers(run, placed)
        callbacks = _as_list(self.config_init.trainer.callbacks)
        try:
            trainer = super().instantiate_trainer(logger=loggers, callbacks=[*callbacks, *self.callbacks()], **kwargs)
        except (MisconfigurationException, ValueError, TypeError, ImportError) as error:  # e.g. no GPU
            raise self._refused(error) from error
        self.recorder.log_start(trainer, loggers[1:], resolved | placed, self.inputs)
        return trainer

    def run(self) -> None:
        """Train, validate or test, and write the results. Does nothing if an earlier run is used instead."""
        if self.reused or self.check_only:
            return
        options = {"ckpt_path": self.config.ckpt_path, "weights_only": True}
        options |= {} if self.stage == "fit" else {"verbose": False}
        try:
            getattr(self.trainer, self.stage)(self.model, datamodule=self.datamodule, **options)
            self.recorder.end(self.trainer)
        except SIGTERMException:
            if self.trainer.is_global_zero:
                tell(f"told to stop (SIGTERM); {self.recorder.how_to_go_on()}")
            raise
        except SystemExit as error:
            if not isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns it into exit code 1
                raise
            raise KeyboardInterrupt(self.recorder.how_to_go_on()) from None
        except Exception as error:
            if refused_by_lightning(error) and not self.trainer.fit_loop.epoch_loop.total_batch_idx + 1:
                raise self._refused(error) from error
            if (what := what_happened(error)) is None:
                raise
            raise UserError(f"{what}; {self.recorder.how_to_go_on()}") from error
        finally:
            finish_tracking()

    def callbacks(self) -> list[Any]:
        """Return the callbacks that every run of this stage has, beside the configured ones."""
        with_bar = self.config.trainer.enable_progress_bar is not False
        bar = [progress_bar()] if with_bar else []
        if self.stage == "test":
            stages = StagesPicture(self.run_folder / "pictures")
            return [*bar, EpisodePanels(), WorstQueries(), stages, ClassFiles(self.run_folder)]
        if self.stage != "fit":
            return bar
        folder = self.run_folder / "checkpoints"
        checkpoints = Checkpoints(folder, self.model.monitor, self.model.monitor_mode)
        return [*bar, *picture_callbacks(self.model, self.run_folder), StopAtNonFinite(folder), checkpoints]

    def resolved(self) -> str:
        """Return the whole configuration as a YAML. It names neither this run's folder nor a checkpoint in it, so it
        makes a new run wherever it is used.
        """
        config: Namespace = self.config.clone()
        if self.stage == "fit" and goes_on(RunSettings(**config.run.as_dict()), config.ckpt_path):
            self.went_on, config.ckpt_path = True, None
        config.run.version = None
        config.pop("tasks")  # their options are in the configuration
        return self.parser.dump(
            config,
            skip_unset=False,
            skip_link_targets=False,
            skip_validation=True,  # it was validated when it was parsed
        )

    def check_ends_with_best(self) -> None:
        """Raise UserError if the training would have no best checkpoint (`fit` only)."""
        check_ends_with_best(self.config.trainer, self.model, self.datamodule.steps_per_epoch)

    @property
    def account(self) -> str:
        """One line: how many files of the data were used; "" before the data are set up, or if they have no files."""
        return str(self.datamodule.account)

    @property
    def inputs(self) -> dict[str, Any]:
        """The checkpoints that the run reads, by role, without its own from which it goes on."""
        return inputs_of(self.model, self.datamodule, None if self.went_on else self.config.ckpt_path)

    def _loggers(self, run: RunSettings, placed: dict[str, Any]) -> list[Logger]:
        """Return the CSV logger, ours, and those that are configured."""
        loggers = make_loggers(
            run,
            self.run_folder,
            job_type(self.model, self.stage),
            [*tags(self.model, self.datamodule), *place_tags(placed)],
            self.datamodule.images_per_step if self.stage == "fit" else 0,
        )
        if self.went_on:
            keep_rows(loggers[0], self.run_folder, self._given.batches)
        given = self.config_init.trainer.logger
        return [*loggers, *([] if isinstance(given, bool) else _as_list(given))]

    def _refused(self, error: Exception) -> UserError:
        """Return the error for options that the trainer refuses. A run that could not begin leaves no folder."""
        finish_tracking()
        if not self.went_on and int(os.environ.get("LOCAL_RANK", "0")) == 0:
            shutil.rmtree(self.run_folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # it is not empty: other runs are in it
                self.run_folder.parent.rmdir()
        return UserError(f"trainer: {' '.join(str(error).split())}")


def _as_list(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list) else [given]


def checked(args: Sequence[str], *, set_up: bool = True) -> TrainingCLI:
    """Return the parts of a command without running it; see `genmeta.experiments.checks.Check`."""
    return TrainingCLI(args, check_only=True, set_up=set_up)
