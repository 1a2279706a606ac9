"""Train learners and baselines on real episodes with several seeds and write the table of their accuracies.

python scripts/compare_learners.py --data omniglot_minimal --seeds 0 1 2 --workers 2 --out docs/learners-omniglot.md

All rows are trained on the same number of images (`--images`): steps are that divided by the images of a step. A
learner whose way is fixed is trained once for each way that is tested, validated at that way; others are trained once,
as their YAML says. Where a way is larger than the validation part of the split, the smallest groups of its training
classes are moved to it, for all rows. A learner with `query_statistics` is tested with either. Whether a row is
transductive is found out by trying. Runs that are finished are not repeated, so it can be stopped and started again.
"""

import argparse
import contextlib
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import torch
import yaml

from genmeta.cli.training import TrainingCLI
from genmeta.data.splits import Split
from genmeta.episode import EpisodeBatch
from genmeta.evaluation.accuracy import mean_and_ci95
from genmeta.evaluation.statistics import mean_and_t95
from genmeta.experiments.execute import run_all
from genmeta.experiments.run import Run
from genmeta.learners.learner import Learner
from genmeta.modules.episodic_data import Episodes, EpisodicDataModule

ROOT = Path(__file__).parents[1]
REAL_ONLY = f"--config={ROOT}/configs/arm/real_only.yaml"
EPOCHS = 4  # validations of a training
QUERIES = {5: 15, 20: 5}  # of a class, by way; 15 otherwise


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: of the YAML, and how it is tested if there are several ways.
        mode: `inductive` or `transductive`.
        tests: by shape, the test of each seed.
        fits: its trainings; none if there is nothing to train.
        episodes: training episodes of each training.
        note: what it was trained with.
    """

    name: str
    mode: str
    tests: dict[str, list[Run]]
    fits: list[Run]
    episodes: list[int]
    note: str


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="glyphs", help="name of a YAML in configs/data")
    add("--learners", nargs="*", help="names of YAMLs in configs/learner; all by default")
    add("--baselines", nargs="*", help="names of YAMLs in configs/baseline; all by default")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--images", type=int, default=240_000, help="training images of each row")
    add("--shapes", nargs="+", default=["5w1s", "5w1s_within", "20w1s", "20w1s_within"])
    add("--episodes", type=int, default=600, help="test episodes of a shape")
    add("--workers", type=int, default=os.cpu_count() or 1, help="runs at the same time, one thread each")
    add("--runs", default="runs/learners", help="folder of all runs")
    add("--out", type=Path, help="Markdown file; printed only by default")
    add("options", nargs="*", help="more options of all runs, after --")
    options = parser.parse_args()
    rows = list(plan(options))
    runs = dict.fromkeys(
        run for row in rows for run in [*row.fits, *(r for tests in row.tests.values() for r in tests)]
    )
    if failed := run_all(runs, options.workers):
        sys.exit(f"{len(failed)} runs are not finished: see above; run again to go on")
    text = table(rows, options)
    print(text)
    if options.out:
        options.out.write_text(text)


def plan(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows, whose runs are still to be run."""
    shapes = {name: episodes(name, options.episodes) for name in options.shapes}
    split = roomy_split(options, max(e.n_way for e in shapes.values()))
    learners, baselines = (
        given if given is not None else sorted(path.stem for path in (ROOT / "configs" / kind).glob("*.yaml"))
        for kind, given in (("learner", options.learners), ("baseline", options.baselines))
    )
    for kind, names in (("learner", learners), ("baseline", baselines)):
        for name in names:
            yield from rows_of(kind, name, shapes, split, options)


