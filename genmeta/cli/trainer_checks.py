"""Checks for options of Lightning's Trainer that a training cannot follow, before it begins."""

import inspect
import math
import pkgutil
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from genmeta.errors import UserError, nearest, tell
from genmeta.modules.trained_module import TrainedModule

_LOGS = re.compile(r"\.log(_dict|_metrics)?\(|callback_metrics")
_OURS = {"gradient_clip_val": "model.gradient_clip", "accumulate_grad_batches": "model.accumulate"}


def check_trainer(trainer: Mapping[str, Any], model: TrainedModule, data: Any) -> None:
    """Check the options of the trainer of a `fit`.

    Args:
        trainer: its options, as parsed.
        model: to be trained.
        data: its data module, set up.

    Raises:
        UserError: an option cannot be followed, nothing would be trained, or a named metric is not logged.
    """
    if (trainer["max_epochs"], trainer["max_steps"], trainer["max_time"]) == (None, -1, None):
        raise UserError("trainer.max_epochs: found null, and no max_steps or max_time; expected when training ends")
    for option in ("max_epochs", "max_steps"):
        if trainer[option] == 0:
            raise UserError(f"trainer.{option}: found 0, so that nothing would be trained; expected at least 1")
    if (every := trainer["check_val_every_n_epoch"]) is not None and every < 1:
        raise UserError(f"trainer.check_val_every_n_epoch: expected at least 1, found {every}")
    steps = batches(trainer["limit_train_batches"], data.steps_per_epoch)
    if steps == 0:
        raise UserError(
            f"trainer.limit_train_batches: {trainer['limit_train_batches']} of {data.steps_per_epoch} batches are "
            f"none, so that nothing would be trained"
        )
    interval = trainer["val_check_interval"]
    if every is not None and isinstance(interval, int) and not isinstance(interval, bool) and interval > steps:
        raise UserError(
            f"trainer.val_check_interval: found {interval} batches, but an epoch has {steps}; set "
            f"check_val_every_n_epoch to null to count batches over epochs, or data.steps_per_epoch"
        )
    _check_gradients(trainer, model)
    _check_monitors(trainer, model, data)


