"""Spoilt files, plans in random shapes and random options: a valid result or a UserError, never another exception.

A limit of processor time follows every input, so that a hang is a failure. The draws are the same each time; `-m slow`
draws more. How many inputs were tried is printed at the end (`pytest -s`).
"""

import contextlib
import copy
import json
import shutil
import zipfile
from collections import Counter
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, make_table
from hangs import at_most
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from small_data import drawing
from test_report import write_comparison, write_experiment, write_run

from genmeta.cli.data import read_data_yaml
from genmeta.cli.main import main
from genmeta.cli.report.command import report_page
from genmeta.data.challenge import read_runs
from genmeta.data.glyphs import load_characters
from genmeta.data.splits import load_split
from genmeta.episode import BANK, DECODER, TABLE, EpisodePlan, choose_slots, concatenate, plan_hash
from genmeta.errors import UserError
from genmeta.experiments.cluster import read_cluster
from genmeta.experiments.run_folder import RunSettings, find_same_run, read_run_file
from genmeta.experiments.settings import read_settings
from genmeta.learners.checkpoint import load_learner
from genmeta.models.checkpoint import load_generator
from genmeta.tasks.effects import Deformation, Pasting, Redrawing
from genmeta.tasks.elastic import Elastic
from genmeta.tasks.render import render

TRIED: Counter[str] = Counter()
SECONDS = 30  # of a processor, that any input may take
ANYTHING = [None, True, -1, 0, 3, 1e308, float("nan"), "", "x", "ü\n\0", "../..", [], [1], [[]], {}, {"a": 1}, 10**30]


@contextlib.contextmanager
def tried(kind: str):
    """Count an input; let a UserError of one line pass, and nothing else; end a hang."""

    TRIED[kind] += 1
    try:
        with at_most(SECONDS, kind):
            yield
    except UserError as error:
        assert "\n" not in str(error), str(error)
        assert len(str(error)) < 2000


@pytest.fixture(scope="module", autouse=True)
def _told():
    yield
    for kind, number in sorted(TRIED.items()):
        print(f"\n{kind}: {number} inputs tried", end="")


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def few_or_many(few: int, many: int):
    """Parametrize `n`: few inputs by default, many in the slow run."""
    return pytest.mark.parametrize("n", [few, pytest.param(many, marks=pytest.mark.slow)])


def each(n: int, *strategies, **named):
    """Decorate a function to be called with `n` draws, the same each time."""

    def decorate(function):
        checks = list(HealthCheck)
        return settings(
            max_examples=n,
            phases=[Phase.generate],
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=checks,
        )(given(*strategies, **named)(function))

    return decorate


