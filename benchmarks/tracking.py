"""What tracking costs: the same training with W&B offline and without it, in turns.

python benchmarks/tracking.py [--rounds 5] [--epochs 10]

Trains the learner of configs/learner/protonet.yaml on real tasks by `genmeta fit`, in processes of one thread.
Two costs are told apart: that of training (from the first batch to the last), and that of a start and an end (import,
opening and closing the run, artifacts), which does not grow with the training. Each in seconds of the clock, and in
seconds of the processor (of training: of the training process alone), which other work on the machine disturbs less.
What training itself spends in W&B's calls is measured directly too: it is less than runs differ on a busy machine.
The arms take turns within each round, the first in every second round the other one.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

PARTS = ("whole command", "whole command, processor", "training alone", "training alone, processor", "calls of W&B")
ARMS = {"off": ["--run.wandb=off"], "offline": ["--run.wandb=offline"]}
CODE = """
import json, sys, time
from lightning.pytorch import Callback
from wandb.sdk.wandb_run import Run
log, spent = Run.log, [0.0]
def timed(*args, **options):
    start = time.monotonic()
    log(*args, **options)
    spent[0] += time.monotonic() - start
Run.log = timed
import genmeta.cli.training as training
seconds = {}
class Clock(Callback):
    def on_train_start(self, *_): seconds["start"] = time.monotonic(), time.process_time(), spent[0]
    def on_train_end(self, *_): seconds["end"] = time.monotonic(), time.process_time(), spent[0]
callbacks = training.TrainingCLI.callbacks
training.TrainingCLI.callbacks = lambda self: [*callbacks(self), Clock()]
training.TrainingCLI(sys.argv[1:]).run()
print("SECONDS", *(b - a for a, b in zip(seconds["start"], seconds["end"])))
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10, help="of 200 steps: 10 are those of make meta-train")
    options = parser.parse_args()
    found: dict[str, list[list[float]]] = {name: [] for name in ARMS}
    for number in range(options.rounds):
        for name in list(ARMS)[:: -1 if number % 2 else 1]:
            found[name].append(seconds_of(ARMS[name], options.epochs))
            numbers = ", ".join(f"{part} {s:.1f} s" for part, s in zip(PARTS, found[name][-1], strict=True))
            print(f"round {number + 1}  {name:8} {numbers}", flush=True)
    pairs = list(zip(found["off"], found["offline"], strict=True))
    print(f"\n{options.rounds} rounds of {200 * options.epochs} steps, medians of differences within a round\n")
    print("| | off | offline | difference | share |")
    print("|---|---|---|---|---|")
    for part, name in enumerate(PARTS):
        off, on = (median(times[part] for times in found[arm]) for arm in ARMS)
        more = median(b[part] - a[part] for a, b in pairs)
        of = PARTS.index("training alone") if name == "calls of W&B" else part
        share = median((b[part] - a[part]) / a[of] for a, b in pairs)
        print(f"| {name} | {off:.2f} s | {on:.2f} s | {more:+.2f} s | {share:+.1%} |")


def seconds_of(args: list[str], epochs: int) -> list[float]:
    """Return the seconds of PARTS."""
    with tempfile.TemporaryDirectory() as folder:
        configs = ["--config=configs/learner/protonet.yaml", "--config=configs/policy/real_only.yaml"]
        more = ["--trainer.accelerator=cpu", f"--trainer.max_epochs={epochs}", f"--run.folder={folder}"]
        started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", CODE, "fit", *configs, *more, *args],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[1],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        ended, after = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        training = map(float, done.stdout.rsplit("SECONDS", 1)[1].split())
        return [ended - started, processor, *training]


if __name__ == "__main__":
    main()
