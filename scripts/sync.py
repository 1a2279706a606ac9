"""Send the W&B runs that were recorded offline or whose server went away: python scripts/sync.py [--runs runs]."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from genmeta.cli.tracking import UNSENT, has_account, project


def main(args: Sequence[str] | None = None) -> int:
    """Send them; return the exit code: 0, 2 without an account, or that of `wandb sync`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    options = parser.parse_args(args)
    waiting, sent = offline_runs(options.runs)
    if not waiting:
        print(f"nothing to send: {options.runs} has {sent} offline runs that were sent, and none that were not")
        return 0
    if not has_account():
        print(
            f"sync: error: {len(waiting)} offline runs of {options.runs} would be sent to the W&B project "
            f"'{project()}', but there is no account: wandb login, or set WANDB_API_KEY",
            file=sys.stderr,
        )
        return 2
    print(f"sending {len(waiting)} offline runs to the W&B project '{project()}' ({sent} were sent before)", flush=True)
    command = [
        sys.executable,
        "-m",
        "wandb",
        "sync",
        "--yes",
        "--include-online",
        "--project",
        project(),
        *map(str, waiting),
    ]
    return subprocess.run(command).returncode


def offline_runs(runs: Path) -> tuple[list[Path], int]:
    """Return the folders of runs that were not sent to their end, oldest first, and the number of those sent since.

    `wandb sync` puts a file `*.wandb.synced` beside what it has sent.
    """
    files = [*runs.rglob("offline-run-*/*.wandb")]
    files += [file for mark in runs.rglob(f"run-*/{UNSENT}") for file in mark.parent.glob("*.wandb")]
    files.sort(key=lambda file: file.parent.name.removeprefix("offline-"))
    waiting = [file.parent for file in files if not file.with_name(f"{file.name}.synced").exists()]
    return waiting, len(files) - len(waiting)


if __name__ == "__main__":
    sys.exit(main())
