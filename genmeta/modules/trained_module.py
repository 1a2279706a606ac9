"""What all training has in common: optimisers and their schedules, and how a training goes on with other settings."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.cli import ReduceLROnPlateau as MonitoredPlateau
from lightning.pytorch.utilities import rank_zero_only
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from genmeta.errors import UserError, tell
from genmeta.models.checkpoint import KEY

SETTINGS = "settings"  # of optimisers and schedules, in our entry of a checkpoint
_FOLLOW = ("base_lrs", "_last_lr")  # of a schedule, from the optimiser's learning rate


class TrainedModule(LightningModule, ABC):
    """One optimiser for each network, and a schedule for each optimiser, stepped once an epoch.

    Lightning restores the settings of optimisers, schedules and callbacks with their states. So a training that goes on
    would go on with the old ones, whatever its configuration says. Here, what was configured otherwise takes the place
    of the old, and one line tells it.

    Attributes:
        monitor, monitor_mode: metric that the best checkpoint is chosen by, and `max` or `min`.
        optimizer: makes an optimiser of parameters.
        lr_scheduler: makes a schedule of an optimiser.
    """

    monitor: str
    monitor_mode: str
    optimizer: OptimizerCallable
    lr_scheduler: LRSchedulerCallable | None

    @abstractmethod
    def trained_parameters(self) -> list[Iterable[Parameter]]:
        """Return the parameters of each optimiser."""

    @abstractmethod
    def logged(self, data: Any) -> set[str]:
        """Return the names of all metrics that a training with validation logs on these data."""

    def steps_of(self, n_batches: int) -> int:
        """Return how many steps `trainer.max_steps` counts in so many batches: one each, unless there are several
        optimisers.
        """
        return n_batches

    def changes_since(self, checkpoint: Mapping[str, Any]) -> list[str]:
        """Return what else is configured otherwise than in a checkpoint, and is used; one text each."""
        return []

    def configure_optimizers(self) -> Any:
        optimizers = [self.optimizer(parameters) for parameters in self.trained_parameters()]
        if self.lr_scheduler is None:
            return optimizers
        schedules = [self.schedule(self.lr_scheduler(optimizer)) for optimizer in optimizers]
        if not self.automatic_optimization:  # Lightning, which does not step them, warns of all else
            schedules = [{"scheduler": schedule["scheduler"]} for schedule in schedules]
        return optimizers, schedules

    def schedule(self, scheduler: Any) -> dict[str, Any]:
        """Return a schedule as Lightning takes it: with the metric that it follows, if it follows one.

        Raises:
            UserError: it would follow the metric the wrong way.
        """
        if not isinstance(scheduler, ReduceLROnPlateau):
            return {"scheduler": scheduler}
        monitor = scheduler.monitor if isinstance(scheduler, MonitoredPlateau) else self.monitor
        if monitor == self.monitor and scheduler.mode != self.monitor_mode:
            raise UserError(
                f"model.lr_scheduler: ReduceLROnPlateau has mode '{scheduler.mode}', but the best {monitor} is the "
                f"{self.monitor_mode}imum; set mode: {self.monitor_mode}"
            )
        # where validation comes every few epochs, so do its metrics
        every = (self._trainer.check_val_every_n_epoch or 1) if self._trainer else 1
        return {"scheduler": scheduler, "monitor": monitor, "frequency": every}

    def on_train_epoch_end(self) -> None:
        if self.automatic_optimization or self.lr_scheduler is None:
            return
        for config in self.trainer.lr_scheduler_configs:  # Lightning leaves them to modules with several optimisers
            schedule = self.schedule(config.scheduler)
            if "monitor" not in schedule:
                config.scheduler.step()  # type: ignore[call-arg]
            elif (self.trainer.current_epoch + 1) % schedule["frequency"] == 0:
                config.scheduler.step(self.trainer.callback_metrics[schedule["monitor"]])  # type: ignore[arg-type]

    @property
    def settings(self) -> list[dict[str, Any]]:
        """What optimisers and schedules are made with, one entry an optimiser: plain values."""
        configured = self.configure_optimizers()
        optimizers, schedules = configured if isinstance(configured, tuple) else (configured, [])
        return [
            _described(optimizer, schedules[number]["scheduler"] if schedules else None)
            for number, optimizer in enumerate(optimizers)
        ]

    def check_going_on(self, checkpoint: Mapping[str, Any], path: str) -> None:
        """Raise UserError if the state of a checkpoint's optimisers and schedules means nothing to those of this run.

        The same is checked when the checkpoint is loaded.
        """
        before = checkpoint.get(KEY, {}).get(SETTINGS)
        if before is None:
            raise UserError(f"checkpoint {path}: does not say how its optimisers were made; train it again")
        for old, new in zip(before, self.settings, strict=False):
            for option in ("optimizer", "lr_scheduler"):
                if old[option] != new[option]:
                    raise UserError(
                        f"model.{option}: found {new[option] or 'none'}, but checkpoint {path} was trained with "
                        f"{old[option] or 'none'}, whose state means nothing to another; go on with the same class"
                    )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.setdefault(KEY, {})[SETTINGS] = self.settings

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put what is configured otherwise into what Lightning is about to restore."""
        if self.trainer.state.fn != "fit":
            return
        path = str(self.trainer.ckpt_path)
        self.check_going_on(checkpoint, path)
        changes = _carry_over(checkpoint, self.settings) + _keep_settings_of_callbacks(checkpoint, self.trainer)
        changes += self.changes_since(checkpoint)
        if changes:
            rank_zero_only(tell)(f"going on from {path} with {', '.join(dict.fromkeys(changes))}")


