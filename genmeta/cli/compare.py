"""`genmeta compare`: arms × seeds, tested on the same episodes: what differs, and how sure is that?"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from genmeta.cli.options import OptionParser
from genmeta.cli.tracked_results import track_results
from genmeta.cli.training import checked
from genmeta.errors import UserError
from genmeta.experiments.checks import check_comparison
from genmeta.experiments.cluster import jobs_of, read_cluster
from genmeta.experiments.execute import run_all
from genmeta.experiments.labels import labelled, version_of
from genmeta.experiments.plan import Layout, make_plan
from genmeta.experiments.run_folder import RunSettings, lays_debug
from genmeta.experiments.settings import read_on
from genmeta.experiments.write import write_comparison
from genmeta.output import command_line
from genmeta.shipped import config_file


def compare(args: Sequence[str]) -> int:
    """Train and test all arms of a YAML with all seeds; say which arms differ from the control, and how sure that is.
    It can be stopped and run again: finished runs are not repeated.

    Returns:
        0; 1 if some runs failed.

    Raises:
        UserError: an option, the YAML or an arm is wrong.
    """
    options = _parse(args)
    settings = read_on(options.config, options.data)
    debug = lays_debug([*settings.budget, *settings.generator_budget])
    folder = (options.runs or RunSettings(debug=debug).root / "compare") / settings.name
    workers, begin = options.workers, None
    if options.cluster:
        cluster = read_cluster(options.cluster)
        workers, begin = cluster.at_once, jobs_of(cluster, folder / "jobs")
    comparison = check_comparison(settings, checked)
    plan = make_plan(comparison, Layout(folder))
    if plan.account:
        print(plan.account, flush=True)
    experiment = f"{settings.name}/{version_of(plan.runs)}"
    track = [f"--run.wandb={options.wandb}"] if options.track_runs else []
    runs = labelled(plan.runs, experiment, plan.arm_of, settings.titles, f"--run.group={settings.name}", *track)
    try:
        failed = run_all(runs, workers, begin=begin)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on with: {command_line('compare', *args)}") from None
    if failed:
        print(f"{len(failed)} runs are not finished: see above; run again to go on", file=sys.stderr)
        return 1
    text, _ = write_comparison(comparison.settings, plan, folder)
    endings = sorted(path.suffix for path in folder.glob("results.*"))
    print(f"\n{text}\nresults      {folder}/results{', '.join(endings)}", flush=True)
    learners = {run.name: run.checkpoint for run in plan.fits.values()}
    own = RunSettings("compare", wandb=options.wandb, group=settings.name, experiment=experiment, debug=debug)
    track_results(own, folder, learners, artifacts=options.track_runs)
    return 0


def _parse(args: Sequence[str]) -> argparse.Namespace:
    parser = OptionParser("genmeta compare", compare.__doc__)
    add = parser.add_argument
    add("--config", required=True, type=config_file, help="a YAML of configs/compare, or your own")
    add("--data", help="a YAML of configs/data or a path, instead of the comparison's; becomes part of its name")
    add("--workers", type=int, default=os.cpu_count() or 1, help="runs at the same time, each on one thread")
    add("--runs", type=Path, help="folder of all comparisons (default runs/compare)")
    add("--wandb", default="auto", choices=["auto", "online", "offline", "off"], help="Weights & Biases: its tables")
    add("--track_runs", action="store_true", help="record every training and test in W&B too, not only the tables")
    add("--cluster", type=config_file, help="a YAML of configs/cluster: runs are its jobs, and --workers is ignored")
    options = parser.parse_args(args)
    if options.workers < 1:
        raise UserError(f"--workers: expected at least 1, found {options.workers}")
    return options
