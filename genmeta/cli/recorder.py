"""Records a run: `config.yaml`, `run.json`, the lines at its end, its lineage in W&B."""

import platform
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, WandbLogger

from genmeta.cli.lineage import describe_inputs, log_checkpoint, log_inputs, log_split
from genmeta.cli.progress import in_words
from genmeta.cli.tracking import unharmed
from genmeta.data.splits import write_split
from genmeta.experiments.run_folder import (
    CONFIG_FILE,
    DEBUG_NOTE,
    SPLIT_FILE,
    RunSettings,
    best_checkpoint,
    code_commit,
    made_checkpoint,
    write_run_file,
    write_whole,
)
from genmeta.models.checkpoint import read_checkpoint
from genmeta.modules.checkpoints import LAST, PREVIOUS
from genmeta.modules.class_files import CONFUSION_FILE, PER_CLASS_FILE, lowest_classes
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.generative_module import GenerativeModule
from genmeta.modules.meta_module import MetaModule
from genmeta.output import command_line, say


class Recorder:
    """Writes the configuration of a run when it begins, and its results when it ends.

    Args:
        stage: `fit`, `validate` or `test`.
        model: to train or test.
        data: its data module, set up.
        run: its settings.
        folder: the run folder.
        started: time of the program's start, from `time.monotonic`.
    """

    def __init__(self, stage: str, model: Any, data: Any, run: RunSettings, folder: Path, started: float) -> None:
        self.stage, self.model, self.data = stage, model, data
        self.settings, self.folder, self.started = run, folder, started

    def begin(self, config: str) -> None:
        """Write the configuration and the split."""
        write_whole(self.folder / CONFIG_FILE, config)
        write_split(self.data.split, self.folder / SPLIT_FILE)

    def log_start(
        self, trainer: Trainer, loggers: Sequence[Logger], config: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> None:
        """Log the configuration and the facts of the run, and its inputs to W&B.

        Args:
            trainer: of the run.
            loggers: all but the CSV logger, which would repeat `config.yaml` and `run.json`.
            config: the configuration, with arm, seed and experiment.
            inputs: checkpoints by role.
        """
        for logger in loggers:
            logger.log_hyperparams({**config, **self.facts, "inputs": describe_inputs(inputs)})
        if self.settings.artifacts and (experiment := _experiment(trainer)):
            with unharmed():
                log_split(experiment, self.folder, self.data.split)
                log_inputs(experiment, inputs)

    def end(self, trainer: Trainer) -> None:
        """Write the run's summary, and print where its results are; a generative model is measured first."""
        report: dict[str, float] = {}
        if isinstance(self.model, GenerativeModule) and not trainer.interrupted:
            report = self._report(trainer)
        with unharmed():
            self._log_best(trainer)
        if trainer.is_global_zero and not trainer.interrupted:
            content = self._summary(trainer, report)
            write_run_file(self.folder, content)
            self._say(content)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Facts beside the configuration: the split, the episodes, versions, the commit."""
        split = self.data.split
        facts: dict[str, Any] = {
            "split": {"name": split.name, "hash": split.hash, "content": self.data.table.content},
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "commit": code_commit(),
            **self.data.facts,
        }
        if isinstance(self.data, EpisodicDataModule):
            facts["episodes"] = self.data.eval_hashes(self.stage)
        return facts

    def how_to_go_on(self) -> str:
        """Return the command that goes on with the run."""
        folder = self.folder / "checkpoints"
        kept = [path for path in (folder / LAST, folder / PREVIOUS) if path.is_file()]
        if self.stage != "fit" or not kept:
            return "there is no checkpoint to go on from"
        version = self.settings.version  # a comparison expects the run in this folder
        where = ["--run.version", version] if version else []
        command = ["fit", "--config", self.folder / CONFIG_FILE, "--ckpt_path", kept[0], *where]
        return f"go on with: {command_line(*command)}"

    def _summary(self, trainer: Trainer, report: Mapping[str, float]) -> dict[str, Any]:
        content: dict[str, Any] = {
            "stage": self.stage,
            "seconds": round(time.monotonic() - self.started, 1),
            "metrics": {k: float(v) for k, v in sorted(trainer.callback_metrics.items())},
            **self.facts,
            **({"debug": True} if self.settings.debug else {}),
            "device": _device(trainer.strategy.root_device, trainer.world_size),
        }
        if self.stage == "fit":
            content["steps"] = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        if best := self._best(trainer):
            content["best"] = best
        if self._is_meta_test:
            content["episode_accuracies"] = self.model.episode_accuracies
        if experiment := _experiment(trainer):
            content["wandb"] = experiment.id
        if report:
            content["report"], content["features"] = dict(report), self.data.features.name
        return content

    def _say(self, content: Mapping[str, Any]) -> None:
        """Print the checkpoint of a training, or the metrics; for a meta-test also the hardest classes."""
        if self.stage == "fit":
            pictures = self.folder / "pictures"
            say(f"           {self._made('best' in content)}{f', pictures in {pictures}' if pictures.is_dir() else ''}")
        else:
            for name, value in in_words(content["metrics"]).items():
                say(f"           {name} {value}")
        if self._is_meta_test:
            for name, confusion in self.model.confusions.items():
                say(f"           hardest classes of {name}: {lowest_classes(confusion)}")
            say(f"           all classes in {self.folder}: {PER_CLASS_FILE}, {CONFUSION_FILE}, pictures/confusion.png")
        if "debug" in content:
            say(f"           {DEBUG_NOTE}")

    @property
    def _is_meta_test(self) -> bool:
        return isinstance(self.model, MetaModule) and self.stage == "test"

    def _made(self, has_best: bool) -> str:
        """Return the path of the training's checkpoint."""
        made = made_checkpoint(self.folder)
        if made is None:
            return "no checkpoint: trainer.fast_dev_run keeps none"
        return str(made) if has_best else f"{made}, the last (there was no validation to choose the best by)"

    def _best(self, trainer: Trainer) -> dict[str, float]:
        """Return the metric that chose the best checkpoint, if there is one."""
        if self.stage != "fit" or not best_checkpoint(self.folder).is_file():
            return {}
        score = trainer.checkpoint_callback.best_model_score  # type: ignore[union-attr]
        return {self.model.monitor: float(score)}  # type: ignore[arg-type]

    def _log_best(self, trainer: Trainer) -> None:
        """Register the best checkpoint, or the last if there is no best, with W&B as the run's output."""
        made = made_checkpoint(self.folder)
        experiment = _experiment(trainer)
        if experiment and self.stage == "fit" and made and self.settings.artifacts:
            split = self.data.split
            log_checkpoint(experiment, made, {**self._best(trainer), "split": split.name, "split_hash": split.hash})

    def _report(self, trainer: Trainer) -> dict[str, float]:
        """Measure a generative model with its best weights, or the current ones; print and log the table."""
        if self._best(trainer):  # else there was no validation, and the current weights are the last
            self.model.load_state_dict(read_checkpoint(best_checkpoint(self.folder))["state_dict"])
        if not trainer.is_global_zero:
            return {}
        report: dict[str, float] = self.model.report()
        if experiment := _experiment(trainer):
            with unharmed():
                experiment.summary.update({f"report/{name}": value for name, value in report.items()})
        losses = {k: float(v) for k, v in sorted(trainer.callback_metrics.items()) if "loss" in k or "elbo" in k}
        say(f"           features: {self.data.features.name}")
        for name, value in {**report, **losses}.items():
            say(f"           {name:<24}{value:>10.4g}")
        return report


def _experiment(trainer: Trainer) -> Any | None:
    """Return the W&B run of the first process, if there is one."""
    experiments = [logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    return experiments[0] if experiments and trainer.is_global_zero else None


def _device(device: torch.device, n: int) -> str:
    """Return the device of a run: `cpu, 1 thread`, or `2 × ` and the name of a GPU."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
    return f"{n} × {name}" if n > 1 else name.replace(", 1 threads", ", 1 thread")
