"""What tracking costs: the same training with W&B offline and without it, in turns.

python benchmarks/tracking.py [--rounds 5] [--epochs 10]

Trains the learner of configs/learner/protonet.yaml on real tasks by `genmeta fit`, in processes of one thread.
Two costs are told apart: that of training (from the first batch to the last), and that of a start and an end (import,
 opening and closing the run, artifacts), which does not grow with the training. The share is of the whole
command. The arms take turns within each round, the first in every second round the other one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ARMS = {"off": ["--run.wandb=off"], "offline": ["--run.wandb=offline"]}
CODE = """
import json, sys, time
from lightning.pytorch import Callback
import genmeta.cli.training as training
seconds = {}
class Clock(Callback):
    def on_train_start(self, *_): seconds["start"] = time.monotonic()
    def on_train_end(self, *_): seconds["end"] = time.monotonic()
callbacks = training.TrainingCLI._callbacks
training.TrainingCLI._callbacks = lambda self: [*callbacks(self), Clock()]
training.TrainingCLI(sys.argv[1:])
print("SECONDS", seconds["end"] - seconds["start"])
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10, help="of 200 steps: 10 are those of make meta-train")
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ARMS}
    for number in range(options.rounds):
        for name in list(ARMS)[:: -1 if number % 2 else 1]:
            found[name].append(seconds_of(ARMS[name], options.epochs))
            print(
                f"round {number + 1}  {name:8} {found[name][-1][0]:.1f} s, training {found[name][-1][1]:.1f} s",
                flush=True,
            )
    pairs = list(zip(found["off"], found["offline"], strict=True))
    print(f"\n{options.rounds} rounds of {200 * options.epochs} steps, medians of differences within a round\n")
    print("| | off | offline | difference | share |")
    print("|---|---|---|---|---|")
    for part, name in enumerate(("whole command", "training alone")):
        off, on = (median(times[part] for times in found[arm]) for arm in ARMS)
        more = median(b[part] - a[part] for a, b in pairs)
        share = median(b[part] / a[part] - 1 for a, b in pairs)
        print(f"| {name} | {off:.2f} s | {on:.2f} s | {more:+.2f} s | {share:+.1%} |")


def seconds_of(args: list[str], epochs: int) -> tuple[float, float]:
    """Return the seconds of a whole command and those of its training."""
    with tempfile.TemporaryDirectory() as folder:
        configs = ["--config=configs/learner/protonet.yaml", "--config=configs/arm/real_only.yaml"]
        more = ["--trainer.accelerator=cpu", f"--trainer.max_epochs={epochs}", f"--run.folder={folder}"]
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", CODE, "fit", *configs, *more, *args],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[1],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return time.monotonic() - started, float(done.stdout.rsplit("SECONDS", 1)[1])


if __name__ == "__main__":
    main()
