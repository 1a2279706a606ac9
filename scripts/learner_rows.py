"""What compare_learners.py trains and tests for each row of its table."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import yaml

from genmeta.cli.training import checked
from genmeta.experiments.run import Run
from genmeta.learners.transductive import depends_on_other_queries
from genmeta.shipped import find_config
from genmeta.tasks.evaluated import Episodes

EPOCHS = 4  # validations of a training


@dataclass
class Row:
    """A line of the table.

    Attributes:
        name, mode: of the YAML; `inductive` or `transductive`.
        tests: by shape, the test of each seed.
        fits: the trainings of each way by seed, and how many episodes each has; none if there is nothing to train.
        notes: what each was trained with.
    """

    name: str
    mode: str
    tests: dict[str, dict[int, Run]]
    fits: list[tuple[list[Run], int]]
    notes: list[str]


def rows_of(
    kind: str, name: str, shapes: Mapping[str, Episodes], split: list[str], options: argparse.Namespace
) -> Iterator[Row]:
    """Yield the rows of one YAML, whose runs are still to be run."""
    path = find_config(kind, name)
    configs = [
        path,
        *([find_config("policy", "real_only")] if kind == "learner" else []),
        find_config("data", options.data),
    ]
    common = [*(f"--config={one}" for one in configs), *split, "--run.wandb=off", "--trainer.devices=1"]
    common += options.options
    stage = "fit" if "trainer" in yaml.safe_load(path.read_text()) else "test"
    settings = checked([stage, *common], set_up=False).config.model.init_args.learner.get("init_args") or {}
    fixed = next((key for key in ("n_way", "max_way") if key in settings), None)
    found: dict[str, Row] = {}
    for way in sorted({e.n_way for e in shapes.values()}) if fixed else [None]:
        tested = {shape: e for shape, e in shapes.items() if way in (None, e.n_way)}
        places = (f"model.learner.{fixed}", "data.train.n_way", "data.val.n_way")
        at_way = [*common, *(f"--{place}={way}" for place in places if way)]
        if "length" in settings:  # of a sequence: SNAIL's support images and the query
            at_way.append(f"--model.learner.length={way * max(e.n_shot for e in tested.values()) + 1}")
        label = f"{name}-{way}way" if way else name
        fits, n_episodes, note = _trainings(label, at_way, options) if stage == "fit" else ([], 0, "–")
        for mode in ("batch", "support") if "query_statistics" in settings else ("",):
            args = [*at_way, *([f"--model.learner.query_statistics={mode}"] if mode else [])]
            args.append(f"--data.test={json.dumps([asdict(e) for e in tested.values()])}")
            learner = checked(["test", *args], set_up=False).model.learner
            word = "transductive" if depends_on_other_queries(learner, way or 5) else "inductive"
            tests = {}
            for place, seed in enumerate(options.seeds):
                weights = [f"--ckpt_path={fits[place].checkpoint}"] if fits else []
                test = ("test", *args, f"--seed_everything={seed}", *weights)
                tests[seed] = Run(f"{label}-seed{seed}-{word}", test, options.runs, tuple(fits[place : place + 1]))
            row = found.setdefault(mode, Row(name, word, {}, [], []))
            row.tests.update(dict.fromkeys(tested, tests))
            row.fits += [(fits, n_episodes)] if fits else []
            row.notes.append(note)
    yield from found.values()


def _trainings(label: str, configs: Sequence[str], options: argparse.Namespace) -> tuple[list[Run], int, str]:
    """Return a training for each seed, its number of episodes, and a word on it."""
    data = checked(["fit", *configs]).datamodule
    shape = data.train_shape
    steps = max(EPOCHS, round(options.images / (data.tasks_per_step * shape.n_way * shape.n_images)))
    args = (*configs, f"--data.steps_per_epoch={steps // EPOCHS}", f"--trainer.max_epochs={EPOCHS}")
    fits = [Run(f"{label}-seed{s}", ("fit", *args, f"--seed_everything={s}"), options.runs) for s in options.seeds]
    steps = steps // EPOCHS * EPOCHS
    note = f"{steps:,} × {data.tasks_per_step} of {shape}, {shape.n_query} queries"
    return fits, steps * data.tasks_per_step, note
