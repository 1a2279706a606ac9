"""Meta-train a ProtoNet by every policy of configs/policy, with several seeds, and write the table: make compare-policies.

python scripts/compare_policies.py --data omniglot_minimal --seeds 0 1 2 --workers 2 --out docs/latent-tasks-omniglot.md

All rows have the same setting (configs/table/policies.yaml): the same number of optimiser steps and of images a step.
Generators are trained first, once, with seed 0, unless checkpoints are given. Runs that are finished are not repeated.
The validation columns are what settings may be chosen by; the test columns are not.
"""

import argparse
import os
import sys
from pathlib import Path
from statistics import mean, stdev

from grid import Run, run_all
from scipy.stats import t as student

ROOT = Path(__file__).parents[1]
POLICIES = ROOT / "configs" / "policy"
CONTROLS = ("real", "rotations", "elastic", "deformed_classes", "umtra", "untrained")
WITH_GAN = {"generator_classes": "generator_classes", "random_other_gan": "random_other"}
AT_TEST = ("rotations", "elastic", "hands", "hands_elastic")  # also tested with generated support images
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
    names = options.policies or [
        *sorted(path.stem for path in POLICIES.glob("*.yaml")),
        "untrained",
        "random_other_gan",
    ]

    generators = {role: generator(role, options) for role in ("vae", "gan", "vae_deformation", "untrained")}
    fits = {(name, seed): fit(name, seed, generators, options) for seed in options.seeds for name in names}
    tests = {
        (name, seed, part): test(name, run, seed, part, generators, options)
        for (name, seed), run in fits.items()
        for part in ("val", "test")
    }
    trained = [run for run in generators.values() if isinstance(run, Run)]
    if run_all([*trained, *fits.values(), *tests.values()], options.workers):
        sys.exit("some runs failed: see above; run again to go on")
    text = table(names, fits, tests, options)
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
    args += ["--trainer.limit_train_batches=0", "--trainer.max_epochs=1"] if role == "untrained" else []
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


def test(
    name: str, trained: Run, seed: int, part: str, generators: dict[str, Run | Path], options: argparse.Namespace
) -> Run:
    """Return the run that tests a learner on the validation or the test classes."""
    n_way = WITHIN[options.data][part == "test"]
    shapes = [
        "n_way: 5, n_shot: 1, n_query: 15, n_episodes: 600",
        f"n_way: {n_way}, n_shot: 1, n_query: 5, n_episodes: 300, groups: within",
    ]
    supports = ["", *(f", support: {hands}" for hands in HANDS.values())] if name in AT_TEST else [""]
    episodes = ", ".join(f"{{{shape}{support}}}" for shape in shapes for support in supports)
    args = (
        "test",
        *trained.args[1:],
        f"--data.test=[{episodes}]",
        f"--data.test_part={part}",
        f"--ckpt_path={trained.checkpoint}",
    )
    return Run(f"{name}-{options.data}-seed{seed}-{part}", args, options.runs, (trained,))


def checkpoint(of: Run | Path) -> Path:
    """Return the checkpoint of a generator."""
    return of.checkpoint if isinstance(of, Run) else of


def table(names: list[str], fits: dict, tests: dict, options: argparse.Namespace) -> str:
    """Return the Markdown table: mean over seeds ± half width of the 95 % interval, best validation first."""
    val_within, test_within = WITHIN[options.data]
    columns = [
        ("val", "5w1s", "validation 5w1s"),
        ("val", f"{val_within}w1s_within", f"validation {val_within}w1s within"),
        ("test", "5w1s", "test 5w1s"),
        ("test", f"{test_within}w1s_within", f"test {test_within}w1s within"),
    ]
    rows = []
    for name in names:
        for suffix in ["", *HANDS] if name in AT_TEST else [""]:
            values = [
                [
                    100 * mean(tests[name, seed, part].summary["episode_accuracies"][shape + suffix])
                    for seed in options.seeds
                ]
                for part, shape, _ in columns
            ]
            label = f"`{name}`{' (control)' if name in CONTROLS else ''}"
            if suffix:
                label += f", {suffix[1:3]} {suffix[3:]} at test"
            seconds = mean(fits[name, seed].summary["seconds"] for seed in options.seeds)
            rows.append((mean(values[0]) + mean(values[1]), [label, *map(over_seeds, values), f"{seconds:.0f}"]))
    head = ["policy", *(title for _, _, title in columns), "training (s)"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cells) + " |" for _, cells in sorted(rows, key=lambda row: -row[0])]
    first = fits[names[0], options.seeds[0]].summary
    notes = [
        "",
        f"Data: {options.data}, split {first['split']['name']} ({first['split']['hash']}). Accuracy in %, mean over "
        f"seeds {', '.join(map(str, options.seeds))} ± half the 95 % interval over seeds (Student's t); 600 episodes of "
        f"5w1s, 300 within an alphabet, the same for all rows. {first['steps']} steps. Sorted by the two validation "
        f"columns. {options.workers} runs at a time.",
        "",
    ]
    return "\n".join([*lines, *notes])


def over_seeds(values: list[float]) -> str:
    """Return mean ± half width of the 95 % interval over seeds."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.1f} ± {half:.1f}"


if __name__ == "__main__":
    main()
