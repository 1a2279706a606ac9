"""`genmeta experiment`: what `make meta-train` runs, from nothing to the table."""

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genmeta.cli.lineage import describe_inputs, log_inputs, log_results
from genmeta.cli.options import CONFIGS, OptionParser, find_config
from genmeta.cli.roles import check_role, needed_roles
from genmeta.cli.run_folder import RunSettings, banner, best_checkpoint, claim_run_folder, lays_debug, read_run_file
from genmeta.cli.tracking import tracking
from genmeta.cli.training import TrainingCLI
from genmeta.errors import UserError
from genmeta.evaluation.accuracy import mean_and_ci95
from genmeta.evaluation.comparison import Arm, check_same_episodes, difference, table
from genmeta.modules.episodic_data import EpisodicDataModule


def experiment(args: Sequence[str]) -> None:
    """Pretrain the generators that are needed if there are none, meta-train with them and without, meta-test, compare.

    Raises:
        UserError: an option, a file or a size is wrong.
    """
    options = _parse(args)
    started = time.monotonic()
    learner = _configs(options, options.learner)
    mixed = _configs(options, options.learner, options.policy)
    roles = _roles(options, mixed)
    name = "-".join([options.data.stem, options.learner.stem, *(config.stem for config in _in_name(options, roles))])
    _check_arms(options, learner, roles)

    checkpoints, generators = [], {}
    for role, config in roles.items():
        print(f"{role:10} {config} on {options.data}")
        run = _run(
            "fit",
            *_configs(options, config),
            *_settings(f"{config.stem}-{options.data.stem}", options.runs, options, name),
            "--run.reuse=true",
        )
        print(f"           {'found' if run.reused else 'trained'}: {run.run_folder}", flush=True)
        checkpoints.append(f"--data.{role}={best_checkpoint(run.run_folder)}")
        generators[role] = str(run.run_folder)

    folder = claim_run_folder(RunSettings(name=name, folder=options.runs))
    trained = {
        "mixed": ("with the generator", mixed),
        "real_only": ("real only, with rotations", [*learner, f"--config={CONFIGS / 'arm' / 'real_only.yaml'}"]),
        "elastic": ("real only, elastic deformation", [*learner, f"--config={CONFIGS / 'arm' / 'elastic.yaml'}"]),
    }
    untrained = {
        "from_scratch": ("from scratch on each task", _configs(options, CONFIGS / "baseline" / "from_scratch.yaml")),
        "pixels": ("nearest neighbour on pixels", _configs(options, CONFIGS / "baseline" / "pixels.yaml")),
    }
    arms: dict[str, Arm] = {}
    for arm, (title, configs) in {**trained, **untrained}.items():
        settings = [*_settings(arm, str(folder), options, name), "--run.version"]
        weights: list[str] = []
        if arm in trained:
            print(f"training   {title}", flush=True)
            fit = _run("fit", *configs, *checkpoints, *settings, "fit")
            weights = [f"--ckpt_path={best_checkpoint(fit.run_folder)}", *checkpoints]
        print(f"testing    {title}", flush=True)
        test = _run("test", *configs, *settings, "test", *weights)
        arms |= _with_support(arm, title, read_run_file(test.run_folder))
        if arm in trained and "redrawer" in roles:
            beside = ["--config", str(CONFIGS / "test" / "hands.yaml")]
            test = _run("test", *configs, *beside, *settings, "test_hands", *weights)
            arms |= _with_support(arm, title, read_run_file(test.run_folder), arms[arm])
    check_same_episodes(list(arms.values()))
    _report(folder, arms, generators, options, time.monotonic() - started)
    learners = {arm: best_checkpoint(folder / arm / "fit") for arm in trained}
    _track(RunSettings(name=name, group=name, wandb=options.wandb, debug=options.debug), folder, arms, learners)


def _track(run: RunSettings, folder: Path, arms: dict[str, Arm], learners: dict[str, Path]) -> None:
    """Send the table to W&B, with the learners that it compares."""
    with tracking(run, folder, "compare") as experiment:
        if experiment is None:
            return
        import wandb

        experiment.config.update({"inputs": describe_inputs(learners)})
        log_inputs(experiment, learners)
        table = wandb.Table(columns=["arm", "episodes", "accuracy", "ci95"])
        for arm in arms.values():
            for shape, accuracies in arm.accuracies.items():
                table.add_data(arm.name, shape, *mean_and_ci95(accuracies))
        experiment.log({"tables/arms": table})
        log_results(experiment, run.name, folder / "results.md", folder / "results.json")


def _roles(options: argparse.Namespace, mixed: list[str]) -> dict[str, Path]:
    """Return which kinds of generators the learner's tasks need, and the YAML of each."""
    data = TrainingCLI(["fit", *mixed], check_only=True, set_up=False).datamodule
    if not isinstance(data, EpisodicDataModule):
        raise UserError(f"--learner: {options.learner} has no episodes")
    needed = needed_roles(data, "fit", "test")
    return {role: getattr(options, role) for role in ("generator", "redrawer") if role in needed}


def _in_name(options: argparse.Namespace, roles: dict[str, Path]) -> list[Path]:
    return [*([options.policy] if options.policy else []), *roles.values()]


