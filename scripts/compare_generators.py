"""Train generator YAMLs with several seeds and write the table of their metrics: make compare-generators.

python scripts/compare_generators.py --data glyphs --seeds 0 1 --workers 2 --out docs/generators-glyphs.md

Runs that are finished are not repeated, so it can be stopped and started again. Rows in italics are no models: real
training images held to the held-out ones, a redrawer that returns the training images that it is given (near copies
have the best FID: read it beside memorisation and spread), and a generator before training.
"""

import argparse
from collections.abc import Mapping
from statistics import mean

from table_of_runs import parser, run_or_stop, write

from genmeta.cli.training import checked
from genmeta.evaluation.generators import COLUMNS, count_weights, images_per_second
from genmeta.evaluation.tables import half_range, markdown_table
from genmeta.experiments.run import Run
from genmeta.models.checkpoint import load_generator
from genmeta.modules.generative_module import metrics_of_real
from genmeta.shipped import find_config

# one step of length 0: a training without steps is refused
UNTRAINED = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--model.optimizer.lr=0"]


def main() -> None:
    """Train what is missing, then write the table."""
    options = parser(__doc__, "runs/generators", [0, 1], generators="generator").parse_args()
    runs = {name: [run(name, seed, options) for seed in options.seeds] for name in ["untrained", *options.generators]}
    in_turn = [of_seed for by_seed in zip(*runs.values(), strict=True) for of_seed in by_seed]
    arm_of = {one: name for name, of_seeds in runs.items() for one in of_seeds}
    run_or_stop(in_turn, options.workers, f"generators-{options.data}", arm_of)
    real = metrics_of_real(checked(run("gan", 0, options).args).datamodule)
    measured = {"real training images": real, "redrawer that returns its input": identity(options)}
    write(table(runs, measured, options), options.out)


def run(name: str, seed: int, options: argparse.Namespace) -> Run:
    """Return the training of a generator; `untrained` is the GAN's YAML with its first weights."""
    configs = (find_config("generator", "gan" if name == "untrained" else name), find_config("data", options.data))
    args = [*(f"--config={path}" for path in configs), "--run.wandb=off", f"--seed_everything={seed}"]
    args += UNTRAINED if name == "untrained" else []
    return Run(f"{name}-{options.data}-seed{seed}", ("fit", *args, *options.options), options.runs)


def drawing(of: Run) -> tuple[str, str]:
    """Return the cells of the number of weights of what draws, and of the images that it draws a second."""
    if not of.checkpoint.is_file():
        return "0", ""  # it was not trained
    model = load_generator(of.checkpoint)
    return f"{count_weights(model):,}", f"{images_per_second(model):,.0f}"


def identity(options: argparse.Namespace) -> dict[str, float]:
    """Return the metrics of a redrawer that returns the images that it is given."""
    parts = checked(run("vae_deformation", 0, options).args)
    parts.model.redraw = lambda images, rng: images
    parts.trainer.datamodule, parts.model.trainer = parts.datamodule, parts.trainer
    return {name: value for name, value in parts.model.report().items() if name in COLUMNS}


def table(runs: Mapping[str, list[Run]], measured: Mapping[str, dict], options: argparse.Namespace) -> str:
    """Return the Markdown table: means over seeds, with half the range between them after ±."""
    found = {name: [run.summary for run in of_seeds] for name, of_seeds in runs.items()}
    rows = [
        ["YAML", *(title for title, _ in COLUMNS.values()), "collapsed", "steps", "weights", "time (s)", "samples/s ↑"]
    ]
    for title, values in measured.items():
        cells = [f"{values[key]:.{digits}f}" if key in values else "" for key, (_, digits) in COLUMNS.items()]
        rows.append([f"*{title}*", *cells, *5 * [""]])
    for name in sorted(found, key=lambda name: mean(one["report"]["fid"] for one in found[name])):
        cells = ["*untrained generator*" if name == "untrained" else f"`{name}`"]
        for key, (_, digits) in COLUMNS.items():
            cells.append(half_range([one["report"][key] for one in found[name] if key in one["report"]], digits))
        collapsed = sum(one["report"]["collapsed"] for one in found[name])
        steps, seconds = (mean(one[key] for one in found[name]) for key in ("steps", "seconds"))
        weights, speed = drawing(runs[name][0])
        rows.append(
            [*cells, f"{collapsed:.0f} of {len(found[name])}", f"{steps:.0f}", weights, f"{seconds:.0f}", speed]
        )
    features = {one["features"] for of_seeds in found.values() for one in of_seeds}
    return (
        f"{markdown_table(rows)}\n\nData: {options.data}. Means over seeds {', '.join(map(str, options.seeds))}, "
        f"± half the range between them. Feature network: {'; '.join(sorted(features))}. "
        f"{options.workers} runs at a time; samples/s: by one thread, after all training.\n"
    )


if __name__ == "__main__":
    main()
