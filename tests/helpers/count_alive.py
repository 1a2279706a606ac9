"""Counts what is alive in a long training, in a process of its own: `python count_alive.py FILE KIND...`.

In a process of other tests it would count what these have left, such as the symbolic tensors of torch.compile, which
have no size in bytes.
"""

import gc
import json
import os
import sys
from collections import defaultdict, deque
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lightning.pytorch import Callback
from test_faults import SMALL_GAN, SMALL_LEARNER, fit

from genmeta.cli.training import TrainingCLI

MOMENTS = (100, 200, 400)
"""Steps at which is counted. At the first the GAN has seen all images, and holds the orders of two passes. What is kept
for every step grows twice; a cache that is filled by chance grows once.
"""
TINY = {
    "learner": [
        *SMALL_LEARNER,
        *("--data.train={n_way: 2, n_shot: 1, n_query: 1}", "--data.val={n_way: 2, n_shot: 1, n_query: 1}"),
        *("--model.learner.init_args.backbone.init_args.hidden=4", "--trainer.log_every_n_steps=1"),
        *("--data.val.n_episodes=10", "--data.steps_per_epoch=50", "--trainer.max_epochs=9"),
    ],
    "gan": [
        *SMALL_GAN,
        *("--model.generator.init_args.hidden=[16]", "--model.discriminator.init_args.hidden=[16]"),
        *("--data.batch_size=32", "--trainer.limit_train_batches=50"),
        *("--trainer.max_epochs=9", "--trainer.log_every_n_steps=1"),
    ],
}
LEAKS = {
    "containers": lambda kept, step: kept.setdefault("list", []).append(0.5 + step),
    "objects": lambda kept, step: kept.update({step: [step]}),
    "tensors": lambda kept, step: kept.update({step: torch.rand(1)}),
}
"""What is kept for every step, by what must be found to grow."""


def alive() -> dict[str, int]:
    """How many objects Python's collector knows, bytes of its containers (a float in a list is 8), bytes of tensors."""
    gc.collect()
    objects = gc.get_objects()
    containers = sum(sys.getsizeof(x) for x in objects if type(x) in (list, dict, set, deque, defaultdict))
    tensors = sum(x.nbytes for x in objects if issubclass(type(x), torch.Tensor))
    return {"objects": len(objects), "containers": containers, "tensors": tensors}


class Watch(Callback):
    def __init__(self) -> None:
        self.found: list[dict[str, int]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.total_batch_idx + 1 in MOMENTS:
            self.found.append(alive())


def in_training(kind: str) -> list[dict[str, int]]:
    """Train and return what was alive at the moments."""
    watch, callbacks = Watch(), TrainingCLI.callbacks
    TrainingCLI.callbacks = lambda cli: [*callbacks(cli), watch]
    with TemporaryDirectory() as folder:
        assert fit(Path(folder), *TINY[kind]) == 0
    TrainingCLI.callbacks = callbacks
    return watch.found


def with_leak(kind: str) -> list[dict[str, int]]:
    """Keep something for every step and return what was alive at the moments."""
    found, leak = [], {}
    for step in range(MOMENTS[-1] + 1):
        LEAKS[kind](leak, step)
        if step in MOMENTS:
            found.append(alive())
    return found


if __name__ == "__main__":
    os.environ["WANDB_MODE"] = "disabled"
    out, *kinds = sys.argv[1:]
    found = {kind: in_training(kind) if kind in TINY else with_leak(kind) for kind in kinds}
    Path(out).write_text(json.dumps(found))
