"""Loggers: always a CSV file, Weights & Biases by default, TensorBoard on request."""

import csv
import importlib.util
import netrc
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from genmeta.errors import UserError
from genmeta.experiments.run_folder import DEBUG_NOTE, RunSettings

STEP, IMAGES = "trainer/global_step", "images_seen"
"""The two axes: steps (Lightning's name; one for each batch, also for a GAN), and training images."""

ID_FILE = "run_id.txt"
"""In the folder `wandb` of a run folder: the id of its W&B run, so that the run can go on as the same one."""

UNSENT = "unsent"
"""A file that marks the folder of an online W&B run that was not sent completely; `make sync` looks for it."""

GRACE = 10.0
"""Seconds that W&B gets after its own time limit, and again to end."""

_failed = False  # whether W&B has failed in the current run

BEST = {
    **dict.fromkeys(("train/loss", "train/loss_e", "train/error", "val/loss", "val/fid", "val/kid"), "min"),
    **dict.fromkeys(("train/acc", "train/elbo", "val/acc", "val/elbo"), "max"),
}
"""Which value of a metric W&B's table shows. For all other metrics it shows the last value."""


def project() -> str:
    """Return the W&B project: `WANDB_PROJECT`, or `genmeta`."""
    return os.environ.get("WANDB_PROJECT") or "genmeta"


class AxisLogger(WandbLogger):
    """Logs the number of images seen with every step, so that arms with different batches can be compared. A failure
    of W&B is told and does not stop the training.

    Args:
        experiment: the W&B run.
        images_per_step: images of a step; 0: no such axis.
    """

    def __init__(self, experiment: Any, images_per_step: int) -> None:
        super().__init__(experiment=experiment)
        self.images_per_step = images_per_step

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if step is not None and self.images_per_step:
            metrics = {**metrics, IMAGES: (step + 1) * self.images_per_step}
        with unharmed():
            super().log_metrics(metrics, step)

    def log_hyperparams(self, params: Any) -> None:
        with unharmed():
            super().log_hyperparams(params)

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        with unharmed():
            super().log_image(key, images, step, **kwargs)


def check_loggers(run: RunSettings) -> None:
    """Raise UserError if a wanted logger is not installed."""
    if run.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError('run.tensorboard: tensorboard is not installed; pip install "genmeta[tensorboard]"')


def make_loggers(
    run: RunSettings, folder: Path, job_type: str, tags: Sequence[str] = (), images_per_step: int = 0
) -> list[Logger]:
    """Return the loggers of a run.

    Offline, W&B connects to nothing, asks nothing and prints nothing. Its files are in the run folder; `make sync` or
    `wandb sync` sends them later.
    """
    loggers: list[Logger] = [CSVLogger(folder.parent.parent, name=folder.parent.name, version=folder.name)]
    if experiment := start_tracking(run, folder, job_type, tags):
        loggers.append(AxisLogger(experiment, images_per_step))
    if run.tensorboard:
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False))
    return loggers


def keep_rows(logger: Logger, folder: Path, n_batches: int) -> None:
    """Keep the earlier rows in the `metrics.csv` of a run that goes on in its folder. Lightning would start an empty
    file.
    """
    path = folder / "metrics.csv"
    if not isinstance(logger, CSVLogger) or not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    reader = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())  # the last line may be cut off
    names = reader.fieldnames or []
    rows = [
        {name: row[name] or "" for name in names}
        for row in reader
        if (row.get("step") or "").isdecimal() and int(row["step"]) < n_batches
    ]
    writer = logger.experiment  # it removes the file; in all processes but the first it does nothing
    writer.metrics = rows  # type: ignore[assignment]
    writer.save()


def start_tracking(run: RunSettings, folder: Path, job_type: str, tags: Sequence[str] = ()) -> Any | None:
    """Begin a W&B run in the first process; return None in the others, and if W&B is off."""
    mode = wandb_mode(run.wandb)
    if mode == "off":
        return None
    # W&B's process stays in the folder where the first run began, and reads relative paths from there
    folder = folder.resolve()
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ["WANDB_DATA_DIR"] = str(folder / "wandb")  # else copies of artifacts pile up in the home folder
    # seconds to send the rest after the end; by default W&B waits forever for a server that is gone. Set in the
    # environment, because some versions of W&B refuse these settings
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", "120")
    os.environ.setdefault("WANDB_FINISH_TIMEOUT_RAISES", "true")
    return _start(run, folder, job_type, tags, mode) if os.environ.get("LOCAL_RANK", "0") == "0" else None


