"""Run many `genmeta` commands, several at a time in processes of one thread; what is finished is not run again.

What an earlier grid left unfinished goes on from its last checkpoint; what has none is removed and run again. A process
that an earlier grid left running when it was killed is waited for, by a lock that the process holds: no two processes
ever write to one run's folder.

Finished runs of other code are used again, and told.
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
"""Begins runs by a program and returns, for each, what waits for its end and returns what it said."""


def run_all(
    runs: Iterable[Run], workers: int, program: Sequence[str] | None = None, begin: Begin | None = None
) -> list[Run]:
    """Run what is not finished, in the order given where `after` allows it; return the runs that are not finished then.

    Prints a line for each run with the time that is left, and the end of what a failed one said. If this process is
    interrupted, so are the runs.

    Args:
        runs: in any order.
        workers: how many at the same time.
        program: what stands before a run's `args`; `genmeta` of this Python by default.
        begin: where they run; in processes of this machine by default.
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
            progress.close()
            pool.shutdown(wait=False, cancel_futures=True)
            if warm:
                warm.stop()
            for process in list(_processes):  # if this one was interrupted, else there are none
                process.terminate()
    return [run for run in runs if not run.finished]


_processes: set[subprocess.Popen[str] | WarmRun] = set()
"""That run now."""


def _here(warm: Warm | None) -> Begin:
    def begin(runs: Sequence[Run], program: Sequence[str]) -> list[Callable[[], str]]:
        return [partial(run_one, run, program, warm) for run in runs]

    return begin


def run_one(run: Run, program: Sequence[str], warm: Warm | None = None) -> str:
    """Run a command to its end; return what it said to standard error.

    Args:
        run: whose command it is.
        program: what stands before its `args`.
        warm: begins it, in the place of `program`, which must be `genmeta` then.
    """
    run.lock.parent.mkdir(parents=True, exist_ok=True)
    with run.lock.open("w") as file:
        # inherited by the process, which so holds it to its own end, also when this one is killed before
        fcntl.flock(file, fcntl.LOCK_EX)
        if run.finished:  # by the process that was waited for
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
    """Return the checkpoint that a training goes on from that was stopped, if there is a whole one."""
    last = run.folder / "checkpoints" / LAST
    if run.args[0] != "fit" or not last.parent.is_dir():
        return None
    try:
        return whole_checkpoint(last)[0]
    except UserError:
        return None


def _tell_other_code(finished: list[Run]) -> None:
    """Say that runs are used again that other code has run."""
    now = code_commit()
    others = sorted({commit for run in finished if (commit := run.summary.get("commit")) not in (None, now)})
    if others:
        print(
            f"note: finished runs of other code are used again (commit {', '.join(others)}; now {now}); to run them "
            f"anew, take another folder with --runs",
            flush=True,
        )
