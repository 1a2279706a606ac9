"""`genmeta experiment`: what `make meta-train` runs, from nothing to the table."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genmeta.cli.options import OptionParser
from genmeta.cli.run_folder import RunSettings, best_checkpoint, claim_run_folder, read_run_file
from genmeta.cli.training import TrainingCLI
from genmeta.errors import UserError, nearest
from genmeta.evaluation.comparison import Arm, check_same_episodes, difference, table
from genmeta.modules.generative_module import CodesModule

CONFIGS = Path("configs")


def experiment(args: Sequence[str]) -> None:
    """Pretrain a generator if there is none, meta-train on the mix and on real tasks only, meta-test all arms, compare.

    Raises:
        UserError: an option, a file or a size is wrong.
    """
    options = _parse(args)
    started = time.monotonic()
    name = f"{options.data.stem}-{options.learner.stem}-{options.generator.stem}"
    learner = _configs(options, options.learner)
    _check_arms(options, learner)

    print(f"generator  {options.generator} on {options.data}")
    generator = _run(
        "fit",
        *_configs(options, options.generator),
        *_settings(f"{options.generator.stem}-{options.data.stem}", options.runs, options, name),
        "--run.reuse=true",
    )
    print(f"           {'found' if generator.reused else 'trained'}: {generator.run_folder}", flush=True)

    folder = claim_run_folder(RunSettings(name=name, folder=options.runs))
    checkpoint = best_checkpoint(generator.run_folder)
    trained = {
        "mixed": ("mixed: real and generated tasks", [*learner, f"--data.generator={checkpoint}"]),
        "real_only": ("real tasks only, same steps", [*learner, f"--config={CONFIGS / 'arm' / 'real_only.yaml'}"]),
    }
    untrained = {
        "from_scratch": ("from scratch on each task", _configs(options, CONFIGS / "baseline" / "from_scratch.yaml")),
        "pixels": ("nearest neighbour on pixels", _configs(options, CONFIGS / "baseline" / "pixels.yaml")),
    }
    arms: dict[str, Arm] = {}
    for arm, (title, configs) in {**trained, **untrained}.items():
        settings = [*_settings(arm, str(folder), options, name), "--run.version"]
        weights = []
        if arm in trained:
            print(f"training   {title}", flush=True)
            fit = _run("fit", *configs, *settings, "fit")
            weights = [f"--ckpt_path={best_checkpoint(fit.run_folder)}"]
        print(f"testing    {title}", flush=True)
        test = _run("test", *configs, *settings, "test", *weights)
        summary = read_run_file(test.run_folder)
        arms[arm] = Arm(title, summary["episode_accuracies"], summary["episodes"])
    check_same_episodes(list(arms.values()))
    _report(folder, arms, generator.run_folder, options, time.monotonic() - started)


def _parse(args: Sequence[str]) -> argparse.Namespace:
    parser = OptionParser("genmeta experiment", experiment.__doc__)
    add = parser.add_argument
    add("--data", default="glyphs", help="name of a YAML in configs/data, or its path")
    add("--learner", default="protonet", help="name of a YAML in configs/learner, or its path")
    add("--generator", default="vae", help="name of a YAML in configs/generator, or its path")
    add(
        "--seed",
        type=int,
        default=0,
        help="of initial weights, training tasks and noise; test episodes are always the same",
    )
    add("--runs", default="runs", help="folder of all runs")
    add("--wandb", default="auto", choices=["auto", "online", "offline", "off"], help="Weights & Biases")
    add(
        "--config",
        action="append",
        default=[],
        help="YAML laid over those of all runs, e.g. configs/trainer/debug.yaml",
    )
    options = parser.parse_args(args)
    for kind in ("data", "learner", "generator"):
        setattr(options, kind, _find(kind, getattr(options, kind)))
    for config in options.config:
        if not Path(config).is_file():
            raise UserError(f"--config: {config}: no such file")
    return options


def _find(kind: str, name: str) -> Path:
    folder = CONFIGS / kind
    known = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    path = known.get(name, Path(name))
    if not path.is_file():
        if not known:
            raise UserError(f"{folder}: no such folder; run genmeta experiment in the project's folder")
        raise UserError(f"--{kind}: '{name}' is no file and none of {', '.join(known)}{nearest(name, known)}")
    return path


def _configs(options: argparse.Namespace, first: Path) -> list[str]:
    """Return the options of a run: its YAML, the data's, one device, then what the user lays over them."""
    laid_over = [f"--config={path}" for path in options.config]
    return [f"--config={first}", f"--config={options.data}", "--trainer.devices=1", *laid_over]


def _settings(run: str, folder: str, options: argparse.Namespace, group: str) -> list[str]:
    return [
        f"--run.name={run}",
        f"--run.folder={folder}",
        f"--run.wandb={options.wandb}",
        f"--run.group={group}",
        f"--seed_everything={options.seed}",
    ]


def _check_arms(options: argparse.Namespace, learner: list[str]) -> None:
    """Check what can be checked of the arms before time is spent on the generator."""
    TrainingCLI(["fit", *learner, f"--config={CONFIGS / 'arm' / 'real_only.yaml'}"], check_only=True)
    TrainingCLI(["test", *learner], check_only=True)
    generator = TrainingCLI(["fit", *_configs(options, options.generator)], check_only=True).model
    if not isinstance(generator, CodesModule):
        raise UserError(
            f"--generator: {options.generator} is a {type(generator).__name__}, which draws given images again, "
            f"not new classes from codes; choose a GAN or a VAE of codes"
        )


def _run(*args: str) -> TrainingCLI:
    return TrainingCLI(list(args))


def _report(folder: Path, arms: dict[str, Arm], generator: Path, options: argparse.Namespace, seconds: float) -> None:
    summary = read_run_file(folder / "mixed" / "test")
    n_episodes = {shape: len(values) for shape, values in arms["mixed"].accuracies.items()}
    text = "\n".join(
        [
            table(list(arms.values())),
            "",
            difference(arms["mixed"], arms["real_only"]),
            "",
            f"Accuracy in % on classes that neither generator nor learner has seen (split {summary['split']['name']}, "
            f"hash {summary['split']['hash']}), mean ± 95 % interval over test episodes ("
            + ", ".join(
                f"{n} of {shape}, hash {arms['mixed'].hashes[f'test/{shape}']}" for shape, n in n_episodes.items()
            )
            + f"); the same episodes in all rows; one training seed ({options.seed}).",
        ]
    )
    (folder / "results.md").write_text(text + "\n")
    results: dict[str, Any] = {
        "arms": {name: {"title": a.name, "accuracies": dict(a.accuracies)} for name, a in arms.items()},
        "episodes": dict(arms["mixed"].hashes),
        "split": summary["split"],
        "generator": str(generator),
        "seed": options.seed,
        "seconds": round(seconds, 1),
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{text}\n")
    print(f"results      {folder}/results.md, results.json  ({seconds:.0f} s)")
    print(f"checkpoints  {best_checkpoint(folder / 'mixed' / 'fit')}, {best_checkpoint(folder / 'real_only' / 'fit')}")
    print(f"generator    {best_checkpoint(generator)}, pictures in {generator / 'pictures'}")
    print(f"episodes     {folder / 'mixed' / 'fit' / 'pictures' / 'episodes.png'} (blue: real, orange: generated)")
    sys.stdout.flush()
