"""`genmeta fit`, `validate`, `test`: LightningCLI with one-line errors, run folders and our loggers."""

import contextlib
import os
import pkgutil
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from genmeta.cli.faults import refused_by_lightning, what_happened
from genmeta.cli.labels import job_type, tags
from genmeta.cli.lineage import describe_inputs, log_checkpoint, log_inputs, log_split
from genmeta.cli.progress import EpochLines, LiveBar, in_words, quiet
from genmeta.cli.tracking import check_loggers, finish_tracking, keep_rows, make_loggers, unharmed
from genmeta.cli.trainer_checks import check_ends_with_best, check_precision, check_trainer, never_validates
from genmeta.data.source import DataSource
from genmeta.data.splits import write_split
from genmeta.errors import UserError, tell
from genmeta.experiments.run_folder import (
    CONFIG_FILE,
    DEBUG_NOTE,
    SPLIT_FILE,
    RunSettings,
    best_checkpoint,
    claim_run_folder,
    code_commit,
    find_same_run,
    goes_on,
    made_checkpoint,
    write_run_file,
    write_whole,
)
from genmeta.learn2learn_import import leave_out_gym
from genmeta.messages import one_line
from genmeta.models.checkpoint import read_checkpoint
from genmeta.models.transfer import PretrainedBackbone
from genmeta.modules.checkpoints import LAST, PREVIOUS, Checkpoints, batches_seen, whole_checkpoint
from genmeta.modules.class_files import CONFUSION_FILE, PER_CLASS_FILE, ClassFiles, lowest_classes
from genmeta.modules.episode_panels import EpisodePanels
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.generative_module import GenerativeModule
from genmeta.modules.image_data import ImageDataModule
from genmeta.modules.meta_module import MetaModule
from genmeta.modules.nonfinite import StopAtNonFinite
from genmeta.modules.pictures import picture_callbacks
from genmeta.modules.stages import StagesPicture
from genmeta.output import command_line, say
from genmeta.read_yaml import check_extent
from genmeta.shipped import with_config_files

_TASKS = "the YAML of configs/tasks, or a path, that a learner's YAML is laid over, in the place of its own"


