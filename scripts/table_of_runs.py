"""What the scripts have in common that train many YAMLs with several seeds and write one table of them."""

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from genmeta.experiments.execute import run_all
from genmeta.experiments.run import Run


def parser(docstring: str, runs: str, seeds: list[int], **kinds: str) -> argparse.ArgumentParser:
    """Return the options that all of them have.

    Args:
        docstring: of the script.
        runs: folder of all runs.
        seeds: by default.
        kinds: option and folder of `configs` of each kind of YAMLs that is trained.
    """
    made = argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", default="glyphs", help="name of a YAML in configs/data")
    for option, kind in kinds.items():
        known = sorted(path.stem for path in Path("configs", kind).glob("*.yaml"))
        made.add_argument(
            f"--{option}", nargs="*", default=known, help=f"names of YAMLs in configs/{kind}; default all"
        )
    made.add_argument("--seeds", nargs="+", type=int, default=seeds)
    made.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at the same time, one thread each")
    made.add_argument("--runs", default=runs, help="folder of all runs")
    made.add_argument("--out", type=Path, help="Markdown file; printed only by default")
    made.add_argument("options", nargs="*", help="more options of all runs, after --")
    return made


def run_or_stop(runs: Iterable[Run], workers: int) -> None:
    """Run what is missing; exit with one line if some runs failed."""
    if failed := run_all(runs, workers):
        sys.exit(f"{len(failed)} runs are not finished: see above; run again to go on")


def write(text: str, out: Path | None) -> None:
    """Print a table, and write it into a file if one is given."""
    print(text)
    if out:
        out.write_text(text)
