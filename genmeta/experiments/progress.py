"""What a grid of runs prints: how many are done, how long the rest takes, one live line on a terminal."""

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean

from genmeta.experiments.run import Run
from genmeta.output import say


class GridProgress:
    """Prints a line for each run that ends, and on a terminal a live line of the runs that go on.

    Args:
        runs: all of them, in the order in which they begin.
        workers: how many at the same time.
    """

    def __init__(self, runs: Sequence[Run], workers: int) -> None:
        self.runs, self.workers = runs, workers
        self.live = sys.stdout.isatty()
        self._started = time.monotonic()
        self._begun: dict[str, float] = {}  # time of begin, by label
        self._seconds: dict[str, float] = {}  # taken by finished runs, by label
        self._note_finished()
        before = len(self._seconds)
        left = self._left()
        say(f"{len(runs)} runs, {before} finished before, {workers} at a time" + (f", {in_time(left)}" if left else ""))

    def begins(self, run: Run) -> None:
        """Note that a run begins."""
        self._begun[run.label] = time.monotonic()

    def ends(self, run: Run, output: str) -> None:
        """Print that a run has ended, and the output of a failed one."""
        self._begun.pop(run.label, None)
        self._note_finished()
        left = self._left()
        verdict = "done" if run.finished else "FAILED"
        self.clear()
        say(
            f"{time.monotonic() - self._started:7.0f} s  {run.label}: {verdict} ({len(self._seconds)} of "
            f"{len(self.runs)}{f', {in_time(left)} left' if left else ''})"
        )
        for note in run.summary.get("notes", []) if run.finished else []:
            say(f"           note: {note}")
        if not run.finished:
            print(output[-2000:], file=sys.stderr, flush=True)

    def tick(self) -> None:
        """Draw the live line anew."""
        if not (self.live and self._begun):
            return
        now = time.monotonic()
        left = self._left()
        running = ", ".join(f"{name} {_clock(now - begun)}" for name, begun in self._begun.items())
        line = f"{len(self._seconds)} of {len(self.runs)}{f', {in_time(left)} left' if left else ''}: {running}"
        sys.stdout.write("\r" + line[: os.get_terminal_size().columns - 1] + "\x1b[K")
        sys.stdout.flush()

    def clear(self) -> None:
        """Remove the live line."""
        if self.live:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()

    def _note_finished(self) -> None:
        for run in self.runs:
            if run.label not in self._seconds and run.finished:
                self._seconds[run.label] = float(run.summary["seconds"])

    def _left(self) -> float | None:
        now = time.monotonic()
        elapsed = {name: now - begun for name, begun in self._begun.items()}
        return seconds_left(self.runs, self._seconds, elapsed, self.workers)


def seconds_left(
    runs: Iterable[Run], took: Mapping[str, float], elapsed: Mapping[str, float], workers: int
) -> float | None:
    """Return how long a grid still takes; None if the time of a run is not known.

    A run takes its expected time, times how much longer than expected the finished runs took. Without an expected time
    it takes the mean of finished runs of the same command. With these times the rest of the grid is simulated.

    Args:
        runs: all of them, in the order in which they begin.
        took: seconds that finished runs took, by label.
        elapsed: seconds since the start of the runs that go on, by label.
        workers: how many at the same time.
    """
    runs = list(runs)
    known = [run for run in runs if run.label in took and run.expected]
    scale = sum(took[run.label] for run in known) / sum(run.expected for run in known) if known else 1.0

    def cost(run: Run) -> float | None:
        same = [took[other.label] for other in runs if other.label in took and other.args[0] == run.args[0]]
        return run.expected * scale or (mean(same or took.values()) if took else None)

    costs = {run.label: c for run in runs if run.label not in took and (c := cost(run)) is not None}
    waiting = [run for run in runs if run.label not in took and run.label not in elapsed]
    if any(run.label not in costs for run in waiting):
        return None
    ended = set(took)
    busy = [(max(costs.get(name, 0) - seconds, 0.0), name) for name, seconds in elapsed.items()]
    now = 0.0
    while waiting or busy:
        for run in list(waiting):
            if len(busy) < workers and all(other.label in ended for other in run.after):
                waiting.remove(run)
                busy.append((now + costs[run.label], run.label))
        if not busy:  # all that is left waits for a failed run
            break
        now, name = min(busy)
        busy.remove((now, name))
        ended.add(name)
    return now


def in_time(seconds: float) -> str:
    """Return a rounded duration: `about 4 min`."""
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {max(10, 10 * round(seconds / 10))} s"


def _clock(seconds: float) -> str:
    return f"{seconds // 60:.0f}:{seconds % 60:02.0f}"
