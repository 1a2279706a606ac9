"""Train learners and baselines on real episodes with several seeds and write the table of their accuracies.

python scripts/compare_learners.py --data omniglot_minimal --seeds 0 1 2 --workers 2 --out docs/learners-omniglot.md

All rows are trained on the same number of images (`--images`): steps are that divided by the images of a step. A
learner whose way is fixed is trained once for each way that is tested, validated at that way; others are trained once,
as their YAML says. Where a way is larger than the validation part of the split, the smallest groups of its training
classes are moved to it, for all rows. A learner with `query_statistics` is tested with either. Whether a row is
transductive is found out by trying. Runs that are finished are not repeated, so it can be stopped and started again.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

import torch
import yaml

from genmeta.cli.training import checked
from genmeta.data.splits import Split
from genmeta.episode import EpisodeBatch
from genmeta.evaluation.tables import markdown_table
from genmeta.experiments.execute import run_all
from genmeta.experiments.results import facts, read_arm
from genmeta.experiments.run import Run
from genmeta.experiments.tables import over_both
from genmeta.learners.learner import Learner
from genmeta.shipped import find_config
from genmeta.tasks.evaluated import Episodes

EPOCHS = 4  # validations of a training
QUERIES = {5: 15, 20: 5}  # of a class, by way; 15 otherwise


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


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="glyphs", help="name of a YAML in configs/data")
    for kind in ("learner", "baseline"):
        known = sorted(path.stem for path in Path("configs", kind).glob("*.yaml"))
        add(f"--{kind}s", nargs="*", default=known, help=f"names of YAMLs in configs/{kind}; all by default")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--images", type=int, default=240_000, help="training images of each row")
    add("--shapes", nargs="+", default=["5w1s", "5w1s_within", "20w1s", "20w1s_within"])
    add("--episodes", type=int, default=600, help="test episodes of a shape")
    add("--workers", type=int, default=os.cpu_count() or 1, help="runs at the same time, one thread each")
    add("--runs", default="runs/learners", help="folder of all runs")
    add("--out", type=Path, help="Markdown file; printed only by default")
    add("options", nargs="*", help="more options of all runs, after --")
    options = parser.parse_args()
    shapes = {name: episodes(name, options.episodes) for name in options.shapes}
    split = roomy_split(options, max(e.n_way for e in shapes.values()))
    named = [("learner", name) for name in options.learners] + [("baseline", name) for name in options.baselines]
    rows = [row for kind, name in named for row in rows_of(kind, name, shapes, split, options)]
    tests = [run for row in rows for of_shape in row.tests.values() for run in of_shape.values()]
    runs = dict.fromkeys([*(run for row in rows for fits, _ in row.fits for run in fits), *tests])
    if failed := run_all(runs, options.workers):
        sys.exit(f"{len(failed)} runs are not finished: see above; run again to go on")
    text = table(rows, tests, options)
    print(text)
    if options.out:
        options.out.write_text(text)


def rows_of(
    kind: str, name: str, shapes: dict[str, Episodes], split: list[str], options: argparse.Namespace
) -> Iterator[Row]:
    """Yield the rows of one YAML, whose runs are still to be run."""
    path = find_config(kind, name)
    configs = [
        path,
        *([find_config("arm", "real_only")] if kind == "learner" else []),
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
        fits, n_episodes, note = trainings(label, at_way, options) if stage == "fit" else ([], 0, "–")
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


def trainings(label: str, configs: Sequence[str], options: argparse.Namespace) -> tuple[list[Run], int, str]:
    """Return a training for each seed, its number of episodes, and a word on it."""
    data = checked(["fit", *configs]).datamodule
    shape = data.train_shape
    steps = max(EPOCHS, round(options.images / (data.tasks_per_step * shape.n_way * shape.n_images)))
    args = (*configs, f"--data.steps_per_epoch={steps // EPOCHS}", f"--trainer.max_epochs={EPOCHS}")
    fits = [Run(f"{label}-seed{s}", ("fit", *args, f"--seed_everything={s}"), options.runs) for s in options.seeds]
    steps = steps // EPOCHS * EPOCHS
    note = f"{steps:,} × {data.tasks_per_step} of {shape}, {shape.n_query} queries"
    return fits, steps * data.tasks_per_step, note


def episodes(name: str, n_episodes: int) -> Episodes:
    """Return the test episodes that a name such as `20w1s_within` stands for."""
    shape, _, groups = name.partition("_")
    way, shot = (int(number) for number in shape.removesuffix("s").split("w"))
    found = Episodes(way, shot, QUERIES.get(way, 15), n_episodes, groups or "any")  # type: ignore[arg-type]
    assert found.name == name
    return found


def roomy_split(options: argparse.Namespace, n_way: int) -> list[str]:
    """Return the options of a split whose validation part has classes enough for the largest way: none, if the one of
    the data's YAML has.
    """
    configs = [find_config("baseline", "pixels"), find_config("data", options.data)]
    data = checked(["test", *(f"--config={path}" for path in configs)]).datamodule
    split = moved(data.split, dict(zip(data.table.class_names, data.table.groups, strict=True)), n_way)
    if split is data.split:
        return []
    path = Path(options.runs) / "yaml" / f"{split.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {part: list(getattr(split, part)) for part in ("train", "val", "test")}
    path.write_text(json.dumps({"dataset": split.dataset, **parts}))
    return [f"--data.split={path}"]


def moved(split: Split, group_of: dict[str, str], n_way: int) -> Split:
    """Return the split with the smallest groups of `train` moved to `val` until this has `n_way` classes."""
    train, val = list(split.train), list(split.val)
    while len(val) < n_way:
        sizes = Counter(group_of[name] for name in train)
        smallest = min(sizes, key=lambda group: (sizes[group], group))
        val += [name for name in train if group_of[name] == smallest]
        train = [name for name in train if group_of[name] != smallest]
    if len(val) == len(split.val):
        return split
    return Split(f"{split.name}_val{len(val)}", split.dataset, tuple(train), tuple(val), split.test)


@torch.no_grad()
def depends_on_other_queries(learner: Learner, n_way: int) -> bool:
    """Return whether a query's logits change when it stands alone: tried on an episode of noise."""
    rng = torch.Generator().manual_seed(0)
    shape = getattr(learner, "image_shape", None) or next(
        (m.image_shape for m in learner.modules() if hasattr(m, "image_shape")), (1, 28, 28)
    )
    x = torch.rand(1, 4 * n_way, *shape, generator=rng)
    y = torch.arange(n_way)
    whole = EpisodeBatch(
        x[:, :n_way], y[None], x[:, n_way:], y.repeat(3)[None], torch.zeros(1, n_way, dtype=torch.bool)
    )
    alone = replace(whole, query_x=whole.query_x[:, :1], query_y=whole.query_y[:, :1])
    learner.eval()
    return not torch.allclose(learner(whole)[:, :1], learner(alone), rtol=1e-3, atol=1e-4)


