"""Meta-train a ProtoNet by every policy of configs/policy and write the table: make compare-policies.

python scripts/compare_policies.py --data omniglot_minimal --seeds 0 1 2 --workers 2 --out docs/latent-tasks-omniglot.md

All rows have the same setting (configs/table/policies.yaml): the same number of optimiser steps and of images a step.
Generators are trained first, once, with seed 0, unless checkpoints are given. Runs that are finished are not repeated.
The validation columns are what settings may be chosen by; the test columns are not.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from genmeta.evaluation.accuracy import mean_and_ci95
from genmeta.evaluation.statistics import mean_and_t95, over_episodes
from genmeta.experiments.execute import run_all
from genmeta.experiments.run import Run
from genmeta.modules.keep_ages import age_checkpoint

ROOT = Path(__file__).parents[1]
POLICIES = ROOT / "configs" / "policy"
CONTROLS = ("real", "rotations", "elastic", "elastic_quarter", "deformed_classes", "umtra", "untrained")
WITH_GAN = {"generator_classes": "generator_classes", "random_other_gan": "random_other"}
AT_TEST = ("rotations", "elastic", "hands_elastic_quarter")
CONTROL = "elastic"  # the harder one
HANDS = {
    "+30hands": "{n: 30, weight: 0.7, hands: {learned: 1.0}}",
    "+30elastic": "{n: 30, weight: 0.7, hands: {learned: 0.0, elastic: {}}}",
}
WITHIN = {"omniglot_minimal": (15, 20), "glyphs": (20, 20)}  # ways within an alphabet, validation and test


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="omniglot_minimal", choices=sorted(WITHIN), help="name of a YAML in configs/data")
    add("--policies", nargs="*", help="rows; all by default")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--workers", type=int, default=os.cpu_count() or 1, help="runs at the same time, each on one thread")
    add("--runs", default="runs/compare-policies", help="folder of all runs")
    add("--out", type=Path, help="Markdown file; printed only by default")
    for role in ("vae", "gan", "vae_deformation"):
        add(f"--{role}", type=Path, help="its checkpoint, if it is not to be trained")
    add("options", nargs="*", help="more options of all learners' runs, after --")
    options = parser.parse_args()
    shipped = sorted(path.stem for path in POLICIES.glob("*.yaml"))
    names = options.policies or [*shipped, "untrained", "random_other_gan"]

    roles = ("vae", "gan", "vae_deformation", *(["untrained"] if "untrained" in names else []))
    generators = {role: generator(role, options) for role in roles}
    fits = {(name, seed): fit(name, seed, generators, options) for seed in options.seeds for name in names}
    tests = {key: test(run, "test", [""], options) for key, run in fits.items()}
    hands = {
        (name, seed, part): test(run, part, list(HANDS.values()), options)
        for (name, seed), run in fits.items()
        if name in AT_TEST
        for part in ("val", "test")
    }
    trained = [run for run in generators.values() if isinstance(run, Run)]
    if run_all([*trained, *fits.values(), *tests.values(), *hands.values()], options.workers):
        sys.exit("some runs failed: see above; run again to go on")
    text = table(names, fits, tests, hands, options)
    print(text)
    if options.out:
        options.out.write_text(text)


def generator(role: str, options: argparse.Namespace) -> Run | Path:
    """Return the run that trains a generator, or the checkpoint that was given."""
    if given := getattr(options, role, None):
        return given.resolve()
    config = "vae" if role == "untrained" else role
    args = [
        "fit",
        f"--config={ROOT}/configs/generator/{config}.yaml",
        f"--config={ROOT}/configs/data/{options.data}.yaml",
        "--run.wandb=off",
        "--trainer.devices=1",
    ]
    if role == "untrained":  # its weights before the first step; one step, so that there is a run at all
        args += ["--trainer.callbacks+=genmeta.modules.keep_ages.KeepAges", "--trainer.callbacks.steps=[0]"]
        args += ["--trainer.limit_train_batches=1", "--trainer.max_epochs=1", "--data.feature_steps=1"]
        args += ["--model.importance_samples=1"]
    return Run(f"{role}-{options.data}", tuple(args), options.runs)


def fit(name: str, seed: int, generators: dict[str, Run | Path], options: argparse.Namespace) -> Run:
    """Return the run that trains a learner by a policy."""
    config = {"untrained": "random_other", **WITH_GAN}.get(name, name)
    decoder = "untrained" if name == "untrained" else "gan" if name in WITH_GAN else "vae"
    used = {"generator": generators[decoder], "redrawer": generators["vae_deformation"]}
    args = (
        "fit",
        f"--config={ROOT}/configs/learner/protonet.yaml",
        f"--config={ROOT}/configs/table/policies.yaml",
        f"--config={ROOT}/configs/data/{options.data}.yaml",
        f"--config={POLICIES}/{config}.yaml",
        *(f"--data.{key}={checkpoint(value)}" for key, value in used.items()),
        f"--seed_everything={seed}",
        "--run.wandb=off",
        "--trainer.devices=1",
        *options.options,
    )
    after = tuple(run for run in used.values() if isinstance(run, Run))
    return Run(f"{name}-{options.data}-seed{seed}", args, options.runs, after)


def test(trained: Run, part: str, supports: list[str], options: argparse.Namespace) -> Run:
    """Return the run that tests a learner on the validation or the test classes, with these kinds of support images."""
    n_way = WITHIN[options.data][part == "test"]
    plain = supports == [""]  # generated support images take many times the time
    shapes = [
        f"n_way: 5, n_shot: 1, n_query: 15, n_episodes: {600 if plain else 300}",
        f"n_way: {n_way}, n_shot: 1, n_query: 5, n_episodes: {300 if plain else 100}, groups: within",
    ]
    if not plain:
        supports = ["", *(f", support: {support}" for support in supports)]  # and without, on the same episodes
    episodes = ", ".join(f"{{{shape}{support}}}" for shape in shapes for support in supports)
    args = (
        "test",
        *trained.args[1:],
        f"--data.test=[{episodes}]",
        f"--data.test_part={part}",
        f"--ckpt_path={trained.checkpoint}",
    )
    return Run(f"{trained.name}-{part}{'' if plain else '-hands'}", args, options.runs, (trained,))


def checkpoint(of: Run | Path) -> Path:
    """Return the checkpoint of a generator."""
    if isinstance(of, Path):
        return of
    return age_checkpoint(of.checkpoint.parent, 0) if of.name.startswith("untrained-") else of.checkpoint


def table(names: list[str], fits: dict, tests: dict, hands: dict, options: argparse.Namespace) -> str:
    """Return the Markdown tables: mean over seeds ± half width of the 95 % interval, best validation accuracy first."""
    val_within, test_within = (f"{n_way}w1s_within" for n_way in WITHIN[options.data])
    rows = []
    for name in names:
        of_seeds = [(fits[name, seed].summary, tests[name, seed].summary) for seed in options.seeds]
        validation = [100 * fitted["best"]["val/acc"] for fitted, _ in of_seeds]
        accuracies = [[100 * mean(t["episode_accuracies"][s]) for _, t in of_seeds] for s in ("5w1s", test_within)]
        seconds = mean(fitted["seconds"] for fitted, _ in of_seeds)
        cells = [label(name), *map(over_seeds, [validation, *accuracies]), f"{seconds:.0f}"]
        rows.append((mean(validation), cells))
    head = ["policy", "validation 5w1s", "test 5w1s", f"test {test_within.replace('_', ' ')}", "training (s)"]
    first = fits[names[0], options.seeds[0]].summary
    text = [
        markdown(head, [cells for _, cells in sorted(rows, key=lambda row: -row[0])]),
        f"Data: {options.data}, split {first['split']['name']} ({first['split']['hash']}). Accuracy in %, mean over "
        f"seeds {', '.join(map(str, options.seeds))} ± half the 95 % interval over seeds (Student's t); the same test "
        f"episodes for all rows: 600 of 5w1s, 300 within an alphabet; {first['steps']} steps of 60 images for all. "
        f"Sorted by validation accuracy (300 episodes). {options.workers} runs at a time, one thread each.",
    ]
    if names := [name for name in names if name in AT_TEST]:
        text += support_tables(names, hands, (("val", val_within), ("test", test_within)), options)
    return "\n\n".join(text) + "\n"


def support_tables(
    names: list[str], hands: dict, within: Sequence[tuple[str, str]], options: argparse.Namespace
) -> list[str]:
    """Return the tables of learners with and without generated support images, and the paired differences to CONTROL.

    Args:
        within: part and shape of the episodes within a group.
    """
    columns = [(part, shape) for part, of_groups in within for shape in ("5w1s", of_groups)]
    found = {
        (name, suffix): [
            [hands[name, seed, part].summary["episode_accuracies"][shape + suffix] for seed in options.seeds]
            for part, shape in columns
        ]
        for name in names
        for suffix in ["", *HANDS]
    }
    rows, differences = [], []
    for (name, suffix), of_columns in found.items():
        what = [label(name), f"and {suffix[1:3]} {suffix[3:]}" if suffix else "one real image"]
        rows.append([*what, *(over_seeds([100 * mean(values) for values in seeds]) for seeds in of_columns)])
        if CONTROL in names and (name, suffix) != (CONTROL, ""):
            pairs = zip(of_columns, found[CONTROL, ""], strict=True)
            differences.append([*what, *(difference(seeds, control) for seeds, control in pairs)])
    head = ["trained by", "support", *(f"{part} {shape.replace('_', ' ')}" for part, shape in columns)]
    text = [
        markdown(head, rows),
        "The same learners with 30 generated versions beside the one support image of each class, 70 % of its "
        "prototype: by learned hands, and by hand-made elastic deformation; the first 300 and 100 of the episodes.",
    ]
    if differences:
        text += [
            markdown(head, differences),
            f"The same, minus `{CONTROL}` with one real image: points, paired by seed and episode, ± half the 95 % "
            f"interval over seeds ± that over episodes.",
        ]
    return text


def difference(seeds: list[list[float]], control: list[list[float]]) -> str:
    """Return the paired difference in points, with its intervals over seeds and over episodes."""
    deltas = [
        [100 * (a - b) for a, b in zip(mine, theirs, strict=True)] for mine, theirs in zip(seeds, control, strict=True)
    ]
    middle, episodes = mean_and_ci95(over_episodes(deltas).tolist())
    _, of_seeds = mean_and_t95([mean(of_seed) for of_seed in deltas])
    return f"{middle:+.1f} ± {of_seeds:.1f} ± {episodes:.1f}"


def label(name: str) -> str:
    """Return the name of a row."""
    return f"`{name}`{' (control)' if name in CONTROLS else ''}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def over_seeds(values: list[float]) -> str:
    """Return mean ± half width of the 95 % interval over seeds."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    middle, half = mean_and_t95(values)
    return f"{middle:.1f} ± {half:.1f}"


if __name__ == "__main__":
    main()
