"""A tracker that may die: W&B writes by a process of its own, without which training goes on."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_told = False


@contextmanager
def tracker_may_die() -> Iterator[None]:
    """Go on if W&B's process has died (killed for want of memory, say); told once, in one line."""
    global _told
    try:
        yield
    except Exception as error:
        if not _of_tracker(error):
            raise
        if not _told:
            print(
                f"genmeta: W&B has stopped recording ({error}); training goes on, and metrics.csv has every number",
                file=sys.stderr,
                flush=True,
            )
            sys.unraisablehook = _quiet  # it would tell the same again when Python ends
        _told = True


def _of_tracker(error: BaseException | None) -> bool:
    return isinstance(error, ConnectionError) or type(error).__module__.startswith("wandb")


def _quiet(unraisable: Any) -> None:
    if not _of_tracker(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)