def never_validates(trainer: Mapping[str, Any], model: TrainedModule, steps_per_epoch: int) -> str | None:
    """Return why a training ends before its first validation, or None if it does not, as far as is known.

    Args:
        trainer: options, as parsed.
        model: to be trained.
        steps_per_epoch: batches of an epoch, before `limit_train_batches`.
    """
    if trainer["limit_val_batches"] == 0:
        return "trainer.limit_val_batches is 0"
    every, interval = trainer["check_val_every_n_epoch"], trainer["val_check_interval"]
    max_epochs, max_steps = trainer["max_epochs"], trainer["max_steps"]
    per_epoch = batches(trainer["limit_train_batches"], steps_per_epoch)
    if not isinstance(interval, int | float | None):  # a time
        return None
    in_epoch = per_epoch if interval is None else batches(interval, per_epoch)  # between two validations
    first = in_epoch if every is None else (every - 1) * per_epoch + in_epoch
    if max_epochs is not None and 0 < max_epochs * per_epoch < first:
        return f"trainer.max_epochs is {max_epochs}, and the first validation comes after {first} batches"
    before = model.steps_of((first - 1) // (trainer["accumulate_grad_batches"] or 1))
    if 0 < max_steps <= before:
        several = "" if model.automatic_optimization else f" (it counts each optimiser's steps, {before} until then)"
        return f"trainer.max_steps is {max_steps}{several}, and the first validation comes after {first} batches"
    return None


def check_ends_with_best(trainer: Mapping[str, Any], model: TrainedModule, steps_per_epoch: int) -> None:
    """Raise UserError if a training would have no best checkpoint, which later runs need."""
    if why := never_validates(trainer, model, steps_per_epoch):
        raise UserError(f"{why}: without a validation there is no best checkpoint, which later runs need")


def batches(limit: float | None, n: int) -> int:
    """Return how many of `n` batches a limit of Lightning leaves; the limit is a number or a share."""
    if limit is None:
        return n
    return min(limit, n) if isinstance(limit, int) else int(n * limit)


def check_precision(precision: Any) -> None:
    """Raise UserError for precisions whose weights are not float32."""
    if str(precision).endswith("-true") and precision != "32-true":
        raise UserError(
            f"trainer.precision: found {precision}, whose weights are not float32; "
            f"there are 32-true, bf16-mixed and 16-mixed"
        )


def _check_gradients(trainer: Mapping[str, Any], model: TrainedModule) -> None:
    clip, parts = trainer["gradient_clip_val"], trainer["accumulate_grad_batches"]
    if clip is not None and not (clip >= 0 and math.isfinite(clip)):
        raise UserError(f"trainer.gradient_clip_val: expected at least 0, found {clip}")
    if parts < 1:
        raise UserError(f"trainer.accumulate_grad_batches: expected at least 1, found {parts}")
    if not model.automatic_optimization:
        asked = {"gradient_clip_val": bool(clip), "accumulate_grad_batches": parts > 1}
        for option in (option for option, is_set in asked.items() if is_set):
            raise UserError(
                f"trainer.{option}: a {type(model).__name__} has several optimisers, which the trainer leaves to it; "
                f"set {_OURS[option]}"
            )
        return
    if clip and str(trainer["precision"]).endswith("-mixed"):
        optimizers, *_ = configured if isinstance(configured := model.configure_optimizers(), tuple) else (configured,)
        if any(getattr(optimizer, "_step_supports_amp_scaling", False) for optimizer in optimizers):
            raise UserError(
                f"trainer.gradient_clip_val: does not go with trainer.precision {trainer['precision']} and an "
                f"optimiser with fused: true; set model.optimizer.init_args.fused to false"
            )


def _check_monitors(trainer: Mapping[str, Any], model: TrainedModule, data: Any) -> None:
    """Check that the metrics of schedules and callbacks are logged."""
    callbacks = trainer["callbacks"] or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    others = [callback["class_path"] for callback in callbacks if _may_log(callback["class_path"])]
    known = model.logged(data)
    for option, monitor in [*_schedules(model), *_monitors(callbacks)]:
        if monitor not in known and others:
            rank_zero_only(tell)(
                f"{option}: '{monitor}' is not logged by the model; if {others[0]} does not log it either, training "
                f"stops when it is first waited for{nearest(monitor, known)}"
            )
        elif monitor not in known:
            raise UserError(
                f"{option}: '{monitor}' is not logged; there are {', '.join(sorted(known))}{nearest(monitor, known)}"
            )
        if monitor.startswith("val/") and (why := never_validates(trainer, model, data.steps_per_epoch)):
            raise UserError(f"{option}: there is no '{monitor}' without a validation, and {why}")


def _may_log(class_path: str) -> bool:
    """Whether a callback may log its own metrics: it is neither Lightning's nor ours, and its code logs something or
    cannot be read.
    """
    for part in pkgutil.resolve_name(class_path).__mro__:
        if part is object or part.__module__.split(".")[0] in ("lightning", "genmeta", "abc"):
            continue
        try:
            source = inspect.getsource(part)
        except (OSError, TypeError):
            return True
        if _LOGS.search(source):
            return True
    return False


def _schedules(model: TrainedModule) -> Iterator[tuple[str, str]]:
    configured = model.configure_optimizers()
    if isinstance(configured, tuple) and (monitor := model.schedule(configured[1][0]["scheduler"]).get("monitor")):
        yield "model.lr_scheduler.monitor", monitor


def _monitors(callbacks: list[Any]) -> Iterator[tuple[str, str]]:
    for number, callback in enumerate(callbacks):
        if monitor := (callback.get("init_args") or {}).get("monitor"):
            yield f"trainer.callbacks.{number}.monitor", monitor