@st.composite
def spoilt(draw, whole: bytes) -> bytes:
    """Bytes flipped, cut off, put in, or two pieces swapped; a few times."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        how = draw(st.sampled_from(["flip", "flip", "cut", "insert", "swap", "zero"]))
        if how == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del content[at : at + draw(st.integers(1, 200))]
        elif how == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=20))
        elif how == "zero":
            content[at : at + 20] = bytes(len(content[at : at + 20]))
        else:
            other = draw(st.integers(0, max(0, len(content) - 1)))
            content[at : at + 8], content[other : other + 8] = content[other : other + 8], content[at : at + 8]
    return bytes(content)


def paths(tree, here=()):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*here, key)
        yield from paths(value, (*here, key))


@st.composite
def retyped(draw, whole):
    """A tree with one to three values of other kinds, dropped, or put elsewhere."""
    tree = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        places = list(paths(tree))
        if not places:
            break
        *way, last = draw(st.sampled_from(places))
        parent = tree
        for key in way:
            parent = parent[key]
        how = draw(st.sampled_from(["replace", "replace", "drop", "rename", "wrap"]))
        if how == "drop":
            del parent[last]
        elif how == "rename" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["x", "", "class_path", "0"]))] = parent.pop(last)
        elif how == "wrap":
            parent[last] = [parent[last]]
        else:
            parent[last] = copy.deepcopy(draw(st.sampled_from(ANYTHING)))
    return tree


SPLIT = {"dataset": "toy", "hash": "0", "images": "", "train": ["a", "b"], "val": ["c"], "test": ["d", "e"]}
CHARACTERS = {"Greek": "αβγ", "Latin": "abc"}


READERS = {
    "split": (SPLIT, lambda path: load_split(str(path))),
    "characters": (CHARACTERS, load_characters),
}


@pytest.mark.parametrize("kind", READERS)
@few_or_many(60, 2000)
def test_json_files(kind, n, tmp_path):
    content, read = READERS[kind]
    path = tmp_path / "x.json"

    @each(n, st.one_of(retyped(content).map(json.dumps).map(str.encode), spoilt(json.dumps(content).encode())))
    def check(text):
        path.write_bytes(text)
        with tried(f"{kind} files"):
            read(path)

    check()


@few_or_many(40, 1000)
def test_summaries_of_runs(n, tmp_path):
    """`run.json` and `config.yaml`, as `reuse` and comparisons read them."""
    folder = tmp_path / "run" / "001"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "best.ckpt").touch()
    summary, config = {"stage": "fit", "seconds": 1.0, "split": {"name": "a", "hash": "b"}}, {"model": {"a": [1, 2]}}

    @each(
        n,
        st.one_of(retyped(summary).map(json.dumps).map(str.encode), spoilt(json.dumps(summary).encode())),
        st.one_of(retyped(config).map(yaml.safe_dump).map(str.encode), spoilt(yaml.safe_dump(config).encode())),
    )
    def check(run, text):
        (folder / "run.json").write_bytes(run)
        (folder / "config.yaml").write_bytes(text)
        with tried("run folders to use again"):
            find_same_run(RunSettings(folder=str(tmp_path)), config)
        with tried("run.json"):
            assert isinstance(read_run_file(folder), dict)

    check()


YAMLS = {
    "comparison": ("configs/compare/policies.yaml", read_settings),
    "curves": ("configs/compare/low_data_classes.yaml", read_settings),
    "cluster": ("configs/cluster/slurm.yaml", read_cluster),
    "data": ("configs/data/image_folder.yaml", read_data_yaml),
}


@pytest.mark.parametrize("kind", YAMLS)
@few_or_many(12, 400)
def test_yamls_that_are_not_of_trainings(kind, n, tmp_path):
    name, read = YAMLS[kind]
    whole = (ROOT / name).read_text()
    path = tmp_path / "x.yaml"

    @each(n, st.one_of(retyped(yaml.safe_load(whole)).map(yaml.safe_dump).map(str.encode), spoilt(whole.encode())))
    def check(text):
        path.write_bytes(text)
        with tried(f"{kind} YAMLs"):
            read(path)

    check()


@pytest.mark.parametrize("load", [load_generator, load_learner])
@few_or_many(6, 300)
def test_checkpoints(load, n, request, tmp_path):
    whole = request.getfixturevalue("generator" if load is load_generator else "learner").read_bytes()
    state = torch.load(BytesIO(whole), weights_only=True)
    small = {"state_dict": state["state_dict"], "genmeta": state["genmeta"]}
    path = tmp_path / "x.ckpt"

    @each(n, spoilt(whole))
    def bytes_changed(content):
        path.write_bytes(content)
        with tried("checkpoints with changed bytes"):
            load(str(path))

    @each(n, retyped(state["genmeta"]))
    def kinds_changed(entry):
        torch.save({**small, "genmeta": entry}, path)
        with tried("checkpoints with other entries"):
            load(str(path))

    bytes_changed()
    kinds_changed()


def challenge_zip() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        lines = [f"run01/test/item{i:02d}.png run01/training/class{i:02d}.png" for i in (1, 2)]
        archive.writestr("run01/class_labels.txt", "\n".join(lines))
        for i, name in enumerate(name for line in lines for name in line.split()):
            archive.writestr(name, drawing(i))
    return file.getvalue()


@few_or_many(60, 3000)
def test_zips_of_the_challenge(n, tmp_path):
    path = tmp_path / "x.zip"

    @each(n, spoilt(challenge_zip()))
    def check(content):
        path.write_bytes(content)
        with tried("challenge zips"):
            assert len(read_runs(path)) == 1

    check()


@pytest.mark.parametrize("kind", ["run", "experiment", "comparison"])
@few_or_many(8, 300)
def test_reports_of_spoilt_folders(kind, n, tmp_path):
    write = {"run": write_run, "experiment": write_experiment, "comparison": write_comparison}[kind]
    made = write(tmp_path / "a" / "whole")
    folder = made if isinstance(made, Path) else tmp_path / "a" / "whole"
    name = {"run": "run.json"}.get(kind, "results.json")
    whole = json.loads((folder / name).read_text())

    @each(n, st.one_of(retyped(whole).map(json.dumps).map(str.encode), spoilt(json.dumps(whole).encode())))
    def check(text):
        (folder / name).write_bytes(text)
        with tried(f"reports of a {kind}"):
            report_page([folder])

    check()


# --- plans

TABLE_IMAGES = make_table(n_classes=8, size=8).images
BANK_IMAGES = make_table(n_classes=4, size=8).images
DIM = 4


def decode(z):
    """A picture that differs for every code, code by code."""
    return torch.sigmoid(z[:, :1, None, None] + z[:, 1:2, None, None] * torch.linspace(-1, 1, 64).view(8, 8))


def redraw(x, z):
    """Another picture for every image and code, image by image."""
    return (x * 0.5 + 0.5 * torch.sigmoid(z.sum(1))[:, None, None, None]).roll(1, 3)


@st.composite
def sizes(draw):
    return draw(st.integers(1, 5)), draw(st.integers(2, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 3))


def plan_of(seed: int, n_tasks: int, n_way: int, n_shot: int, n_query: int, parts: frozenset[str]) -> EpisodePlan:
    """A plan with any of: codes, rows of a bank, redrawn images, deformations, pasted halves, weights of images."""
    rng = torch.Generator().manual_seed(seed)
    shape = (n_tasks, n_way, n_shot + n_query)
    kinds = [TABLE, *([DECODER] if "codes" in parts else []), *([BANK] if "bank" in parts else [])]
    source = torch.tensor(kinds, dtype=torch.int8)[torch.randint(len(kinds), shape, generator=rng)]
    rows = torch.randint(len(BANK_IMAGES), shape, generator=rng).where(source != DECODER, 0)
    redraw_codes = torch.randn(*shape, 3, generator=rng)
    redraw_codes[torch.rand(shape, generator=rng) < 0.5] = torch.nan
    labels = torch.stack([torch.randperm(n_way, generator=rng) for _ in range(n_tasks)])
    return EpisodePlan(
        n_shot=n_shot,
        rows=rows,
        turns=torch.randint(8, shape[:2], generator=rng),
        labels=labels,
        is_generated=torch.rand(shape[:2], generator=rng) < 0.5,
        source=source,
        z=torch.randn(int((source == DECODER).sum()), DIM, generator=rng),
        effects=(
            *([Redrawing(redraw_codes)] if "redraw_codes" in parts else []),
            *([Deformation(Elastic().draw(*shape, rng=rng))] if "elastic" in parts else []),
            *([pasted_of(shape, rng)] if "pasted" in parts else []),
        ),
        support_weight=torch.rand(*shape[:2], n_shot, generator=rng) if "weight" in parts else None,
        period=0 if "bank" in parts else None,
    )


def pasted_of(shape: tuple[int, ...], rng: torch.Generator) -> Pasting:
    return Pasting(
        pasted=torch.randint(-1, len(TABLE_IMAGES), shape, generator=rng),
        pasted_turns=torch.randint(8, shape[:2], generator=rng),
        pasted_below=torch.rand(shape[:2], generator=rng) < 0.5,
    )


def changed(plan: EpisodePlan, name: str, value: torch.Tensor) -> EpisodePlan:
    """The plan with another tensor, its own or one of an effect."""
    for effect in plan.effects:
        if hasattr(effect, name):
            return plan.having(replace(effect, **{name: value}))
    return replace(plan, **{name: value})


def rendered(plan: EpisodePlan):
    return render(plan, TABLE_IMAGES, decode, redraw, BANK_IMAGES)


def images_of(plan: EpisodePlan) -> torch.Tensor:
    """Images by slot, `[task, way, image, C, H, W]`."""
    batch = rendered(plan)
    support, query = (x.unflatten(1, (plan.rows.shape[1], -1)) for x in (batch.support_x, batch.query_x))
    return torch.cat([support, query], 2)


PLANS = st.frozensets(st.sampled_from(["codes", "bank", "redraw_codes", "elastic", "pasted", "weight"]))
SEEDS = st.integers(0, 2**31)


@few_or_many(25, 1000)
def test_a_part_of_a_plan_renders_as_that_part_of_the_whole(n):
    """Bug: codes, redrawn images or weights that stay where they were when tasks are taken, sliced or put together."""

    @each(n, SEEDS, sizes(), PLANS, st.data())
    def check(seed, size, parts, data):
        plan = plan_of(seed, *size, parts)
        first, last = sorted(data.draw(st.integers(0, size[0])) for _ in range(2))
        order = torch.tensor(data.draw(st.permutations(range(size[0]))))
        with tried("plans taken apart"):
            whole = images_of(plan)
            if first < last:
                torch.testing.assert_close(images_of(plan[slice(first, last)]), whole[first:last])
            torch.testing.assert_close(images_of(plan.take(order)), whole[order])
            assert plan_hash(plan.take(order).take(order.argsort())) == plan_hash(plan)
            assert plan_hash(concatenate([plan[slice(0, first)], plan[slice(first, None)]])) == plan_hash(plan)
            assert torch.equal(plan.take(order).has_generated, plan.has_generated[order])
            batch, weights = rendered(plan.take(order)), plan.support_weight
            assert (batch.support_weight is None) == (weights is None)
            if weights is not None:
                assert torch.equal(batch.support_weight, weights[order].flatten(1))

    check()


@few_or_many(20, 1000)
def test_images_of_a_plan_can_be_chosen(n):
    @each(n, SEEDS, sizes(), PLANS, st.data())
    def check(seed, size, parts, data):
        plan = plan_of(seed, *size, parts - {"weight"})
        n_images = size[2] + size[3]
        chosen = torch.tensor(data.draw(st.lists(st.integers(0, n_images - 1), min_size=2, max_size=6)))
        with tried("images of plans chosen"):
            n_shot = data.draw(st.integers(1, len(chosen) - 1))
            taken = plan.take_images(chosen, n_shot)
            torch.testing.assert_close(images_of(taken), images_of(plan)[:, :, chosen])
            assert rendered(taken).support_x.shape[1] == size[1] * n_shot
            everything = torch.arange(n_images)
            assert plan_hash(plan.take_images(everything, plan.n_shot)) == plan_hash(plan)

    check()


@few_or_many(20, 1000)
def test_slots_of_two_plans_are_chosen_with_all_that_belongs_to_them(n):
    @each(n, SEEDS, sizes(), PLANS, PLANS, st.integers(0, 2**31))
    def check(seed, size, parts, others, of_choice):
        first, second = plan_of(seed, *size, parts), plan_of(seed + 1, *size, others)
        take = torch.rand(size[:2], generator=torch.Generator().manual_seed(of_choice)) < 0.5
        with tried("slots of plans chosen"):
            both = choose_slots(first, second, take)
            expected = torch.where(take[..., None, None, None, None], images_of(second), images_of(first))
            # a deformation of nothing is bilinear sampling at the pixels themselves
            torch.testing.assert_close(images_of(both), expected, atol=1e-5, rtol=1e-5)
            assert torch.equal(both.labels, first.labels)
            none, every = torch.zeros_like(take), torch.ones_like(take)
            torch.testing.assert_close(images_of(choose_slots(first, second, none)), images_of(first), **CLOSE)
            torch.testing.assert_close(images_of(choose_slots(first, second, every)), images_of(second), **CLOSE)

    check()


CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@few_or_many(20, 1000)
def test_the_hash_of_a_plan_tells_every_change(n):
    """Bug: a part of the plan that the hash leaves out, so that other episodes pass for the same."""

    @each(n, SEEDS, sizes(), PLANS, st.data())
    def check(seed, size, parts, data):
        plan = plan_of(seed, *size, parts)
        names = ["rows", "turns", "labels", "is_generated", "source", "redraw_codes", "elastic", "support_weight", "z"]
        names += ["pasted", "pasted_turns", "pasted_below"]
        name = data.draw(st.sampled_from([m for m in names if getattr(plan, m) is not None and len(getattr(plan, m))]))
        value = getattr(plan, name).clone()
        at = tuple(data.draw(st.integers(0, length - 1)) for length in value.shape)
        value[at] = ~value[at] if value.dtype == torch.bool else 99  # no row, label or turn is
        with tried("plans with one change"):
            assert plan_hash(plan) == plan_hash(replace(plan))
            assert plan_hash(changed(plan, name, value)) != plan_hash(plan)
            assert plan_hash(replace(plan, n_shot=plan.n_shot + 1)) != plan_hash(plan)

    check()


# --- the command line

OPTIONS = {
    "fit": [
        "--data.tasks_per_step",
        "--data.train.n_way",
        "--data.train.n_shot",
        "--data.val.n_episodes",
        "--data.split",
        "--data.source.folder",
        "--model.optimizer.lr",
        "--model.learner.backbone",
        "--seed_everything",
        "--data.test",
        "--trainer.devices",
        "--trainer.precision",
        "--trainer.accelerator",
        "--trainer.max_epochs",
        "--ckpt_path",
        "--run.name",
        "--run.version",
        "--data.low_data",
        "--data.n_workers",
        "--trainer.gradient_clip_val",
    ],
    "test": ["--ckpt_path", "--data.test", "--data.split", "--data.generator", "--data.tasks_per_eval_batch"],
    "audit": ["--feature_steps", "--data.generator", "--data.train.n_way", "--strict", "--data.train_tasks"],
    "explore": ["--ckpt", "--data", "--part", "--out", "--wandb", "--umap"],
    "report": ["--out", "--runs"],
    "challenge": ["--runs", "--ckpt"],
    "compare": ["--config", "--workers", "--runs", "--cluster"],
    "replay": ["--run"],
    "data": ["list", "show", "prepare", "--folder", "--out"],
    "experiment": ["--data", "--learner", "--policy", "--generator", "--redrawer", "--seed", "--n_seeds", "--config"],
}
VALUES = [
    "",
    "-1",
    "0",
    "1e9",
    "nan",
    "null",
    "x",
    "[]",
    "{}",
    "[1, {a: b}]",
    "../..",
    "/",
    "README.md",
    "ü",
    "\x00",
    "@x",
]
GIVEN = ["--config=configs/learner/protonet.yaml", "--config=configs/policy/real_only.yaml"]
# 10 steps: `--trainer.max_epochs=-1` is right, and without an end
DEBUG = ["--config=configs/trainer/debug.yaml", "--trainer.max_steps=10", "--run.wandb=off"]


@pytest.mark.parametrize("command", OPTIONS)
@pytest.mark.parametrize("n", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_random_options(command, n, tmp_path, monkeypatch, capsys):
    """0, or 2 and a line; 1 is `audit --strict`'s and `compare`'s."""
    training = command in ("fit", "test", "audit")
    fixed = [*GIVEN, *DEBUG, f"--run.folder={tmp_path / 'runs'}"] if training else []
    fixed += ["--runs", str(tmp_path / "runs")] if command == "experiment" else []

    def nothing(*_):
        raise UserError("nothing is trained here")

    monkeypatch.setattr("genmeta.cli.experiment.run_all", nothing)  # options that are right would take an hour

    @each(n, st.lists(st.tuples(st.sampled_from(OPTIONS[command]), st.sampled_from(VALUES)), min_size=1, max_size=3))
    def check(options):
        monkeypatch.delenv("GENMETA_RUN_FOLDER", raising=False)
        given = [part for name, value in options for part in ((f"{name}={value}",) if training else (name, value))]
        with tried(f"options of genmeta {command}"):
            code = main([command, *fixed, *given])
        told = capsys.readouterr()
        assert code in (0, 2), given
        if code == 2:
            last = told.err.strip().splitlines()[-1]
            assert last.startswith("genmeta: error: "), (given, told.err)
            assert len(last) < 1500
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)

    check()
