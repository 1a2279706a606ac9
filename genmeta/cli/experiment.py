"""`genmeta experiment`: what `make meta-train` runs, from nothing to the table."""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from genmeta.cli.lineage import describe_inputs, log_inputs, log_results
from genmeta.cli.options import OptionParser
from genmeta.cli.tracking import tracking
from genmeta.cli.training import checked
from genmeta.errors import UserError
from genmeta.experiments.default_plan import TRAINED, Grid, Settings, check_settings, make_grid
from genmeta.experiments.default_results import where_things_are, write_experiment
from genmeta.experiments.execute import run_all
from genmeta.experiments.results import Arm
from genmeta.experiments.run_folder import RunSettings, claim_run_folder, find_same_run, lays_debug, write_whole
from genmeta.output import command_line
from genmeta.shipped import config_file, find_config

PLAN_FILE = "experiment.json"  # what the experiment is of; written first


def experiment(args: Sequence[str]) -> int:
    """Pretrain the generators that are needed if there are none, meta-train with them and without, meta-test, compare.
    Stopped at any moment, the same command goes on where it was.

    Returns:
        0; 1 if some runs failed.

    Raises:
        UserError: an option, a file or a size is wrong.
    """
    started = time.monotonic()
    options = _parse(args)
    settings = check_settings(options, checked)
    folder, generators = _taken_up(settings) or _begun(settings)
    grid = make_grid(settings, folder, generators)
    print(_plan(settings, grid, folder), flush=True)
    try:
        failed = run_all(grid.runs, options.workers)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on with: {command_line('experiment', *args)}") from None
    if failed:
        print(f"{len(failed)} runs are not finished: see above; run again to go on", file=sys.stderr)
        return 1
    text, arms = write_experiment(settings, grid, folder)
    print(f"\n{text}\n\n{where_things_are(grid, folder, time.monotonic() - started)}", flush=True)
    learners = {f"{arm}-seed{seed}": run.checkpoint for (arm, seed), run in grid.fits.items()}
    run = RunSettings(name=settings.name, group=settings.name, wandb=options.wandb, debug=options.debug)
    _track(run, folder, arms, learners)
    return 0


def _parse(args: Sequence[str]) -> argparse.Namespace:
    parser = OptionParser("genmeta experiment", experiment.__doc__)
    add = parser.add_argument
    add("--data", default="glyphs", help="name of a YAML in configs/data, or its path")
    add("--learner", default="protonet", help="name of a YAML in configs/learner, or its path")
    add("--policy", help="name of a YAML in configs/policy, or its path, laid over the learner's; none by default")
    add("--generator", default="vae", help="name of a YAML in configs/generator, or its path: draws from codes")
    add("--redrawer", default="vae_deformation", help="the same, of a model that draws given images again")
    add(
        "--seed",
        type=int,
        default=0,
        help="first seed: it decides initial weights, training tasks and noise; test episodes never change",
    )
    add("--n_seeds", type=int, default=2, help="trainings of each arm: with the first seed, the next one, …")
    add("--full", action="store_true", help="learning from scratch too, and generated support images for all arms")
    add("--workers", type=int, default=os.cpu_count() or 1, help="runs at the same time, each on one thread")
    add("--runs", help="folder of all runs (default runs; runs/debug with configs/trainer/debug.yaml)")
    add("--wandb", default="auto", choices=["auto", "online", "offline", "off"], help="Weights & Biases")
    add(
        "--config",
        action="append",
        default=[],
        help="YAML laid over those of all runs, e.g. configs/trainer/debug.yaml",
    )
    options = parser.parse_args(args)
    for name in ("n_seeds", "workers"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name}: expected at least 1, found {getattr(options, name)}")
    for kind in ("data", "learner", "policy", "generator", "redrawer"):
        if name := getattr(options, kind):
            setattr(options, kind, find_config(kind, name))
    options.config = [str(config_file(config)) for config in options.config]
    for config in options.config:
        if not Path(config).is_file():
            raise UserError(f"--config: {config}: no such file")
    options.debug = lays_debug(options.config)
    options.runs = options.runs or str(RunSettings(debug=options.debug).root)
    return options


def _taken_up(settings: Settings) -> tuple[Path, dict[str, str]] | None:
    """Return the folder of an experiment with these settings that was stopped, and its generators' versions."""
    for path in sorted((Path(settings.options.runs) / settings.name).glob(f"*/{PLAN_FILE}")):
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
            same = plan["digest"] == settings.digest and plan["generators"].keys() == settings.roles.keys()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        if same and not (path.parent / "results.json").exists():
            print(f"going on in {path.parent}, where the same experiment was stopped", flush=True)
            return path.parent, {role: str(version) for role, version in plan["generators"].items()}
    return None


def _begun(settings: Settings) -> tuple[Path, dict[str, str]]:
    """Make and return the folder of a new experiment, and the versions of its generators: finished ones with the same
    configuration, or new ones.
    """
    runs = settings.options.runs
    generators = {}
    for role, config in settings.roles.items():
        run = RunSettings(name=f"{config.stem}-{settings.options.data.stem}", folder=runs)
        generators[role] = (find_same_run(run, settings.resolved[role]) or claim_run_folder(run)).name
    folder = claim_run_folder(RunSettings(name=settings.name, folder=runs))
    os.environ.pop("GENMETA_RUN_FOLDER", None)  # of no run
    write_whole(folder / PLAN_FILE, json.dumps({"digest": settings.digest, "generators": generators}) + "\n")
    return folder, generators


def _plan(settings: Settings, grid: Grid, folder: Path) -> str:
    """Return what will run."""
    seeds = f"seed{'s' if len(settings.seeds) > 1 else ''} {', '.join(map(str, settings.seeds))}"
    lines = [f"experiment   {folder}"]
    lines += [f"data         {settings.account}"] if settings.account else []
    for role, run in grid.generators.items():
        lines.append(f"{role:12} {run.folder}{' (found)' if run.finished else ''}")
    lines.append(
        f"learners     {len(grid.fits)} of {settings.options.learner.stem}, {seeds}: {'; '.join(TRAINED.values())}"
    )
    lines.append(f"tests        {len(grid.tests)}, on the same episodes")
    return "\n".join(lines)


def _track(run: RunSettings, folder: Path, arms: Mapping[str, Arm], learners: dict[str, Path]) -> None:
    """Send the table to W&B, with the learners that it compares."""
    with tracking(run, folder, "compare") as experiment:
        if experiment is None:
            return
        import wandb

        experiment.config.update({"inputs": describe_inputs(learners)})
        log_inputs(experiment, learners)
        table = wandb.Table(columns=["arm", "episodes", "accuracy", "ci95"])
        for arm in arms.values():
            for shape in arm.shapes:
                table.add_data(arm.title, shape, *arm.over_episodes(shape))
        experiment.log({"tables/arms": table})
        log_results(experiment, run.name, folder / "results.md", folder / "results.json")
