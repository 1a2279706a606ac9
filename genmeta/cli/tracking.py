"""Loggers: a CSV file always, Weights & Biases by default, TensorBoard on request."""

import importlib.util
import netrc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from genmeta.cli.run_folder import RunSettings
from genmeta.errors import UserError
from genmeta.modules.tracker import tracker_may_die

STEP, IMAGES = "trainer/global_step", "images_seen"
"""The two axes: optimiser steps (Lightning's name; one a batch, also for a GAN), and training images."""

BEST = {
    **dict.fromkeys(("train/loss", "train/loss_e", "train/error", "val/loss", "val/fid", "val/kid"), "min"),
    **dict.fromkeys(("train/acc", "train/elbo", "val/acc", "val/elbo"), "max"),
}
"""Which value of a metric W&B's table shows; of all others, `test/*` and a GAN's losses among them, it is the last."""


def project() -> str:
    """Return the W&B project: `WANDB_PROJECT`, or `genmeta`."""
    return os.environ.get("WANDB_PROJECT") or "genmeta"


class AxisLogger(WandbLogger):
    """Logs how many images were seen beside every step of training, so that arms with other batches compare.

    Args:
        experiment: the W&B run.
        images_per_step: of an optimiser step; 0: no such axis.
    """

    def __init__(self, experiment: Any, images_per_step: int) -> None:
        super().__init__(experiment=experiment)
        self.images_per_step = images_per_step

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if step is not None and self.images_per_step:
            metrics = {**metrics, IMAGES: (step + 1) * self.images_per_step}
        with tracker_may_die():
            super().log_metrics(metrics, step)

    def log_image(self, *args: Any, **kwargs: Any) -> None:
        with tracker_may_die():
            super().log_image(*args, **kwargs)


def check_loggers(run: RunSettings) -> None:
    """Raise UserError if a logger is asked for that is not installed."""
    if run.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError('run.tensorboard: tensorboard is not installed; pip install "genmeta[tensorboard]"')


def make_loggers(
    run: RunSettings, folder: Path, job_type: str, tags: Sequence[str] = (), images_per_step: int = 0
) -> list[Logger]:
    """Return the loggers of a run.

    Offline, W&B connects to nothing, asks nothing and prints nothing; its files lie in the run folder and can be sent
    later with `make sync`.
    """
    loggers: list[Logger] = [CSVLogger(folder.parent.parent, name=folder.parent.name, version=folder.name)]
    if experiment := start_tracking(run, folder, job_type, tags):
        loggers.append(AxisLogger(experiment, images_per_step))
    if run.tensorboard:
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False))
    return loggers


def start_tracking(run: RunSettings, folder: Path, job_type: str, tags: Sequence[str] = ()) -> Any | None:
    """Begin a W&B run in the first process; None in the others, and if it is off."""
    mode = wandb_mode(run.wandb)
    if mode == "off":
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ["WANDB_DATA_DIR"] = str(folder / "wandb")  # else copies of artifacts pile up in the home folder
    return _start(run, folder, job_type, tags, mode) if os.environ.get("LOCAL_RANK", "0") == "0" else None


@contextmanager
def tracking(run: RunSettings, folder: Path, job_type: str, tags: Sequence[str] = ()) -> Iterator[Any | None]:
    """The W&B run of a command that is not training, closed at the end; None where there is none."""
    try:
        yield start_tracking(run, folder, job_type, tags)
    finally:
        finish_tracking()


def _start(run: RunSettings, folder: Path, job_type: str, tags: Sequence[str], mode: str) -> Any:
    """Begin a W&B run; where the server does not answer or refuses the key, an offline one, saying so."""
    os.environ["WANDB_MODE"] = mode  # also for the next runs of this process, which need not try again
    if mode == "offline":
        os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb  # here: it is slow to import, and not needed when off

    try:
        experiment = wandb.init(
            project=project(),
            name=f"{run.name}/{folder.name}",
            dir=str(folder),
            group=run.group,
            job_type=job_type,
            tags=list(tags),
            mode=mode,  # type: ignore[arg-type]
            # the commit is in the configuration; the address of the repository and changed code stay here
            settings=wandb.Settings(console="off", silent=True, init_timeout=20, disable_git=True),
        )
    except wandb.Error as error:
        if mode == "offline":
            raise
        reason = str(error).strip().split("\n")[0]
        print(f"W&B cannot be used online ({reason}); recording offline", flush=True)
        return _start(run, folder, job_type, tags, "offline")
    define_metrics(experiment)
    return experiment


def define_metrics(experiment: Any) -> None:
    """Tell W&B the axis of each group and which value stands for a run. The groups do not overlap: of two patterns that
    fit a name, W&B takes either.
    """
    experiment.define_metric(STEP)
    experiment.define_metric(IMAGES, step_metric=STEP)
    for group in ("train/*", "val/*", "pictures/*"):
        experiment.define_metric(group, step_metric=STEP, step_sync=True)
    for name, summary in BEST.items():
        experiment.define_metric(name, step_metric=STEP, step_sync=True, summary=summary)


def wandb_mode(wish: str) -> str:
    """Return `online`, `offline` or `off` for a wish that may be `auto`.

    `auto` follows `WANDB_MODE` if the user has set it, and otherwise is online if there is an API key.
    """
    if wish != "auto":
        return wish
    chosen = os.environ.get("WANDB_MODE", "")
    if chosen in ("online", "offline"):
        return chosen
    if chosen in ("disabled", "dryrun"):
        return "off" if chosen == "disabled" else "offline"
    return "online" if has_account() else "offline"


def has_account() -> bool:
    """Whether W&B would find an API key, in the environment or where `wandb login` puts it. Connects to nothing."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def finish_tracking() -> None:
    """Close the W&B run, so that the next run in this process begins its own."""
    import sys

    if "wandb" in sys.modules:
        with tracker_may_die():
            sys.modules["wandb"].finish()
