"""What scripts share that train many YAMLs with several seeds and write one table."""

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from genmeta.experiments.execute import run_all
from genmeta.experiments.labels import labelled, version_of
from genmeta.experiments.run import Run


def parser(
    docstring: str, runs: str, seeds: Sequence[int] = (), data: str | None = "glyphs", **kinds: str
) -> argparse.ArgumentParser:
    """Return the options that all of these scripts have.

    Args:
        docstring: of the script.
        runs: folder of all runs.
        seeds: the default; without any there is no such option.
        data: the default; None: that of the script's YAML.
        kinds: for each kind of YAMLs, the option and the folder of `configs`.
    """
    made = argparse.ArgumentParser(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", default=data, help="a YAML of configs/data, or a path")
    for option, kind in kinds.items():
        known = sorted(path.stem for path in Path("configs", kind).glob("*.yaml"))
        made.add_argument(
            f"--{option}", nargs="*", default=known, help=f"names of YAMLs in configs/{kind}; default all"
        )
    if seeds:
        made.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    made.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at the same time, one thread each")
    made.add_argument("--runs", default=runs, help="folder of all runs")
    made.add_argument("--out", type=Path, help="Markdown file; printed only by default")
    made.add_argument("options", nargs="*", help="more options of all runs, after --")
    return made


def run_or_stop(
    runs: Iterable[Run],
    workers: int,
    name: str = "",
    arm_of: Mapping[Run, str] | None = None,
    titles: Mapping[str, str] | None = None,
) -> None:
    """Run what is missing; exit with one line if some runs failed.

    Args:
        runs: all of them.
        workers: how many at the same time.
        name: of the comparison. With it the runs have the labels that W&B groups by.
        arm_of: the arm of each run.
        titles: of the arms, in words; their names by default.
    """
    runs = list(runs)
    if name:
        experiment = f"{name}/{version_of(runs)}"
        runs = labelled(runs, experiment, arm_of or {}, titles or {}, f"--run.group={name}")
    if failed := run_all(runs, workers):
        sys.exit(f"{len(failed)} runs are not finished: see above; run again to go on")


def write(text: str, out: Path | None) -> None:
    """Print a table, and write it into a file if one is given."""
    print(text)
    if out:
        out.write_text(text)
