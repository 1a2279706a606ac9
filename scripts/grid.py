"""Run many `genmeta` commands, several at a time in processes of one thread; what is finished is not run again.

For scripts that fill tables: a `Run` knows its folder, and with it its checkpoint's path, before it has run, so that a
whole grid can be written down first:

    fit = Run("protonet-seed0", ("fit", "--config=configs/learner/protonet.yaml"), "runs")
    test = Run("protonet-seed0-test", ("test", "--config=...", f"--ckpt_path={fit.checkpoint}"), "runs", after=(fit,))
    failed = run_all([fit, test], workers=2)

One grid at a time in a folder: what an earlier one left unfinished is removed and run again. After a change of code
take another folder, since a run is known by its command and the YAMLs that it names alone.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean

from genmeta.cli.run_folder import RUN_FILE, best_checkpoint, read_run_file

GENMETA = (sys.executable, "-m", "genmeta")


@dataclass(frozen=True)
class Run:
    """One command in the folder `<runs>/<name>/<version>`; the version is a hash of the command and of its YAMLs.

    Attributes:
        name: of the run.
        args: command and options, `("fit", "--config=a.yaml", …)`; `run.name`, `run.folder`, `run.version` are added.
        runs: folder of all runs.
        after: runs that must be finished before this one.
    """

    name: str
    args: tuple[str, ...]
    runs: str
    after: tuple["Run", ...] = ()

    @cached_property
    def folder(self) -> Path:
        """The run's folder."""
        digest = hashlib.sha256()
        for arg in self.args:
            digest.update(f"{arg}\0".encode())
            if arg.startswith("--config="):
                digest.update(Path(arg.removeprefix("--config=")).read_bytes())
        return Path(self.runs) / self.name / digest.hexdigest()[:10]

    @property
    def checkpoint(self) -> Path:
        """Path of the best checkpoint, also before there is one."""
        return best_checkpoint(self.folder)

    @property
    def finished(self) -> bool:
        """Whether it ran to its end, now or earlier."""
        return (self.folder / RUN_FILE).is_file()

    @property
    def summary(self) -> dict:
        """What a finished run wrote to `run.json`."""
        return read_run_file(self.folder)


def run_all(runs: Iterable[Run], workers: int, program: Sequence[str] = GENMETA) -> list[Run]:
    """Run what is not finished, in the order given where `after` allows it; return the runs that are not finished then.

    Prints a line for each run with the time that is left, by the mean time of finished runs of the same command, and
    the end of what a failed one said.
    """
    runs = list(runs)
    waiting = [run for run in runs if not run.finished]
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} finished before, {workers} at a time", flush=True)
    started, running = time.monotonic(), {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                ready = [run for run in waiting if all(needed.finished for needed in run.after)]
                for run in ready[: workers - len(running)]:
                    waiting.remove(run)
                    running[pool.submit(_run, run, program)] = run
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    _tell(running.pop(future), future, runs, workers, started)
        finally:
            waiting.clear()
            pool.shutdown(cancel_futures=True)
    return [run for run in runs if not run.finished]


def _run(run: Run, program: Sequence[str]) -> str:
    """Run a command to its end; return what it said to standard error."""
    if run.folder.exists():  # an earlier grid was stopped in it
        shutil.rmtree(run.folder)
    where = [f"--run.name={run.name}", f"--run.folder={run.runs}", f"--run.version={run.folder.name}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*program, *run.args, *where], capture_output=True, text=True, env=environment).stderr


def _tell(run: Run, future: Future[str], runs: list[Run], workers: int, started: float) -> None:
    done = [other for other in runs if other.finished]
    left = f", {_seconds_left(runs, done) / workers / 60:.0f} min left" if done else ""
    verdict = "done" if run.finished else "FAILED"
    seconds = time.monotonic() - started
    print(f"{seconds:7.0f} s  {run.name}: {verdict} ({len(done)} of {len(runs)}{left})", flush=True)
    if not run.finished:
        print(future.result()[-2000:], file=sys.stderr, flush=True)


def _seconds_left(runs: list[Run], done: list[Run]) -> float:
    seconds = {run.name: (run.args[0], run.summary["seconds"]) for run in done}
    of_all = mean(s for _, s in seconds.values())
    left = 0.0
    for run in runs:
        if run not in done:
            left += mean([s for command, s in seconds.values() if command == run.args[0]] or [of_all])
    return left