def _described(optimizer: Optimizer, scheduler: LRScheduler | None) -> dict[str, Any]:
    return {
        "optimizer": _class_path(optimizer),
        "groups": [_plain_items(group) for group in optimizer.param_groups],
        "lr_scheduler": None if scheduler is None else _class_path(scheduler),
        "schedule": {} if scheduler is None else _plain_items(scheduler.state_dict()),
    }


def _class_path(part: object) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def _plain_items(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "params" and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, [*value.keys(), *value.values()]))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _carry_over(checkpoint: dict[str, Any], settings: list[dict[str, Any]]) -> list[str]:
    """Put the settings of this run in the places of those of the checkpoint; return what changed.

    A learning rate that a schedule has moved is moved on from: multiplied by new / old.
    """
    changes = []
    for number, (old, new) in enumerate(zip(checkpoint[KEY][SETTINGS], settings, strict=False)):
        factor = 1.0
        groups = checkpoint["optimizer_states"][number]["param_groups"]
        for group, was, becomes in zip(groups, old["groups"], new["groups"], strict=False):
            for key in becomes.keys() & was.keys():
                if becomes[key] == was[key]:
                    continue
                if key == "lr" and old["lr_scheduler"] and was[key]:
                    factor = becomes[key] / was[key]
                    group[key] = group[key] * factor
                else:
                    group[key] = becomes[key]
                if key != "initial_lr":  # follows from lr
                    changes.append(f"model.optimizer: {key} {becomes[key]} in place of {was[key]}")
        if not old["lr_scheduler"]:
            continue
        state = checkpoint["lr_schedulers"][number]
        for key, value in new["schedule"].items():
            if key in _FOLLOW and key in state:
                state[key] = [rate * factor for rate in state[key]]
            elif key in old["schedule"] and value != old["schedule"][key]:
                state[key] = value
                changes.append(f"model.lr_scheduler: {key} {value} in place of {old['schedule'][key]}")
    return changes


def _keep_settings_of_callbacks(checkpoint: dict[str, Any], trainer: Trainer) -> list[str]:
    """Put arguments of callbacks that their states hold too (`patience`) into these states; return what changed."""
    changes = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        state = checkpoint.get("callbacks", {}).get(callback.state_key)
        if not isinstance(state, dict) or isinstance(callback, ModelCheckpoint):  # whose folder is another
            continue
        for key in inspect.signature(type(callback)).parameters.keys() & state.keys():
            value = getattr(callback, key, state[key])
            if _is_plain(value) and value != state[key]:
                changes.append(f"trainer.callbacks: {type(callback).__name__}.{key} {value} in place of {state[key]}")
                state[key] = value
    return changes
