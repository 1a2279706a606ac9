"""One `genmeta` command and its folder.

A `Run` knows its folder and its checkpoint's path before it has run. So a whole comparison can be planned first:

    fit = Run("protonet-seed0", ("fit", "--config=configs/learner/protonet.yaml"), "runs")
    test = Run("protonet-seed0-test", ("test", "--config=...", f"--ckpt_path={fit.checkpoint}"), "runs", after=(fit,))
    failed = run_all([fit, test], workers=2)

A run's identity is its command and what the YAMLs in it say. Comments in a YAML do not count.
"""

import fcntl
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

import yaml

from genmeta.errors import UserError
from genmeta.experiments.run_folder import RUN_FILE, best_checkpoint, read_run_file
from genmeta.shipped import with_config_files


@dataclass(frozen=True)
class Run:
    """One command and its folder `<runs>/<name>/<version>`.

    Attributes:
        name: of the run.
        args: command and options, `("fit", "--config=a.yaml", …)`; `run.name`, `run.folder`, `run.version` are added.
        runs: folder of all runs.
        after: runs that must be finished before this one.
        version: of the run; by default a hash of the command and of its YAMLs, so that another command is another run.
        expected: seconds that it takes on a core of its own, to estimate the time left; 0: not known.
        labels: more options that change no result, such as `--run.arm=real`; they are no part of its identity.
    """

    name: str
    args: tuple[str, ...]
    runs: str
    after: tuple["Run", ...] = ()
    version: str = ""
    expected: float = 0.0
    labels: tuple[str, ...] = field(default=(), compare=False)

    @cached_property
    def folder(self) -> Path:
        """The run's folder."""
        if self.version:
            return Path(self.runs) / self.name / self.version
        digest = hashlib.sha256()
        for arg in with_config_files(self.args):  # these include the YAML of configs/tasks that a learner names
            digest.update(f"{arg}\0".encode())
            if arg.startswith("--config="):
                digest.update(_meaning(Path(arg.removeprefix("--config=")).read_bytes()))
        return Path(self.runs) / self.name / digest.hexdigest()[:10]

    def labelled(self, labels: Iterable[str]) -> "Run":
        """Return the same run with these labels."""
        return replace(self, labels=tuple(labels))

    @property
    def label(self) -> str:
        """What it is called while it runs."""
        return f"{self.name} {self.version}" if self.version else self.name

    @property
    def checkpoint(self) -> Path:
        """Path of the best checkpoint, even before it exists."""
        return best_checkpoint(self.folder)

    @property
    def finished(self) -> bool:
        """Whether it ran to its end, now or earlier.

        If its summary cannot be read while a process holds the run's lock, it is still being written, or still on its
        way from another machine. If no process holds the lock, it is damaged: `summary` raises the error.
        """
        if not (self.folder / RUN_FILE).is_file():
            return False
        try:
            read_run_file(self.folder)
        except UserError:
            return not self.running
        return True

    @property
    def running(self) -> bool:
        """Whether a process holds the run's lock."""
        try:
            with self.lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @property
    def lock(self) -> Path:
        """The file that the run's process locks."""
        return self.folder.with_name(f".{self.folder.name}.lock")

    @property
    def summary(self) -> dict:
        """Content of a finished run's `run.json`."""
        return read_run_file(self.folder)


@cache
def _meaning(content: bytes) -> bytes:
    """Return what a YAML says, without comments and layout; the content itself if it is no YAML."""
    try:
        return repr(yaml.safe_load(content)).encode()
    except (yaml.YAMLError, RecursionError):
        return content