def _with_support(arm: str, title: str, summary: dict[str, Any], tested: Arm | None = None) -> dict[str, Arm]:
    """Return an arm, and one more for each kind of generated support images that it was tested with.

    Episodes with generated support images are the same real ones, so that all of them pair.

    Args:
        tested: the arm without such images, if it was tested before.
    """
    arms: dict[str, Arm] = {arm: tested} if tested else {}
    for name, accuracies in summary["episode_accuracies"].items():
        base, plus, kind = name.partition("+")
        n, what = re.fullmatch(r"(\d*)(.*)", kind).groups()  # type: ignore[union-attr]
        row = f"… and {n} {what} beside each support image" if plus else title
        entry = arms.setdefault(f"{arm}{plus}{kind}", Arm(row, {}, {}))
        entry.accuracies[base] = accuracies  # type: ignore[index]
        hashes = summary["episodes"]
        entry.hashes[f"test/{base}"] = hashes.get(f"test/{base}", hashes[f"test/{name}"])  # type: ignore[index]
    return arms


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
        help="of initial weights, training tasks and noise; test episodes are always the same",
    )
    add("--runs", help="folder of all runs (default runs; runs/debug with configs/trainer/debug.yaml)")
    add("--wandb", default="auto", choices=["auto", "online", "offline", "off"], help="Weights & Biases")
    add(
        "--config",
        action="append",
        default=[],
        help="YAML laid over those of all runs, e.g. configs/trainer/debug.yaml",
    )
    options = parser.parse_args(args)
    for kind in ("data", "learner", "policy", "generator", "redrawer"):
        if name := getattr(options, kind):
            setattr(options, kind, find_config(kind, name))
    for config in options.config:
        if not Path(config).is_file():
            raise UserError(f"--config: {config}: no such file")
    options.debug = lays_debug(options.config)
    options.runs = options.runs or str(RunSettings(debug=options.debug).root)
    return options


def _configs(options: argparse.Namespace, first: Path, policy: Path | None = None) -> list[str]:
    """Return the options of a run: its YAML, the data's, the policy's, one device, then what is laid over them."""
    configs = [first, options.data, *([policy] if policy else [])]
    laid_over = [f"--config={path}" for path in options.config]
    return [*(f"--config={path}" for path in configs), "--trainer.devices=1", *laid_over]


def _settings(run: str, folder: str, options: argparse.Namespace, group: str) -> list[str]:
    return [
        f"--run.name={run}",
        f"--run.folder={folder}",
        f"--run.wandb={options.wandb}",
        f"--run.group={group}",
        f"--seed_everything={options.seed}",
    ]


def _check_arms(options: argparse.Namespace, learner: list[str], roles: dict[str, Path]) -> None:
    """Check what can be checked of the arms before time is spent on generators."""
    for arm in ("real_only", "elastic"):
        TrainingCLI(["fit", *learner, f"--config={CONFIGS / 'arm' / f'{arm}.yaml'}"], check_only=True)
    for role, config in roles.items():
        check_role(role, config, _configs(options, config))


def _run(*args: str) -> TrainingCLI:
    return TrainingCLI(list(args))


def _report(
    folder: Path, arms: dict[str, Arm], generators: dict[str, str], options: argparse.Namespace, seconds: float
) -> None:
    summary = read_run_file(folder / "mixed" / "test")
    n_episodes = {shape: len(values) for shape, values in arms["mixed"].accuracies.items()}
    beside = [name for name in arms if name.startswith("mixed+")]
    pairs = [("mixed", "real_only"), ("mixed", "elastic"), *((name, "mixed") for name in beside)]
    text = "\n".join(
        [
            table(list(arms.values())),
            "",
            *(difference(arms[first], arms[second]) for first, second in pairs),
            "",
            f"Accuracy in % on classes that neither generator nor learner has seen (split {summary['split']['name']}, "
            f"hash {summary['split']['hash']}), mean ± 95 % interval over test episodes ("
            + ", ".join(
                f"{n} of {shape}, hash {arms['mixed'].hashes[f'test/{shape}']}" for shape, n in n_episodes.items()
            )
            + f"); the same episodes in all rows; one training seed ({options.seed}).",
        ]
    )
    text = banner(summary) + text
    (folder / "results.md").write_text(text + "\n")
    results: dict[str, Any] = {
        "arms": {name: {"title": a.name, "accuracies": dict(a.accuracies)} for name, a in arms.items()},
        "episodes": dict(arms["mixed"].hashes),
        "split": summary["split"],
        **generators,
        "seed": options.seed,
        "seconds": round(seconds, 1),
        **({"debug": True} if options.debug else {}),
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{text}\n")
    print(f"results      {folder}/results.md, results.json  ({seconds:.0f} s)")
    print(f"checkpoints  {best_checkpoint(folder / 'mixed' / 'fit')}, {best_checkpoint(folder / 'real_only' / 'fit')}")
    for role, run in generators.items():
        print(f"{role:12} {best_checkpoint(Path(run))}, pictures in {run}/pictures")
    print(f"episodes     {folder / 'mixed' / 'fit' / 'pictures' / 'episodes.png'}")
    sys.stdout.flush()
