"""`genmeta experiment`: what `make meta-train` runs, from nothing to the table."""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from genmeta.cli.options import OptionParser
from genmeta.cli.tracked_results import track_results
from genmeta.cli.training import checked
from genmeta.errors import UserError
from genmeta.experiments.checks import Checked, check_comparison
from genmeta.experiments.default import default_settings
from genmeta.experiments.execute import run_all
from genmeta.experiments.expected import expected_seconds
from genmeta.experiments.labels import labelled
from genmeta.experiments.plan import Layout, Plan, make_plan
from genmeta.experiments.run import Run
from genmeta.experiments.run_folder import RunSettings, claim_run_folder, find_same_run, lays_debug, write_whole
from genmeta.experiments.settings import ROLES
from genmeta.experiments.write import write_comparison
from genmeta.output import command_line
from genmeta.shipped import config_file, find_config

PLAN_FILE = "experiment.json"  # identity of the experiment; written first


def experiment(args: Sequence[str]) -> int:
    """Pretrain the generators that are needed, meta-train with them and without, meta-test, compare. The same command
    goes on where it was stopped.

    It runs the comparison of configs/compare/default.yaml, with these options laid over it.

    Returns:
        0; 1 if some runs failed.

    Raises:
        UserError: an option, a file or a size is wrong.
    """
    started = time.monotonic()
    options = _parse(args)
    comparison = check_comparison(default_settings(options, checked), checked)
    folder, versions = _taken_up(comparison, options.runs) or _begun(comparison, options.runs)
    plan = plan_in(folder, versions, comparison, options.runs, options.wandb)
    print(_told(comparison, plan, folder), flush=True)
    label = f"{comparison.settings.name}/{folder.name}"
    try:
        failed = run_all(labelled(plan.runs, label, plan.arm_of, comparison.settings.titles), options.workers)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on with: {command_line('experiment', *args)}") from None
    if failed:
        print(f"{len(failed)} runs are not finished: see above; run again to go on", file=sys.stderr)
        return 1
    text, _ = write_comparison(comparison.settings, plan, folder)
    print(f"\n{text}\n{_where_things_are(comparison, plan, folder, time.monotonic() - started)}", flush=True)
    learners = {f"{arm}-seed{seed}": run.checkpoint for (_, arm, seed), run in plan.fits.items()}
    name = comparison.settings.name
    run = RunSettings(name, group=name, wandb=options.wandb, debug=options.debug, experiment=label)
    track_results(run, folder, learners)
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
        help="first seed, of initial weights, training tasks and noise; test episodes are always the same",
    )
    add("--n_seeds", type=int, default=2, help="number of seeds: the first one, the next one, …")
    add(
        "--full",
        action="store_true",
        help="also arms that learn from scratch, and generated support images for all arms",
    )
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


def plan_in(folder: Path, versions: Mapping[str, str], comparison: Checked, runs: str, wandb: str) -> Plan:
    """Return the runs of an experiment.

    Args:
        folder: of the experiment.
        versions: of the runs of the needed generators, by role.
        comparison: the checked comparison.
        runs: folder of all runs, also of the generators.
        wandb: as in `RunSettings`.
    """
    options = (f"--run.wandb={wandb}", f"--run.group={comparison.settings.name}")
    expected = expected_seconds(comparison)
    alone = make_plan(comparison, Layout(Path(runs), options, expected=expected))
    generators = {
        role: replace(run, name=_generator_name(comparison, role), version=versions[role])
        for (role, _), run in alone.generators.items()
    }
    return make_plan(comparison, Layout(folder, options, True, generators, expected))


def _generator_name(comparison: Checked, role: str) -> str:
    return f"{Path(getattr(comparison.settings, role)).stem}-{Path(comparison.settings.data).stem}"


def _digest(comparison: Checked) -> str:
    """Return a hash of the commands of all runs: everything that affects the results."""
    plan = make_plan(comparison, Layout(Path(), ()))
    return hashlib.sha256(" ".join(str(run.folder) for run in plan.runs).encode()).hexdigest()


def _taken_up(comparison: Checked, runs: str) -> tuple[Path, dict[str, str]] | None:
    """Return the folder of a stopped experiment with the same settings, and its generators' versions."""
    digest = _digest(comparison)
    for path in sorted((Path(runs) / comparison.settings.name).glob(f"*/{PLAN_FILE}")):
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
            same = plan["digest"] == digest and plan["generators"].keys() == comparison.parts.keys() & set(ROLES)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        if same and not (path.parent / "results.json").exists():
            print(f"going on in {path.parent}, where the same experiment was stopped", flush=True)
            return path.parent, {role: str(version) for role, version in plan["generators"].items()}
    return None


def _begun(comparison: Checked, runs: str) -> tuple[Path, dict[str, str]]:
    """Make the folder of a new experiment. Return it with the versions of its generators: finished ones with the same
    configuration, or new ones.
    """
    generators = {}
    for role in (role for role in ROLES if role in comparison.parts):
        run = RunSettings(name=_generator_name(comparison, role), folder=runs)
        config = yaml.safe_load(comparison.parts[role].resolved())
        generators[role] = (find_same_run(run, config) or claim_run_folder(run)).name
    folder = claim_run_folder(RunSettings(name=comparison.settings.name, folder=runs))
    os.environ.pop("GENMETA_RUN_FOLDER", None)  # set by claim_run_folder, but this is no run's folder
    write_whole(folder / PLAN_FILE, json.dumps({"digest": _digest(comparison), "generators": generators}) + "\n")
    return folder, generators


def _told(comparison: Checked, plan: Plan, folder: Path) -> str:
    """Return the lines that say what will run."""
    settings = comparison.settings
    seeds = f"seed{'s' if len(settings.seeds) > 1 else ''} {', '.join(map(str, settings.seeds))}"
    lines = [f"experiment   {folder}"]
    lines += [f"data         {plan.account}"] if plan.account else []
    for role, run in _generators(plan).items():
        lines.append(f"{role:12} {run.folder}{' (comparison)' if run.finished else ''}")
    titles = "; ".join(arm.title for arm in settings.arms.values() if arm.train)
    lines.append(f"learners     {len(plan.fits)} of {Path(settings.learner).stem}, {seeds}: {titles}")
    lines.append(f"tests        {len(set(plan.tests.values()))}, on the same episodes")
    return "\n".join(lines)


def _generators(plan: Plan) -> dict[str, Run]:
    return {role: run for (role, _), run in plan.generators.items()}


def _where_things_are(comparison: Checked, plan: Plan, folder: Path, seconds: float) -> str:
    """Return the lines that say where results, checkpoints and pictures are."""
    first, *others = (run for (_, arm, _), run in plan.fits.items() if arm == comparison.settings.subject)
    lines = [
        f"results      {folder}/results.md, results.json  ({seconds:.0f} s)",
        f"checkpoints  {', '.join(str(run.checkpoint) for run in (first, *others[:1]))}, …",
    ]
    for role, run in _generators(plan).items():
        lines.append(f"{role:12} {run.checkpoint}, pictures in {run.folder}/pictures")
    lines.append(f"episodes     {first.folder / 'pictures' / 'episodes.png'}")
    return "\n".join(lines)