def rows_of(
    kind: str, name: str, shapes: dict[str, Episodes], split: list[str], options: argparse.Namespace
) -> Iterator[Row]:
    """Yield the rows of one YAML."""
    path = ROOT / "configs" / kind / f"{name}.yaml"
    configs = [f"--config={path}", *([REAL_ONLY] if kind == "learner" else [])]
    configs += [
        f"--config={ROOT}/configs/data/{options.data}.yaml",
        *split,
        "--run.wandb=off",
        "--trainer.devices=1",
        *options.options,
    ]
    trained = "trainer" in yaml.safe_load(path.read_text())
    settings = checked("fit" if trained else "test", configs, set_up=False).config[("fit" if trained else "test")]
    settings = settings.model.init_args.learner.get("init_args") or {}
    fixed = next((key for key in ("n_way", "max_way") if key in settings), None)
    ways = sorted({e.n_way for e in shapes.values()}) if fixed else [None]
    modes = [["--model.learner.query_statistics=batch"], ["--model.learner.query_statistics=support"]]
    found: dict[str, Row] = {}
    for way in ways:
        tested = {shape: e for shape, e in shapes.items() if way in (None, e.n_way)}
        places = (f"model.learner.{fixed}", "data.train.n_way", "data.val.n_way")
        at_way = [*configs, *(f"--{place}={way}" for place in places if way)]
        if "length" in settings:  # of a sequence: SNAIL's support images and the query
            at_way.append(f"--model.learner.length={way * max(e.n_shot for e in tested.values()) + 1}")
        label = f"{name}-{way}way" if way else name
        fits, n_episodes, note = trainings(label, at_way, options) if trained else ([None] * len(options.seeds), 0, "–")
        for mode in modes if "query_statistics" in settings else [[]]:
            arguments = [*at_way, *mode, tests_yaml(tested, label, options)]
            learner = checked("test", arguments, set_up=False).model.learner
            kind_of = "transductive" if depends_on_other_queries(learner, way or 5) else "inductive"
            row = found.setdefault("".join(mode), Row(name, kind_of, {}, [], [], note))
            runs = [
                test(label, kind_of, arguments, fit, seed, options)
                for fit, seed in zip(fits, options.seeds, strict=True)
            ]
            row.tests.update(dict.fromkeys(tested, runs))
            if trained:
                row.fits.extend(fits)
                row.episodes.extend([n_episodes] * len(fits))
            if row.note != note:
                found["".join(mode)] = replace(row, note=f"{row.note}; {note}")
    yield from found.values()


def trainings(label: str, configs: Sequence[str], options: argparse.Namespace) -> tuple[list[Run], int, str]:
    """Return a training for each seed, its number of episodes, and a word on it."""
    data = checked("fit", configs).datamodule
    assert isinstance(data, EpisodicDataModule)
    shape = data.train_shape
    steps = max(EPOCHS, round(options.images / (data.tasks_per_step * shape.n_way * shape.n_images)))
    args = (*configs, f"--data.steps_per_epoch={steps // EPOCHS}", f"--trainer.max_epochs={EPOCHS}")
    fits = [Run(f"{label}-seed{s}", ("fit", *args, f"--seed_everything={s}"), options.runs) for s in options.seeds]
    steps = steps // EPOCHS * EPOCHS
    note = f"{steps:,} × {data.tasks_per_step} of {shape}, {shape.n_query} queries"
    return fits, steps * data.tasks_per_step, note


def test(label: str, mode: str, configs: Sequence[str], fit: Run | None, seed: int, options: argparse.Namespace) -> Run:
    """Return the test of a training, or of what needs none."""
    weights = [f"--ckpt_path={fit.checkpoint}"] if fit else []
    args = ("test", *configs, f"--seed_everything={seed}", *weights)
    return Run(f"{label}-seed{seed}-{mode}", args, options.runs, (fit,) if fit else ())


def checked(stage: str, configs: Sequence[str], set_up: bool = True) -> TrainingCLI:
    """Return the parts that a command would run with, quietly; a wrong configuration is told before anything runs.

    Without `set_up` no data are loaded and sizes are not compared, which takes a second or two: once for each training.
    """
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return TrainingCLI([stage, *configs], check_only=True, set_up=set_up)


