"""Train generator YAMLs with several seeds and write the table of their metrics: make compare-generators.

python scripts/compare_generators.py --data glyphs --seeds 0 1 --workers 2 --out docs/generators-glyphs.md

Runs that are finished are not repeated, so it can be stopped and started again. Two rows are no models: real training
images held to the held-out ones, and a generator before training.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

import torch

from genmeta.cli.training import checked
from genmeta.evaluation.samples import nearest_distance, recognisability, sample_metrics, spread_within
from genmeta.evaluation.tables import half_range, markdown_table
from genmeta.experiments.execute import run_all
from genmeta.experiments.run import Run
from genmeta.modules.generative_module import N_SAMPLES, N_WAY, evenly, real_classes
from genmeta.rng import make_rng
from genmeta.shipped import find_config

COLUMNS = {
    "fid": ("FID ↓", 2),
    "kid": ("KID ↓", 3),
    "precision": ("precision ↑", 2),
    "recall": ("recall ↑", 2),
    "density": ("density ↑", 2),
    "coverage": ("coverage ↑", 2),
    "diversity": ("diversity → 1", 2),
    "recognisability": ("recognisability ↑", 2),
    "spread": ("spread → 1", 2),
    "memorisation": ("memorisation", 2),
    "reconstruction_unseen": ("reconstruction ↓", 3),
    "iwae_held_out": ("IWAE seen", 1),
    "iwae_unseen": ("IWAE unseen", 1),
}


def main() -> None:
    """Train what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="glyphs", help="name of a YAML in configs/data")
    add("--generators", nargs="*", help="names of YAMLs in configs/generator; all by default")
    add("--seeds", nargs="+", type=int, default=[0, 1])
    add("--workers", type=int, default=os.cpu_count() or 1, help="runs at the same time, one thread each")
    add("--runs", default="runs/generators", help="folder of all runs")
    add("--out", type=Path, help="Markdown file; printed only by default")
    add("options", nargs="*", help="more options of all runs, after --")
    options = parser.parse_args()
    names = options.generators or sorted(path.stem for path in Path("configs/generator").glob("*.yaml"))
    runs = {name: [run(name, seed, options) for seed in options.seeds] for name in ["untrained", *names]}
    if run_all([of_seed for by_seed in zip(*runs.values(), strict=True) for of_seed in by_seed], options.workers):
        sys.exit("some runs failed: see above; run again to go on")
    text = table(runs, real_images(options), options)
    print(text)
    if options.out:
        options.out.write_text(text)


def run(name: str, seed: int, options: argparse.Namespace) -> Run:
    """Return the training of a generator; `untrained` is the GAN's YAML before its first step."""
    configs = (find_config("generator", "gan" if name == "untrained" else name), find_config("data", options.data))
    args = [*(f"--config={path}" for path in configs), "--run.wandb=off", f"--seed_everything={seed}"]
    args += ["--trainer.limit_train_batches=0"] if name == "untrained" else []
    return Run(f"{name}-{options.data}-seed{seed}", ("fit", *args, *options.options), options.runs)


def count_weights(of: Run) -> int:
    """Return the number of weights of the network that draws, 0 if it was not trained."""
    if not of.checkpoint.is_file():
        return 0
    content = torch.load(of.checkpoint, weights_only=True)
    networks = content["genmeta"]["networks"]
    prefix = (networks.get("decoder") or networks["redrawer"])["prefix"]
    return sum(v.numel() for k, v in content["state_dict"].items() if k.startswith(prefix))


def real_images(options: argparse.Namespace) -> dict[str, float]:
    """Return the metrics of real training images in the place of samples: what a perfect generator would reach."""
    data = checked(run("gan", 0, options).args).datamodule
    features, rng = data.features, make_rng("report")
    held_out, train = evenly(data.held_out_rows, N_SAMPLES), evenly(data.train_rows, len(data.held_out_rows))
    result = sample_metrics(features(data.rendered(held_out)), features(data.rendered(train)))
    classes = real_classes(data)
    result["recognisability"] = recognisability(classes, N_WAY, rng)
    result["spread"] = spread_within(classes) / spread_within(classes)
    half = data.train_rows[torch.arange(len(data.train_rows)) % 2 == 0]
    other = data.train_rows[torch.arange(len(data.train_rows)) % 2 == 1]
    to_train = nearest_distance(data.rendered(evenly(half, 500)), data.rendered(other)).median()
    held = nearest_distance(data.rendered(held_out), data.rendered(evenly(data.train_rows, 10_000))).median()
    result["memorisation"] = (to_train / held).item()
    return result


def table(runs: Mapping[str, list[Run]], real: Mapping[str, float], options: argparse.Namespace) -> str:
    """Return the Markdown table: means over seeds, with half the range between them after ±."""
    found = {name: [run.summary for run in of_seeds] for name, of_seeds in runs.items()}
    head = ["YAML", *(title for title, _ in COLUMNS.values()), "collapsed", "steps", "weights", "time (s)"]
    cells = [f"{real[key]:.{digits}f}" if key in real else "" for key, (_, digits) in COLUMNS.items()]
    rows = [head, ["*real training images*", *cells, "", "", "", ""]]
    for name in sorted(found, key=lambda name: mean(one["report"]["fid"] for one in found[name])):
        cells = ["*untrained generator*" if name == "untrained" else f"`{name}`"]
        for key, (_, digits) in COLUMNS.items():
            cells.append(half_range([one["report"][key] for one in found[name] if key in one["report"]], digits))
        collapsed = sum(one["report"]["collapsed"] for one in found[name])
        steps, seconds = (mean(one[key] for one in found[name]) for key in ("steps", "seconds"))
        cells += [f"{collapsed:.0f} of {len(found[name])}", f"{steps:.0f}"]
        rows.append([*cells, f"{count_weights(runs[name][0]):,}", f"{seconds:.0f}"])
    features = {one["features"] for of_seeds in found.values() for one in of_seeds}
    return (
        f"{markdown_table(rows)}\n\nData: {options.data}. Means over seeds {', '.join(map(str, options.seeds))}, "
        f"± half the range between them. Feature network: {'; '.join(sorted(features))}. "
        f"{options.workers} runs at a time.\n"
    )


if __name__ == "__main__":
    main()
