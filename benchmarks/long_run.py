"""What grows in a long training: memory, time of a step, files. Exit code 1 if a limit is missed.

python benchmarks/long_run.py [--kinds real gan bank] [--steps 100000] [--gan_steps 5000] [--wandb off] [--folder NEW]

Runs `genmeta fit` as it is, with data module, callbacks, checkpoints and loggers, in one process of one thread, and
looks at it at 100 points:

- `real`: a tiny ProtoNet on real tasks, 2-way 1-shot, a task a step; 100 validations.
- `gan`: a tiny GAN that validates every ten steps.
- `bank`: the ProtoNet again, with tasks of that GAN from a bank that is filled anew every 1,000 steps, and an adaptive
  share of them.

The first tenth is warm-up. Limits:

- resident memory at the end: 1 % above that after the first tenth;
- a step in the last tenth: 1.1 times the time of one in the second; of the processor's time, which other work on the
  machine disturbs less, and both median and minimum must be over it;
- what a step adds to a log file in the last tenth: 1.5 times that in the second (0.0 is shorter than 0.8558);
- checkpoints in all: 1 % larger than after the first tenth;
- new files in the last tenth: 2.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

ROOT = Path(__file__).parents[1]
POINTS, TENTH = 100, 10
GROWTH, RATIO, LOG_RATIO, NEW_FILES = 0.01, 1.1, 1.5, 2  # the limits
LOGS = (".csv", ".wandb", ".log", ".jsonl")


class Watch(Callback):
    """Writes every so many steps, to a file, what the process and its run folder take.

    Args:
        out: gets a line of JSON each time, so that nothing is kept in memory.
        every: steps.
    """

    def __init__(self, out: str, every: int) -> None:
        self.out, self.every = Path(out), every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        if step % self.every:
            return
        folder = Path(trainer.checkpoint_callback.dirpath).parent
        me = os.getpid()
        children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
        point = {
            "step": step,
            "processor": time.process_time(),
            "clock": time.monotonic(),
            "memory": resident(me),
            "service": sum(map(resident, children)),
            "files": {str(f.relative_to(folder)): f.stat().st_size for f in folder.rglob("*") if f.is_file()},
        }
        with self.out.open("a") as file:
            file.write(json.dumps(point) + "\n")


def resident(process: int | str) -> int:
    """Return how many bytes of memory a process has just now (Linux)."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def settings(kind: str, steps: int, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return a shipped configuration and what is laid over it."""
    every = steps // POINTS
    per_epoch = min(10, every) if kind == "gan" else every
    watch = {"class_path": "long_run.Watch", "init_args": {"out": str(folder / f"{kind}.jsonl"), "every": every}}
    trainer = {"max_epochs": steps // per_epoch, "accelerator": "cpu", "devices": 1, "callbacks": [watch]}
    if kind == "gan":
        networks = {
            "generator": {"init_args": {"latent_dim": 8, "hidden": [16]}},
            "discriminator": {"init_args": {"hidden": [16]}},
        }
        data: dict[str, Any] = {"batch_size": 16, "feature_steps": 2, "steps_per_epoch": per_epoch}
        over = {"model": {"init_args": networks}, "data": {"init_args": data}, "trainer": trainer}
        return "configs/generator/gan_classic.yaml", over
    data = {
        "train_tasks": _part("tasks.real.RealTasks"),
        "train": {"n_way": 2, "n_shot": 1, "n_query": 1},
        "val": {"n_way": 2, "n_shot": 1, "n_query": 1, "n_episodes": 10},
        "tasks_per_step": 1,
        "steps_per_epoch": per_epoch,
    }
    if kind == "bank":
        latent = _part("tasks.latent.LatentTasks", policy=_part("tasks.policies.RandomOther"))
        bank = _part("tasks.bank.BankedTasks", tasks=latent, episodes=20, refresh=1000)
        share = _part("tasks.share.Adaptive")
        data["train_tasks"] = _part("tasks.mixed.MixedTasks", real=data["train_tasks"], latent=bank, share=share)
        data["generator"] = str(folder / "gan" / "001" / "checkpoints" / "best.ckpt")
    learner = {"init_args": {"backbone": {"init_args": {"hidden": 4}}}}
    over = {"model": {"init_args": {"learner": learner}}, "data": {"init_args": data}, "trainer": trainer}
    return "configs/learner/protonet.yaml", over


def _part(name: str, **args: Any) -> dict[str, Any]:
    return {"class_path": f"genmeta.{name}", "init_args": args}


def watched(kind: str, steps: int, folder: Path, wandb: str) -> list[dict[str, Any]]:
    """Train and return the points.

    Raises:
        CalledProcessError: the training failed.
    """
    config, over = settings(kind, steps, folder)
    (folder / f"{kind}.yaml").write_text(yaml.safe_dump(over))
    paths = [str(Path(__file__).parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "genmeta", "fit", f"--config={config}", f"--config={folder / f'{kind}.yaml'}"]
    with (folder / f"{kind}.log").open("w") as log:
        subprocess.run(
            [*command, f"--run.folder={folder}", f"--run.name={kind}", f"--run.wandb={wandb}"],
            check=True,
            cwd=ROOT,
            stdout=log,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
    return [json.loads(line) for line in (folder / f"{kind}.jsonl").read_text().splitlines()]


def table(points: list[dict[str, Any]], ratio: float = RATIO) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return rows of what, early, late and change; and of which the limit was missed (of a step's time: `ratio`).

    A run that was stopped has no rows. (SIGTERM ends a training with exit code 0.)
    """
    if len(points) < POINTS:
        return [], [f"stopped after {len(points)} of {POINTS} points"]
    rows: list[tuple[str, ...]] = []
    missed = []

    def row(good: bool, *cells: str) -> None:
        rows.append(cells)
        if not good:
            missed.append(", ".join(cells))

    first, last, before_last = points[TENTH - 1], points[-1], points[-1 - TENTH]
    for key, what in (("memory", "resident memory"), ("service", "resident memory of W&B's service")):
        if first[key]:
            growth = last[key] / first[key] - 1
            sizes = (f"{point[key] / 2**20:.1f} MiB" for point in (first, last))
            row(growth <= GROWTH or key == "service", what, *sizes, f"{growth:+.2%}")
    for key, what in (("processor", "a step, processor time"), ("clock", "a step")):
        times = [(b[key] - a[key]) / (b["step"] - a["step"]) * 1000 for a, b in pairwise(points)]
        early, late = times[TENTH - 1 : 2 * TENTH - 1], times[-TENTH:]
        changes = [f(late) / f(early) for f in (median, min)]
        numbers = (f"{median(part):.2f} ms" for part in (early, late))
        good = key == "clock" or min(changes) <= ratio
        row(good, what, *numbers, f"× {changes[0]:.2f} (minima: × {changes[1]:.2f})")
    thousands = first["step"] / 1000  # of steps in a tenth
    for name in (name for name in sorted(last["files"]) if name.endswith(LOGS)):
        sizes = [point["files"].get(name, 0) / 2**10 for point in points]
        early = (sizes[2 * TENTH - 1] - sizes[TENTH - 1]) / thousands
        late = (sizes[-1] - sizes[-1 - TENTH]) / thousands
        numbers = (f"{rate:.1f} KiB" for rate in (early, late))
        row(late <= LOG_RATIO * early + 0.1, f"{Path(name).name}, 1,000 steps", *numbers, f"{sizes[-1]:.0f} KiB in all")
    checkpoints = [sum(size for f, size in p["files"].items() if f.endswith(".ckpt")) for p in (first, last)]
    growth = checkpoints[1] / checkpoints[0] - 1
    row(growth <= GROWTH, "checkpoints", *(f"{size / 2**10:.0f} KiB" for size in checkpoints), f"{growth:+.2%}")
    counts = [len(point["files"]) for point in (first, last)]
    new = counts[1] - len(before_last["files"])
    row(new <= NEW_FILES, "files", *map(str, counts), f"{new} new in the last tenth")
    return rows, missed


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=("real", "gan", "bank"), default=["real", "gan", "bank"])
    parser.add_argument("--steps", type=int, default=100_000, help="of the learner: a multiple of 100")
    parser.add_argument("--gan_steps", type=int, default=5_000, help="a multiple of 100, up to 1,000 or of 1,000")
    parser.add_argument("--wandb", choices=("off", "offline"), default="off")
    parser.add_argument("--folder", type=Path, help="where runs and points are kept; by default they are not")
    options = parser.parse_args()
    if "bank" in options.kinds and "gan" not in options.kinds:
        parser.error("--kinds: bank needs gan before it, whose generator it draws from")
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        if options.folder and folder.exists():
            parser.error(f"--folder: {folder} is there already")
        folder.mkdir(parents=True, exist_ok=True)
        for kind in sorted(options.kinds, key=("real", "gan", "bank").index):
            points = watched(kind, options.gan_steps if kind == "gan" else options.steps, folder, options.wandb)
            rows, missed = table(points)
            seconds = points[-1]["clock"] - points[0]["clock"] if rows else float("nan")
            print(f"\n{kind}: {points[-1]['step'] if rows else 0:,} steps, {seconds:.0f} s\n")
            print("| | first tenth, or second | last tenth | |\n|---|---|---|---|")
            print("\n".join(f"| {' | '.join(cells)} |" for cells in rows))
            print("".join(f"\nMISSED: {cells}" for cells in missed), flush=True)
            failed = failed or bool(missed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