def episodes(name: str, n_episodes: int) -> Episodes:
    """Return the test episodes that a name such as `20w1s_within` stands for."""
    shape, _, groups = name.partition("_")
    way, shot = (int(number) for number in shape.removesuffix("s").split("w"))
    found = Episodes(way, shot, QUERIES.get(way, 15), n_episodes, groups or "any")  # type: ignore[arg-type]
    assert found.name == name
    return found


def tests_yaml(shapes: dict[str, Episodes], label: str, options: argparse.Namespace) -> str:
    """Write the YAML of some test episodes and return the option that names it."""
    path = Path(options.runs) / "yaml" / f"tests-{label}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"data": {"init_args": {"test": [vars(e) for e in shapes.values()]}}}))
    return f"--config={path}"


def roomy_split(options: argparse.Namespace, n_way: int) -> list[str]:
    """Return the options of a split whose validation part has classes enough for the largest way: none, if the one of
    the data's YAML has.
    """
    configs = [f"--config={ROOT}/configs/baseline/pixels.yaml", f"--config={ROOT}/configs/data/{options.data}.yaml"]
    data = checked("test", configs).datamodule
    assert isinstance(data, EpisodicDataModule)
    assert data.table is not None
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


def table(rows: Sequence[Row], options: argparse.Namespace) -> str:
    """Return the Markdown table and what must be known to read it."""
    head = ["learner", "queries", *options.shapes, "trained on", "s per 1,000 training episodes"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        seconds = [1000 * run.summary["seconds"] / n for run, n in zip(row.fits, row.episodes, strict=True)]
        n_seeds = len(options.seeds)
        fastest = [min(seconds[i : i + n_seeds]) for i in range(0, len(seconds), n_seeds)]  # of each way
        cells = [f"`{row.name}`", row.mode, *(cell(row, shape) for shape in options.shapes)]
        cells += [row.note, f"{mean(fastest):.1f}" if fastest else "–"]
        lines.append("| " + " | ".join(cells) + " |")
    split = next(iter(rows[0].tests.values()))[0].summary["split"]
    seeds = ", ".join(map(str, options.seeds))
    queries = ", ".join(
        f"{QUERIES.get(e, 15)} of {e}-way" for e in sorted({episodes(s, 1).n_way for s in options.shapes})
    )
    notes = [
        "",
        f"Accuracy in % on classes that no row has seen: data {options.data}, split '{split['name']}' "
        f"({split['hash']}), real episodes only, about {options.images:,} training images in each trained row. "
        f"Mean over seeds {seeds}; "
        f"after the first ± the 95 % interval over seeds (Student's t: how much trainings differ), after the second "
        f"that over {options.episodes} test episodes, the same for all rows ({queries} queries a class). `within`: "
        f"all classes of an episode are of one group (alphabet); otherwise of any. Times are of whole trainings with "
        f"{EPOCHS} validations, one thread, {options.workers} at a time: of the fastest seed, since other work on a "
        f"machine only adds; the mean over ways where there are two.",
        "",
    ]
    return "\n".join([*lines, *notes])


def cell(row: Row, shape: str) -> str:
    """Return mean, interval over seeds and interval over episodes, in percent."""
    runs = [run.summary for run in row.tests[shape]]
    hashes = {summary["episodes"][f"test/{shape}"] for summary in runs}
    assert len(hashes) == 1, f"{row.name}: tested on different episodes"
    accuracies = [summary["episode_accuracies"][shape] for summary in runs]
    of_seeds = [mean(values) for values in accuracies]
    over_seeds = f"{100 * mean_and_t95(of_seeds)[1]:.1f}" if len(of_seeds) > 1 else "–"
    _, over_episodes = mean_and_ci95([mean(values) for values in zip(*accuracies, strict=True)])
    return f"{100 * mean(of_seeds):.1f} ± {over_seeds} ± {100 * over_episodes:.1f}"


if __name__ == "__main__":
    main()