@contextmanager
def tracking(run: RunSettings, folder: Path, job_type: str, tags: Sequence[str] = ()) -> Iterator[Any | None]:
    """The W&B run of a command that does not train, closed at the end; None without W&B."""
    experiment = start_tracking(run, folder, job_type, tags)
    try:
        with unharmed():
            yield experiment
    finally:
        finish_tracking()


def _start(run: RunSettings, folder: Path, job_type: str, tags: Sequence[str], mode: str) -> Any:
    """Begin a W&B run. If the server does not answer or refuses the key, say so and begin an offline one."""
    global _failed
    _failed = False
    os.environ["WANDB_MODE"] = mode  # also for the next runs of this process: they need not try again
    if mode == "offline":
        os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb  # here: it is slow to import, and not needed when off

    known = kept_id(folder)
    try:
        experiment = wandb.init(
            project=project(),
            id=known,
            resume="allow" if known else None,
            name=f"{run.name}/{folder.name}",
            dir=str(folder),
            group=run.group,
            job_type=job_type,
            tags=[*tags, *(["debug"] if run.debug else [])],
            notes=DEBUG_NOTE if run.debug else None,
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
    with unharmed():
        define_metrics(experiment)
    (folder / "wandb").mkdir(exist_ok=True)
    (folder / "wandb" / ID_FILE).write_text(f"{experiment.id}\n", encoding="utf-8")
    return experiment


def kept_id(folder: Path) -> str | None:
    """Return the id of the W&B run of a run folder, if it has a valid one."""
    try:
        text = (folder / "wandb" / ID_FILE).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) else None


def define_metrics(experiment: Any) -> None:
    """Tell W&B the axis of each group of metrics, and which value stands for a run.

    The groups do not overlap: if two patterns match a name, W&B takes either.
    """
    experiment.define_metric(STEP)
    experiment.define_metric(IMAGES, step_metric=STEP)
    for group in ("train/*", "val/*", "pictures/*"):
        experiment.define_metric(group, step_metric=STEP, step_sync=True)
    for name, summary in BEST.items():
        experiment.define_metric(name, step_metric=STEP, step_sync=True, summary=summary)


def wandb_mode(wish: str) -> str:
    """Return `online`, `offline` or `off` for a wish that may be `auto`.

    `auto` follows `WANDB_MODE` if it is set; otherwise it is online if there is an API key.
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
    """Whether W&B would find an API key, in the environment or where `wandb login` stores it. Connects to nothing."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


@contextmanager
def unharmed() -> Iterator[None]:
    """Go on if W&B fails inside this block (its process was killed, its server answers nonsense); say so once a run.

    Other errors are raised.
    """
    global _failed
    try:
        yield
    except Exception as error:
        # pydantic is what W&B reads answers with
        if not (isinstance(error, ConnectionError) or type(error).__module__.startswith(("wandb", "pydantic"))):
            raise
        if not _failed:
            reason = (str(error).splitlines() or [""])[0]
            told = f"genmeta: W&B fails ({type(error).__name__}: {reason}); going on, metrics.csv has all numbers"
            print(told, file=sys.stderr, flush=True)
        _failed = True


def finish_tracking() -> None:
    """Close the W&B run, so that the next run in this process begins its own. If an online run could not send
    everything, it is marked for `make sync`.
    """
    global _failed
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    experiment, folder = wandb.run, Path(wandb.run.dir).parent
    sent = True

    def finish() -> None:
        nonlocal sent
        try:
            with unharmed():
                experiment.finish()
        except TimeoutError:
            sent = False

    # W&B exceeds its own time limit while it sends artifacts: wait for it in a thread, then end it
    limit = float(os.environ["WANDB_FINISH_TIMEOUT"])
    thread = threading.Thread(target=finish, daemon=True)
    thread.start()
    thread.join(limit + GRACE if limit else None)
    if thread.is_alive():
        sent, _failed = False, True
        with suppress(Exception):  # private parts of W&B may change; there is no other way to end it
            wandb.setup()._connection._proc._process.kill()
        thread.join(GRACE)
    if not sent:
        print(
            f"genmeta: W&B takes no more of this run; send it later: wandb sync {folder}", file=sys.stderr, flush=True
        )
        (folder / UNSENT).touch()
    if _failed:  # the next run needs a process of its own, and W&B must not try again when this one ends
        with suppress(Exception):
            wandb.teardown()
