"""Standard output, whose reader may stop: `| head`, a `tee` that died."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def say(line: str) -> None:
    """Print a line of a training. The training goes on if nobody reads its output any more."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        discard_stdout()


def command_line(*args: object) -> str:
    """Return a `genmeta` command to paste into a shell. `genmeta` may not be on its path (`make` runs the one of
    `.venv`).
    """
    beside = Path(sys.executable).with_name("genmeta")  # of this Python
    if shutil.which("genmeta") == str(beside):
        program = ["genmeta"]
    elif beside.is_file():
        program = [str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)]
    else:
        program = [sys.executable, "-m", "genmeta"]
    return shlex.join([*program, *map(str, args)])


def discard_stdout() -> None:
    """Discard the rest of standard output, also what Python flushes when it exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
