"""A hang is a failure, a busy machine is none: limits of processor time."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from conftest import PATIENCE


class Hang(BaseException):
    """No reader may take it for a damaged file."""


@contextmanager
def at_most(seconds: float, what: str) -> Iterator[None]:
    """End, by `Hang`, what takes more seconds of processor time, or waits for longer than PATIENCE."""

    def ring(number: int, _: object) -> None:
        raise Hang(f"{what}: more than {seconds} s" if number == signal.SIGPROF else f"{what}: waits for ever")

    before = {number: signal.signal(number, ring) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