class Parser(LightningArgumentParser):
    """Raises UserError with one line instead of printing a page of usage; options must be spelt out."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> Any:  # type: ignore[override]
        if not self.exit_on_error:  # a parser inside the parser, whose message becomes a part of ours
            super().error(message, ex)
        raise UserError(one_line(message, self)) from ex


class TrainingCLI(LightningCLI):
    """Parses, checks everything that can be checked, claims a run folder, runs.

    Args:
        args: subcommand and options.
        check_only: stop after the checks: make no folder, run nothing.
        set_up: load data and checkpoints for the checks; without, only what is configured is made.

    Attributes:
        run_folder: of this run, or of the earlier one that is used in its place.
        reused: whether an earlier run is used.
        went_on: whether the run goes on in its own folder.
    """

    run_folder: Path
    reused = False
    went_on = False
    _batches = 0  # that the checkpoint to go on from has seen
    subcommand: str

    def __init__(self, args: Sequence[str], check_only: bool = False, set_up: bool = True) -> None:
        self.started = time.monotonic()
        self.subcommand, self.options = args[0], with_config_files(args[1:])
        self.check_only, self.set_up = check_only, set_up
        quiet()
        leave_out_gym()
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=None,
            seed_everything_default=0,
            parser_class=Parser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=[self.subcommand, *self.options],
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults={"enable_model_summary": False, "num_sanity_val_steps": 0, "log_every_n_steps": 10},
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the subcommand that is asked for, and the arguments of the trainer's method that are not options.

        The others are not, because each makes a parser of its own, which takes time.
        """
        loaders = {"model", "dataloaders", "datamodule", "weights_only"}
        return {
            self.subcommand: {
                *loaders,
                *(("train_dataloaders", "val_dataloaders") if self.subcommand == "fit" else ("verbose",)),
            }
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(RunSettings, "run")
        parser.add_argument("--tasks", type=str | None, help=_TASKS)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        for before, arg in zip(["", *self.options], self.options, strict=False):
            if before == "--config" or arg.startswith("--config="):
                check_extent(Path(arg.removeprefix("--config=")))
        try:
            if any(
                option.startswith("--print_config") for option in self.options
            ):  # which a parser above must carry out
                parser.parse_args([self.subcommand, *self.options])
            # by the subcommand's own parser: the one above it would parse and check all that this has parsed once more
            config = self._parser(self.subcommand).parse_args(self.options)
            self.config = Namespace({"subcommand": self.subcommand, self.subcommand: config})
        except UnicodeDecodeError as error:
            raise UserError(f"--config: not a text file ({error.reason} at byte {error.start})") from error
        except RecursionError as error:
            raise UserError("--config: nested too deep for a configuration") from error
        _check_classes(self.config)

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as it is: a checkpoint never decides which classes are made."""

    def before_instantiate_classes(self) -> None:
        """Fill in sizes that the model's YAML leaves open (null) from the data."""
        config = self.config[self.subcommand]
        places = list(_open_sizes(config.get("model")))
        source = config.data.get("init_args", Namespace()).get("source")
        if not places or not source:
            return
        channels, height, width = _make_source(source).image_shape
        for place, key in places:
            place[key] = {"in_channels": channels, "image_size": height, "image_shape": [channels, height, width]}[key]

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:  # the parser wraps what a constructor raises
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, UserError):
                cause = cause.__cause__ or cause.__context__
            if cause is None:
                reasons = [line.strip("- ") for line in str(error).splitlines() if line.startswith("  - ")]
                raise UserError(f"the configured parts cannot be made: {' '.join(reasons) or error}") from error
            raise cause from None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config: Namespace = self.config[self.subcommand]
        run = RunSettings(**config.run.as_dict())
        config.run.folder = str(run.root)
        check_loggers(run)
        if self.set_up:
            self._check()
        if self.check_only:
            return Trainer(logger=False, barebones=True)
        resolved = yaml.safe_load(text := self.resolved())
        if isinstance(self.model, MetaModule):
            self.model.learner_config = resolved["model"].get("init_args", {}).get("learner")
        if run.reuse and (earlier := find_same_run(run, resolved)):
            self.run_folder, self.reused = earlier, True
            return Trainer(logger=False, barebones=True)
        self.run_folder = claim_run_folder(run, config.ckpt_path if self.subcommand == "fit" else None)
        write_whole(self.run_folder / CONFIG_FILE, text)
        write_split(self.datamodule.split, self.run_folder / SPLIT_FILE)
        given = self._get(self.config_init, "trainer").logger
        loggers = make_loggers(
            run,
            self.run_folder,
            job_type(self.model, self.subcommand),
            tags(self.model, self.datamodule),
            self.datamodule.images_per_step if self.subcommand == "fit" else 0,
        )
        if self.went_on:
            keep_rows(loggers[0], self.run_folder, self._batches)
        loggers += [] if isinstance(given, bool | None) else given if isinstance(given, list) else [given]
        try:
            trainer = super().instantiate_trainer(logger=loggers, **kwargs)
        except (MisconfigurationException, ValueError, TypeError, ImportError) as error:  # e.g. a GPU, where is none
            finish_tracking()
            self._remove_run_folder()
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
        for logger in loggers[1:]:  # the CSV logger would write what config.yaml and run.json say
            logger.log_hyperparams(resolved | self._facts | {"inputs": describe_inputs(self.inputs)})
        if run.artifacts and (experiment := self._experiment(trainer)):
            with unharmed():
                log_split(experiment, self.run_folder, self.datamodule.split)
                log_inputs(experiment, self.inputs)
        return trainer

    def resolved(self) -> str:
        """Return the whole configuration as a YAML that makes a new run wherever it is given again: it does not name
        this run's folder, nor a checkpoint in it.
        """
        config: Namespace = self.config[self.subcommand].clone()
        if self.subcommand == "fit" and goes_on(RunSettings(**config.run.as_dict()), config.ckpt_path):
            self.went_on, config.ckpt_path = True, None
        config.run.version = None
        config.pop("tasks")  # what they say stands in it
        return self._parser(self.subcommand).dump(
            config,
            skip_unset=False,
            skip_link_targets=False,
            skip_validation=True,  # of what has just been made
        )

    def check_ends_with_best(self) -> None:
        """Raise UserError if the training would have no best checkpoint (`fit` only)."""
        check_ends_with_best(self.config["fit"].trainer, self.model, self.datamodule.steps_per_epoch)

    @property
    def account(self) -> str:
        """One line of what was used of the files that the data were read from; "" before these are set up, or if they
        were read from none.
        """
        table = self.datamodule.table
        return str(table.account) if table is not None and table.account else ""

    @property
    def inputs(self) -> dict[str, Any]:
        """The checkpoints that the run reads, by role."""
        roles = {"generator": self.datamodule.generator, "redrawer": self.datamodule.redrawer} if self._episodic else {}
        inputs = {role: model.path for role, model in roles.items() if model is not None}
        if path := self.config[self.subcommand].ckpt_path:
            inputs["learner" if self._episodic else "generator"] = path
        for name, part in self.model.named_modules():
            if isinstance(part, PretrainedBackbone):
                inputs["backbone"] = part.checkpoint
            elif getattr(part, "without_file", None):
                inputs[name.removeprefix("learner.")] = part.checkpoint
        return {role: path for role, path in inputs.items() if path}

    @property
    def _episodic(self) -> bool:
        return isinstance(self.datamodule, EpisodicDataModule)

    @staticmethod
    def _experiment(trainer: Trainer) -> Any | None:
        """Return the W&B run of the first process, if there is one."""
        found = [logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        return found[0] if found and trainer.is_global_zero else None

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        return super()._instantiate_trainer(config, [*callbacks, *self._callbacks()])

    def _check(self) -> None:
        expected = EpisodicDataModule if isinstance(self.model, MetaModule) else ImageDataModule
        if not isinstance(self.datamodule, expected):
            raise UserError(
                f"data: {type(self.model).__name__} needs a {expected.__name__}, found {type(self.datamodule).__name__}"
            )
        if getattr(self.model, "optimizer", self) is None:
            raise UserError("model.optimizer: found null; expected a class such as torch.optim.Adam")
        trainer = self.config[self.subcommand].trainer
        check_precision(trainer.precision)
        if self.subcommand == "test" and not isinstance(self.model, MetaModule):
            raise UserError(f"genmeta test is for learners; use genmeta validate for a {type(self.model).__name__}")
        if self.config[self.subcommand].ckpt_path == "":  # of a variable that a script has not set
            raise UserError("ckpt_path: is empty; expected the path of a checkpoint, or leave the option out")
        path, checkpoint = self._given_checkpoint()  # before the data: these may take long
        self.datamodule.setup(self.subcommand)
        if self.account and not self.check_only:
            rank_zero_only(say)(self.account)
        self.model.check(self.datamodule, self.subcommand)
        if self.subcommand == "fit":
            try:
                self.model.configure_optimizers()
            except (TypeError, ValueError) as error:  # optimisers check their numbers when they are made
                raise UserError(f"model.optimizer: {error}") from error
            check_trainer(trainer, self.model, self.datamodule)
            why = never_validates(trainer, self.model, self.datamodule.steps_per_epoch)
            if why and not self.check_only:
                rank_zero_only(tell)(f"{why}: no checkpoint can be chosen as the best, and the last is the result")
        if path:
            self._check_weights(path, checkpoint["state_dict"])
            if self.subcommand == "fit":
                self.model.check_going_on(checkpoint, path)
            if isinstance(self.datamodule, EpisodicDataModule):
                self.model.check_checkpoint(checkpoint, self.datamodule, self.subcommand, path)
        elif isinstance(self.datamodule, EpisodicDataModule):
            self.model.check_new_classes(self.datamodule, None, "")

    def _given_checkpoint(self) -> tuple[str, dict[str, Any]]:
        """Return path and content of the checkpoint that is given, if one is; of several that stand in for one another
        the whole one.
        """
        path = self.config[self.subcommand].ckpt_path
        if not path:
            return "", {}
        if self.subcommand != "fit":
            return path, read_checkpoint(path)
        whole, checkpoint, note = whole_checkpoint(path)
        self.config[self.subcommand].ckpt_path = str(whole)
        self._batches = batches_seen(checkpoint)
        if note:
            tell(note)
        return str(whole), checkpoint

    def _check_weights(self, path: str, weights: dict[str, torch.Tensor]) -> None:
        expected = {name: list(value.shape) for name, value in self.model.state_dict().items()}
        found = {name: list(value.shape) for name, value in weights.items()}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise UserError(
                    f"ckpt_path: {path} is not of this model: it has {name} {found.get(name, '(none)')}, "
                    f"the model has {expected.get(name, '(none)')}; use the config.yaml of the checkpoint's run"
                )

    def _callbacks(self) -> list[Any]:
        with_bar = self.config[self.subcommand].trainer.enable_progress_bar is not False
        bar = [LiveBar() if sys.stderr.isatty() else EpochLines()] if with_bar else []
        if self.subcommand == "test":
            return [*bar, EpisodePanels(), StagesPicture(self.run_folder / "pictures"), ClassFiles(self.run_folder)]
        if self.subcommand != "fit":
            return bar
        folder = self.run_folder / "checkpoints"
        checkpoints = Checkpoints(folder, self.model.monitor, self.model.monitor_mode)
        return [*bar, *picture_callbacks(self.model, self.run_folder), StopAtNonFinite(folder), checkpoints]

    @cached_property
    def _facts(self) -> dict[str, Any]:
        """What a run depends on besides its configuration, and what makes it comparable."""
        split = self.datamodule.split
        facts: dict[str, Any] = {
            "split": {"name": split.name, "hash": split.hash, "content": self.datamodule.table.content},
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "commit": code_commit(),
            **self.datamodule.facts,
        }
        if isinstance(self.datamodule, EpisodicDataModule):
            facts["episodes"] = self.datamodule.eval_hashes(self.subcommand)
        return facts

    def _run_subcommand(self, subcommand: str) -> None:
        if self.reused or self.check_only:
            return
        report: dict[str, float] = {}
        try:
            super()._run_subcommand(subcommand)
            if isinstance(self.model, GenerativeModule) and not self.trainer.interrupted:
                report = self._report(subcommand)
            with unharmed():
                self._log_best()
            if self.trainer.is_global_zero and not self.trainer.interrupted:
                self._write_run_file(subcommand, report)
        except SIGTERMException:
            if self.trainer.is_global_zero:
                tell(f"told to stop (SIGTERM); {self._how_to_go_on()}")
            raise
        except SystemExit as error:
            if not isinstance(error.__context__, KeyboardInterrupt):  # which Lightning turns into exit code 1
                raise
            raise KeyboardInterrupt(self._how_to_go_on()) from None
        except Exception as error:
            if refused_by_lightning(error) and not self.trainer.fit_loop.epoch_loop.total_batch_idx + 1:
                finish_tracking()
                self._remove_run_folder()
                raise UserError(f"trainer: {' '.join(str(error).split())}") from error
            if (what := what_happened(error)) is None:
                raise
            raise UserError(f"{what}; {self._how_to_go_on()}") from error
        finally:
            finish_tracking()

    def _remove_run_folder(self) -> None:
        """Remove the folder of a run that could not begin."""
        if not self.went_on and int(os.environ.get("LOCAL_RANK", "0")) == 0:
            shutil.rmtree(self.run_folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # other runs are in it
                self.run_folder.parent.rmdir()

    def _write_run_file(self, subcommand: str, report: dict[str, float]) -> None:
        """Write the run's summary, and say where its results are."""
        content = {
            "stage": subcommand,
            "seconds": round(time.monotonic() - self.started, 1),
            "metrics": {k: float(v) for k, v in sorted(self.trainer.callback_metrics.items())},
            **self._facts,
            **({"debug": True} if self.config[subcommand].run.debug else {}),
            "device": _device(self.trainer.strategy.root_device, self.trainer.world_size),
        }
        if subcommand == "fit":
            content["steps"] = self.trainer.fit_loop.epoch_loop.total_batch_idx + 1
        if self._best:
            content["best"] = self._best
        if isinstance(self.model, MetaModule) and subcommand == "test":
            content["episode_accuracies"] = self.model.episode_accuracies
        if experiment := self._experiment(self.trainer):
            content["wandb"] = experiment.id
        if report:
            content["report"], content["features"] = report, self.datamodule.features.name
        write_run_file(self.run_folder, content)
        if subcommand == "fit":
            pictures = self.run_folder / "pictures"
            say(f"           {self._made()}{f', pictures in {pictures}' if pictures.is_dir() else ''}")
        else:
            for name, value in in_words(content["metrics"]).items():
                say(f"           {name} {value}")
        if isinstance(self.model, MetaModule) and subcommand == "test":
            self._say_classes()
        if "debug" in content:
            say(f"           {DEBUG_NOTE}")

    def _say_classes(self) -> None:
        """Say which classes are the hardest, and where the rest stands."""
        for name, found in self.model.confusions.items():
            say(f"           hardest classes of {name}: {lowest_classes(found)}")
        say(f"           all classes in {self.run_folder}: {PER_CLASS_FILE}, {CONFUSION_FILE}, pictures/confusion.png")

    @property
    def _best(self) -> dict[str, float]:
        """What the best checkpoint was chosen by, if there is one."""
        if self.subcommand != "fit" or not best_checkpoint(self.run_folder).is_file():
            return {}
        score = self.trainer.checkpoint_callback.best_model_score  # type: ignore[union-attr]
        return {self.model.monitor: float(score)}  # type: ignore[arg-type]

    def _made(self) -> str:
        """Return which checkpoint the training has made."""
        made = made_checkpoint(self.run_folder)
        if made is None:
            return "no checkpoint: trainer.fast_dev_run keeps none"
        return str(made) if self._best else f"{made}, the last (there was no validation to choose the best by)"

    def _how_to_go_on(self) -> str:
        """Return where the run can be taken up again."""
        folder = self.run_folder / "checkpoints"
        kept = [path for path in (folder / LAST, folder / PREVIOUS) if path.is_file()]
        if self.subcommand != "fit" or not kept:
            return "there is no checkpoint to go on from"
        version = self.config["fit"].run.version  # of an experiment or a comparison: there the run is expected
        where = ["--run.version", version] if version else []
        command = ["fit", "--config", self.run_folder / CONFIG_FILE, "--ckpt_path", kept[0], *where]
        return f"go on with: {command_line(*command)}"

    def _log_best(self) -> None:
        """Name the best checkpoint, or the last if there is no best, to W&B as what the run has made."""
        made = made_checkpoint(self.run_folder)
        experiment = self._experiment(self.trainer)
        if not experiment or self.subcommand != "fit" or not made:
            return
        if self.config["fit"].run.artifacts:
            split = self.datamodule.split
            log_checkpoint(experiment, made, {**self._best, "split": split.name, "split_hash": split.hash})

    def _report(self, subcommand: str) -> dict[str, float]:
        """Measure the best weights of a generative model (after `fit`), or those at hand; print and log the table."""
        if self._best:  # else there was no validation, and the last weights are at hand
            self.model.load_state_dict(read_checkpoint(best_checkpoint(self.run_folder))["state_dict"])
        if not self.trainer.is_global_zero:
            return {}
        report = self.model.report()
        if experiment := self._experiment(self.trainer):
            with unharmed():
                experiment.summary.update({f"report/{name}": value for name, value in report.items()})
        losses = {k: float(v) for k, v in sorted(self.trainer.callback_metrics.items()) if "loss" in k or "elbo" in k}
        say(f"           features: {self.datamodule.features.name}")
        for name, value in {**report, **losses}.items():
            say(f"           {name:<24}{value:>10.4g}")
        return report

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand != "fit":
            kwargs["verbose"] = False
        # of `_check`, which may have taken another than was given
        return {**kwargs, "ckpt_path": self.config[subcommand].ckpt_path, "weights_only": True}


def _device(device: torch.device, n: int) -> str:
    """Return what a run ran on: `cpu, 1 thread`, or `2 × ` and the name of a GPU."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
    return f"{n} × {name}" if n > 1 else name.replace(", 1 threads", ", 1 thread")


def _check_classes(part: Any, option: str = "") -> None:
    """Raise UserError if a `class_path` names neither a class nor a function that is annotated to return a network.

    The parser checks classes; where a function is expected it would call any that is named, `os.system` too.
    """
    if isinstance(part, list):
        for item in part:
            _check_classes(item, option)
    if isinstance(part, Namespace):
        for key, value in vars(part).items():
            _check_classes(value, f"{option}.{key}" if option and key != "init_args" else option or key)
        path = getattr(part, "class_path", None)
        if isinstance(path, str):
            found = pkgutil.resolve_name(path)
            if not (isinstance(found, type) or _returns_network(found)):
                raise UserError(f"{option.partition('.')[2]}: '{path}' is not a class")


def _returns_network(function: Any) -> bool:
    """Whether a function, such as `torchvision.models.resnet18`, says that it returns a network."""
    try:
        returned = get_type_hints(function).get("return")
    except Exception:  # whatever its annotations name
        return False
    return isinstance(returned, type) and issubclass(returned, torch.nn.Module)


def _open_sizes(part: Any) -> Iterator[tuple[Namespace, str]]:
    """Yield where a part of the configuration, or a part of that, has a size of the images that is not set."""
    if isinstance(part, list):
        for item in part:
            yield from _open_sizes(item)
    if isinstance(part, Namespace):
        for key, value in vars(part).items():
            if value is None and key in ("in_channels", "image_size", "image_shape"):
                yield part, key
            yield from _open_sizes(value)


def _make_source(config: Namespace) -> DataSource:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--source", type=DataSource)
    return parser.instantiate_classes(Namespace(source=config)).source


def checked(args: Sequence[str], *, set_up: bool = True) -> TrainingCLI:
    """Return the parts that a command would run with, as `genmeta.experiments.checks.Check` says."""
    return TrainingCLI(args, check_only=True, set_up=set_up)
