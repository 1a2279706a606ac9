"""`genmeta compare`: arms × seeds, tested on the same episodes, with what differs and how sure that is."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from genmeta.cli.cluster import jobs_of, read_cluster
from genmeta.cli.compare_grid import make_grid
from genmeta.cli.compare_results import write_results
from genmeta.cli.compare_settings import read_settings
from genmeta.cli.grid import run_all
from genmeta.cli.options import OptionParser, find_config
from genmeta.cli.output import command_line
from genmeta.cli.run_folder import RunSettings, lays_debug
from genmeta.errors import UserError


def compare(args: Sequence[str]) -> int:
    """Train and test all arms of a YAML with all seeds, then say which differs from the control and how sure that is.
    Finished runs are not repeated: stop it, run it again.

    Returns:
        0; 1 if some runs failed.

    Raises:
        UserError: an option, the YAML or an arm is wrong.
    """
    options = _parse(args)
    settings = read_settings(options.config)
    if options.data:
        data = find_config("data", options.data).stem
        settings = replace(settings, data=options.data, name=f"{settings.name}-{data}")
    debug = lays_debug([*settings.budget, *settings.generator_budget])
    folder = (options.runs or RunSettings(debug=debug).root / "compare") / settings.name
    workers, begin = options.workers, None
    if options.cluster:
        cluster = read_cluster(options.cluster)
        workers, begin = cluster.at_once, jobs_of(cluster, folder / "jobs")
    grid = make_grid(settings, folder)
    if grid.account:
        print(grid.account, flush=True)
    try:
        failed = run_all(grid.runs, workers, begin=begin)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on with: {command_line('compare', *args)}") from None
    if failed:
        print(f"{len(failed)} runs are not finished: see above; run again to go on", file=sys.stderr)
        return 1
    text = write_results(settings, grid, folder)
    print(f"\n{text}\nresults      {folder}/results.md, .csv, .tex, .png, .json", flush=True)
    return 0


def _parse(args: Sequence[str]) -> argparse.Namespace:
    parser = OptionParser("genmeta compare", compare.__doc__)
    add = parser.add_argument
    add("--config", required=True, type=Path, help="a YAML of configs/compare, or your own")
    add("--data", help="a YAML of configs/data or a path, in place of the comparison's; becomes part of its name")
    add("--workers", type=int, default=os.cpu_count() or 1, help="runs at the same time, each on one thread")
    add("--runs", type=Path, help="folder of all comparisons (default runs/compare)")
    add("--cluster", type=Path, help="a YAML of configs/cluster: runs are jobs of a cluster; --workers does not count")
    options = parser.parse_args(args)
    if options.workers < 1:
        raise UserError(f"--workers: expected at least 1, found {options.workers}")
    return options
