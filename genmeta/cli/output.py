"""Standard output that somebody may stop reading: `| head`, a `tee` that died."""

import os
import sys


def say(line: str) -> None:
    """Print a line of a training, which goes on where nobody reads it any more."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        discard_stdout()


def discard_stdout() -> None:
    """Send the rest of standard output nowhere, also what Python flushes when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
