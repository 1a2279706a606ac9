"""Run many `genmeta` commands, several at a time, each on one thread. Finished runs are not repeated.

An unfinished run goes on from its last checkpoint. Without a checkpoint it is removed and run again. If an earlier grid
was killed, its processes may still run: each holds a lock, and the new grid waits for it. So no two processes ever
write to one run's folder.

Finished runs of other code are used again, with a note.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from genmeta.errors import UserError
from genmeta.experiments.progress import GridProgress
from genmeta.experiments.run import Run
from genmeta.experiments.run_folder import code_commit
from genmeta.experiments.warm import Warm, WarmRun
from genmeta.modules.checkpoints import LAST, whole_checkpoint

_GENMETA = (sys.executable, "-m", "genmeta")
GENMETA: Sequence[str] = _GENMETA


Begin = Callable[[Sequence[Run], Sequence[str]], list[Callable[[], str]]]
"""Begins runs by a program. Returns for each run a function that waits for its end and returns its output."""


def run_all(
    runs: Iterable[Run], workers: int, program: Sequence[str] | None = None, begin: Begin | None = None
) -> list[Run]:
    """Run what is not finished, in the given order where `after` allows it.

    Prints a line for each run with the time left, and the last output of a failed run. Interrupting this process
    interrupts the runs.

    Args:
        runs: in any order.
        workers: how many at the same time.
        program: the words before a run's `args`; `genmeta` of this Python by default.
        begin: begins runs; as processes of this machine by default.

    Returns:
        The runs that are still not finished.
    """
    runs, program = list(runs), tuple(program or GENMETA)
    waiting = [run for run in runs if not run.finished]
    progress, running = GridProgress(runs, workers), dict[Future[str], Run]()
    _tell_other_code([run for run in runs if run.finished])
    with ExitStack() as stack:
        warm = None
        if begin is None:
            warm = stack.enter_context(Warm()) if program == _GENMETA and len(waiting) > 1 else None
            begin = _here(warm)
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        try:
            while True:
                ready = [run for run in waiting if all(needed.finished for needed in run.after)]
                ready = ready[: workers - len(running)]
                for run, end in zip(ready, begin(ready, program), strict=True):
                    waiting.remove(run)
                    progress.begins(run)
                    running[pool.submit(end)] = run
                if not running:
                    break
                for future in wait(running, 1 if progress.live else None, FIRST_COMPLETED).done:
                    progress.ends(running.pop(future), future.result())
                progress.tick()
        finally:
            waiting.clear()
            progress.clear()
            pool.shutdown(wait=False, cancel_futures=True)
            if warm:
                warm.stop()
            for process in list(_processes):  # there are some only if this process was interrupted
                process.terminate()
    return [run for run in runs if not run.finished]


_processes: set[subprocess.Popen[str] | WarmRun] = set()
"""The processes that run now."""


def _here(warm: Warm | None) -> Begin:
    def begin(runs: Sequence[Run], program: Sequence[str]) -> list[Callable[[], str]]:
        return [partial(run_one, run, program, warm) for run in runs]

    return begin


def run_one(run: Run, program: Sequence[str], warm: Warm | None = None) -> str:
    """Run a command to its end; return what it wrote to standard error.

    Args:
        run: the run.
        program: the words before its `args`.
        warm: begins the run in place of `program`, which must then be `genmeta`.
    """
    run.lock.parent.mkdir(parents=True, exist_ok=True)
    with run.lock.open("w") as file:
        # the process inherits the lock and holds it to its own end, even if this one is killed first
        fcntl.flock(file, fcntl.LOCK_EX)
        if run.finished:  # another process has just finished it
            return ""
        where = [f"--run.name={run.name}", f"--run.folder={run.runs}", f"--run.version={run.folder.name}"]
        if checkpoint := _stopped_at(run):
            where.append(f"--ckpt_path={checkpoint}")
        elif run.folder.exists():  # an earlier grid was stopped in it
            shutil.rmtree(run.folder)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        args = [*run.args, *run.labels, *where]
        process: subprocess.Popen[str] | WarmRun
        if warm:
            process = warm.begin(args, environment, file.fileno())
        else:
            process = subprocess.Popen(
                [*program, *args],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                pass_fds=[file.fileno()],
            )
        with process:
            _processes.add(process)
            try:
                return process.communicate()[1]
            finally:
                _processes.discard(process)


def _stopped_at(run: Run) -> Path | None:
    """Return the checkpoint from which a stopped training goes on, or None if there is no whole one."""
    last = run.folder / "checkpoints" / LAST
    if run.args[0] != "fit" or not last.parent.is_dir():
        return None
    try:
        return whole_checkpoint(last)[0]
    except UserError:
        return None


def _tell_other_code(finished: list[Run]) -> None:
    """Note which finished runs were made by other code."""
    now = code_commit()
    others = sorted({commit for run in finished if (commit := run.summary.get("commit")) not in (None, now)})
    if others:
        print(
            f"note: finished runs of other code are used again (commit {', '.join(others)}; now {now}); to run them "
            f"anew, take another folder with --runs",
            flush=True,
        )