def table(rows: Sequence[Row], tests: Sequence[Run], options: argparse.Namespace) -> str:
    """Return the Markdown table and what must be known to read it."""
    of_runs = facts(tests, tests)
    lines = [["learner", "queries", *options.shapes, "trained on", "s per 1,000 training episodes"]]
    for row in rows:
        cells = []
        for shape in options.shapes:
            arm = read_arm(row.name, row.tests[shape], {}, Path(options.runs), {shape: shape})
            cells.append(over_both(arm, shape, digits=1))
        fastest = [1000 * min(run.summary["seconds"] for run in fits) / n for fits, n in row.fits]  # of each way
        cells += ["; ".join(dict.fromkeys(row.notes)), f"{mean(fastest):.1f}" if fastest else "–"]
        lines.append([f"`{row.name}`", row.mode, *cells])
    ways = sorted({episodes(shape, 1).n_way for shape in options.shapes})
    queries = ", ".join(f"{QUERIES.get(way, 15)} of {way}-way" for way in ways)
    return (
        f"{markdown_table(lines)}\n\n"
        f"Accuracy in % on classes that no row has seen: data {options.data}, split '{of_runs['split']['name']}' "
        f"({of_runs['split']['hash']}), real episodes only, about {options.images:,} training images in each trained "
        f"row. Mean over seeds {', '.join(map(str, options.seeds))}; "
        f"after the first ± the 95 % interval over seeds (Student's t: how much trainings differ), after the second "
        f"that over {options.episodes} test episodes, the same for all rows ({queries} queries a class). `within`: "
        f"all classes of an episode are of one group (alphabet); otherwise of any. Times are of whole trainings with "
        f"{EPOCHS} validations, one thread, {options.workers} at a time: of the fastest seed, since other work on a "
        f"machine only adds; the mean over ways where there are two.\n"
    )


if __name__ == "__main__":
    main()
