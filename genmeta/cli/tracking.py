"""Loggers: a CSV file always, Weights & Biases by default."""

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from genmeta.cli.run_folder import RunSettings


def make_loggers(run: RunSettings, folder: Path, stage: str) -> list[Logger]:
    """Return the loggers of a run.

    Offline, W&B connects to nothing, asks nothing and prints nothing; its files lie in the run folder and can be sent
    later with `wandb sync`.
    """
    loggers: list[Logger] = [CSVLogger(folder.parent.parent, name=folder.parent.name, version=folder.name)]
    if experiment := start_tracking(run, folder, stage):
        loggers.append(WandbLogger(experiment=experiment))
    return loggers


def start_tracking(run: RunSettings, folder: Path, stage: str) -> Any | None:
    """Begin a W&B run in the first process; None in the others, and if it is off."""
    mode = wandb_mode(run.wandb)
    if mode == "off":
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ["WANDB_DATA_DIR"] = str(folder / "wandb")  # else copies of artifacts pile up in the home folder
    return _start(run, folder, stage, mode) if os.environ.get("LOCAL_RANK", "0") == "0" else None


def _start(run: RunSettings, folder: Path, stage: str, mode: str) -> Any:
    """Begin a W&B run; where the server does not answer or refuses the key, an offline one, saying so."""
    os.environ["WANDB_MODE"] = mode  # also for the next runs of this process, which need not try again
    if mode == "offline":
        os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb  # here: it is slow to import, and not needed when off

    try:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", "genmeta"),
            name=f"{run.name}/{folder.name}",
            dir=str(folder),
            group=run.group,
            job_type=stage,
            mode=mode,  # type: ignore[arg-type]
            settings=wandb.Settings(console="off", silent=True, init_timeout=20),
        )
    except wandb.Error as error:
        if mode == "offline":
            raise
        reason = str(error).strip().split("\n")[0]
        print(f"W&B cannot be used online ({reason}); recording offline", flush=True)
        return _start(run, folder, stage, "offline")


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
        sys.modules["wandb"].finish()
