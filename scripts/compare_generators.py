"""Train generator YAMLs with several seeds and write the table of their metrics: make compare-generators.

python scripts/compare_generators.py --data glyphs --seeds 0 1 --workers 2 --out docs/generators-glyphs.md

Runs that are finished are not repeated, so it can be stopped and started again. Each process uses its share of the
cores. Two rows are no models: real training images held to the held-out ones, and a generator before training.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

import torch

from genmeta.cli.training import TrainingCLI
from genmeta.evaluation.samples import nearest_distance, recognisability, sample_metrics, spread_within
from genmeta.experiments.run_folder import best_checkpoint
from genmeta.modules.generative_module import N_SAMPLES, N_WAY, evenly, real_classes
from genmeta.rng import make_rng

ROOT = Path(__file__).parents[1]
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
    add("--workers", type=int, default=os.cpu_count() or 1, help="runs at the same time")
    add("--runs", default="runs", help="folder of all runs")
    add("--out", type=Path, help="Markdown file; printed only by default")
    add("options", nargs="*", help="more options of all runs, after --")
    options = parser.parse_args()
    names = options.generators or sorted(path.stem for path in (ROOT / "configs" / "generator").glob("*.yaml"))
    jobs = [(name, seed) for seed in options.seeds for name in ["untrained", *names]]
    started = time.monotonic()
    with ThreadPoolExecutor(options.workers) as pool:
        results = list(pool.map(lambda job: run(*job, options, started), jobs))
    if any(result is None for result in results):
        sys.exit("some runs failed: see above; run again to go on")
    rows = {name: [r for (n, _), r in zip(jobs, results, strict=True) if n == name] for name in ["untrained", *names]}
    text = table(rows, real_images(options), options)
    print(text)
    if options.out:
        options.out.write_text(text)


def arguments(name: str, seed: int, options: argparse.Namespace) -> list[str]:
    """Return the options of one run."""
    config = "gan" if name == "untrained" else name
    untrained = ["--trainer.limit_train_batches=0"] if name == "untrained" else []
    return [
        f"--config={ROOT}/configs/generator/{config}.yaml",
        f"--config={ROOT}/configs/data/{options.data}.yaml",
        f"--run.name={name}-{options.data}-seed{seed}",
        f"--run.folder={options.runs}",
        "--run.wandb=off",
        f"--seed_everything={seed}",
        *untrained,
        *options.options,
    ]


def run(name: str, seed: int, options: argparse.Namespace, started: float) -> dict | None:
    """Train one generator in a process of its own, unless it was done before; return its run file."""
    folder = Path(options.runs) / f"{name}-{options.data}-seed{seed}"
    command = [sys.executable, "-m", "genmeta", "fit", *arguments(name, seed, options), "--run.reuse=true"]
    threads = str(max(1, (os.cpu_count() or 1) // options.workers))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": threads})
    finished = sorted(folder.glob("*/run.json"))
    print(f"{time.monotonic() - started:6.0f} s  {name} seed {seed}: {'done' if finished else 'FAILED'}", flush=True)
    if done.returncode or not finished:
        print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
        return None
    content = json.loads(finished[-1].read_text())
    if best_checkpoint(finished[-1].parent).is_file():
        content["parameters"] = count_parameters(best_checkpoint(finished[-1].parent))
    return content


def count_parameters(checkpoint: Path) -> int:
    """Return the number of weights of the network that draws."""
    content = torch.load(checkpoint, weights_only=True)
    networks = content["genmeta"]["networks"]
    prefix = (networks.get("decoder") or networks["redrawer"])["prefix"]
    return sum(v.numel() for k, v in content["state_dict"].items() if k.startswith(prefix))


def real_images(options: argparse.Namespace) -> dict[str, float]:
    """Return the metrics of real training images in the place of samples: what a perfect generator would reach."""
    cli = TrainingCLI(["fit", *arguments("gan", 0, options)], check_only=True)
    data = cli.datamodule
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


def table(rows: dict[str, list[dict]], real: dict[str, float], options: argparse.Namespace) -> str:
    """Return the Markdown table: means over seeds, with half the range between them after ±."""
    head = ["YAML", *(title for title, _ in COLUMNS.values()), "collapsed", "steps", "weights", "time (s)"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    cells = ["*real training images*"]
    cells += [f"{real[key]:.{digits}f}" if key in real else "" for key, (_, digits) in COLUMNS.items()]
    lines.append("| " + " | ".join([*cells, "", "", "", ""]) + " |")
    by_fid = sorted(rows, key=lambda name: mean(r["report"]["fid"] for r in rows[name]))
    for name in by_fid:
        cells = ["*untrained generator*" if name == "untrained" else f"`{name}`"]
        for key, (_, digits) in COLUMNS.items():
            values = [r["report"][key] for r in rows[name] if key in r["report"]]
            half = (max(values) - min(values)) / 2 if values else 0
            cells.append(f"{mean(values):.{digits}f} ± {half:.{digits}f}" if values else "")
        collapsed = sum(r["report"]["collapsed"] for r in rows[name])
        cells.append(f"{collapsed:.0f} of {len(rows[name])}")
        first = rows[name][0]
        cells += [
            f"{mean(r['steps'] for r in rows[name]):.0f}",
            f"{first.get('parameters', 0):,}",
            f"{mean(r['seconds'] for r in rows[name]):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    features = {r["features"] for runs in rows.values() for r in runs}
    seeds = ", ".join(map(str, options.seeds))
    notes = [
        "",
        f"Data: {options.data}. Means over seeds {seeds}, ± half the range between them. Feature network: "
        f"{'; '.join(sorted(features))}. {options.workers} runs at a time.",
        "",
    ]
    return "\n".join([*lines, *notes])


if __name__ == "__main__":
    main()
