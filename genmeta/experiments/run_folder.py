"""`runs/<name>/<version>/`: one folder a run, never used twice."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from genmeta.errors import UserError
from genmeta.read_yaml import check_extent

RUN_FILE = "run.json"  # written last: a run with it is finished
DEBUG_NOTE = "Settings for a check; these numbers mean nothing."
CONFIG_FILE = "config.yaml"
SPLIT_FILE = "split.json"  # the classes of each part, as they were used; data.split reads it
_HANDED_DOWN = "GENMETA_RUN_FOLDER"  # from the first process to the processes that it starts
_PATIENCE = 120  # seconds that other processes wait for the first, which may still load data


@dataclass(frozen=True)
class RunSettings:
    """Where a run goes and how it is tracked.

    Args:
        name: of the run.
        folder: of all runs; `runs` by default, `runs/debug` for a `debug` run.
        version: folder of this run under `folder/name`; the next free number by default.
        wandb: Weights & Biases: `auto` is online if there is an account and offline otherwise; or `online`, `offline`,
            `off`.
        group: W&B group, for runs that belong together.
        arm: the arm of a comparison, which dashboards group by; the run's name by default.
        arm_title: the arm in words.
        experiment: the comparison that this run is part of, and its version: `policies/3f2a…`.
        artifacts: register splits and checkpoints with W&B as artifacts, so that it shows what was made from what.
        tensorboard: write event files for TensorBoard too (pip install "genmeta[tensorboard]"); CSV is always written.
        debug: a quick check (`configs/trainer/debug.yaml`): its numbers mean nothing, and every table says so.
        reuse: if a finished run of this name has the same resolved configuration, use it instead of training again.
    """

    name: str = "run"
    folder: str | None = None
    version: str | None = None
    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    group: str | None = None
    arm: str | None = None
    arm_title: str | None = None
    experiment: str | None = None
    artifacts: bool = True
    tensorboard: bool = False
    debug: bool = False
    reuse: bool = False

    @property
    def root(self) -> Path:
        """Folder of all runs."""
        return Path(self.folder or ("runs/debug" if self.debug else "runs"))

    @property
    def all_versions(self) -> Path:
        """Folder of all runs of this name."""
        return self.root / self.name


def lays_debug(configs: Iterable[str | Path]) -> bool:
    """Whether one of these YAMLs sets `run.debug`; one that cannot be read does not."""
    for config in configs:
        with suppress(OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, UserError):
            check_extent(Path(config))
            content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
            run = content.get("run") if isinstance(content, dict) else None
            if isinstance(run, dict) and run.get("debug") is True:
                return True
    return False


def banner(*summaries: Mapping[str, Any]) -> str:
    """Return the note and an empty line that stand above the numbers of debug runs; "" if none of these is one.

    Args:
        summaries: contents of `run.json`.
    """
    return f"**{DEBUG_NOTE}**\n\n" if any(summary.get("debug") for summary in summaries) else ""


def goes_on(run: RunSettings, checkpoint: str | Path | None) -> bool:
    """Whether a run goes on in its own folder: `run.version` names an unfinished one, and the checkpoint lies in it."""
    if not (run.version and checkpoint):
        return False
    folder = run.all_versions / run.version
    return Path(checkpoint).resolve().parent.parent == folder.resolve() and not (folder / RUN_FILE).exists()


def claim_run_folder(run: RunSettings, checkpoint: str | Path | None = None) -> Path:
    """Make and return the folder of a new run.

    All processes of a run get the same folder: those that this one starts, and those of a job of torchrun or srun.

    Args:
        run: where it goes.
        checkpoint: the one that it begins with. If it lies in the run's own folder, the run goes on there.

    Raises:
        UserError: the version exists already, or the folder cannot be made, or the processes cannot agree on one.
    """
    if "LOCAL_RANK" in os.environ and _HANDED_DOWN in os.environ:
        return Path(os.environ[_HANDED_DOWN])
    if job := _job(os.environ):
        rank, name = job
        version = run.version or name
        if version is None:
            raise UserError(
                "run.version: torchrun has started several processes, which need a common folder; give "
                "--run.version, or torchrun --standalone or --rdzv-id"
            )
        run = replace(run, version=version)
        if rank > 0:
            return _made_by_first(run.all_versions / version)
    number = 1
    while True:
        folder = run.all_versions / (run.version or f"{number:03d}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            if goes_on(run, checkpoint):
                os.environ[_HANDED_DOWN] = str(folder)
                return folder
            if run.version:
                raise UserError(f"run.version: {folder} exists already; nothing was overwritten") from error
            if not run.all_versions.is_dir():
                raise UserError(f"run.folder: {run.all_versions} is not a folder") from error
            number += 1
        except OSError as error:
            raise UserError(f"run.folder: cannot make {folder} ({error.strerror})") from error
        else:
            os.environ[_HANDED_DOWN] = str(folder)
            return folder


def claim_out(out: str | Path | None, name: str) -> Path:
    """Make and return the folder that a command writes into: `--out`, or else `runs/<name>/<next number>`.

    Raises:
        UserError: `--out` is not empty, or cannot be made.
    """
    if out is None:
        return claim_run_folder(RunSettings(name=name))
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"--out: {folder} is not empty; nothing was overwritten")
    except OSError as error:
        raise UserError(f"--out: cannot write into {folder} ({error.strerror})") from error
    return folder


def _job(environment: Mapping[str, str]) -> tuple[int, str | None] | None:
    """Return the rank of this process and the name of its job, if torchrun or srun has started several; else None.

    torchrun sets RANK, WORLD_SIZE and TORCHELASTIC_RUN_ID (`none` unless it was given one). srun sets SLURM_PROCID,
    SLURM_NTASKS, SLURM_JOB_ID, and SLURM_RESTART_COUNT for a job that was requeued.
    """
    get = environment.get
    if "TORCHELASTIC_RUN_ID" in environment and int(get("WORLD_SIZE", "1")) > 1:
        number = environment["TORCHELASTIC_RUN_ID"]
        return int(environment["RANK"]), None if number == "none" else f"torchrun-{number}"
    if "SLURM_PROCID" in environment and int(get("SLURM_NTASKS", "1")) > 1:
        again = f"-{get('SLURM_RESTART_COUNT')}" if get("SLURM_RESTART_COUNT", "0") != "0" else ""
        return int(environment["SLURM_PROCID"]), f"slurm-{environment['SLURM_JOB_ID']}{again}"
    return None


def _made_by_first(folder: Path) -> Path:
    """Wait until the first process has made a folder, then return it."""
    end = time.monotonic() + _PATIENCE
    while not folder.is_dir():
        if time.monotonic() > end:
            raise UserError(f"run.folder: the first process has not made {folder} within {_PATIENCE} s")
        time.sleep(0.1)
    return folder


def find_same_run(run: RunSettings, config: Mapping[str, Any]) -> Path | None:
    """Return the newest finished run of this name with the same configuration (apart from `run`), or None."""
    wanted = comparable(config)
    for folder in sorted(run.all_versions.glob("*"), reverse=True):
        if (folder / RUN_FILE).is_file() and (folder / CONFIG_FILE).is_file():
            try:
                earlier = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
                same = isinstance(earlier, dict) and comparable(earlier) == wanted
            except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
                continue
            if same and made_checkpoint(folder):
                return folder
    return None


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved configuration that affects the results of a run."""
    return {key: value for key, value in config.items() if key not in ("run", "config")}


def best_checkpoint(folder: Path) -> Path:
    """Return the path of a run's best checkpoint."""
    return folder / "checkpoints" / "best.ckpt"


def made_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint of a finished training: the best, or the last if no validation chose one; None if it kept
    none.
    """
    best = best_checkpoint(folder)
    return next((path for path in (best, best.with_name("last.ckpt")) if path.is_file()), None)


def write_run_file(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the run's summary."""
    write_whole(folder / RUN_FILE, json.dumps(content, indent=1) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file at once: if this process is killed, the file is there whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def read_run_file(folder: Path) -> dict[str, Any]:
    """Read a run's summary.

    Raises:
        UserError: it cannot be read.
    """
    path = folder / RUN_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove {folder} and run it again") from error
    return content


def code_commit() -> str | None:
    """Return the commit of the code, with `+` if files were changed since, or None outside a repository."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return re.sub(r"\s", "", done.stdout)
