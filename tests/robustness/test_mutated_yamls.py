"""Shipped YAMLs with a mistake in each: one line and exit code 2, or a run that works; never a wall of text."""

import copy
import random
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from genmeta.cli.main import main

YAMLS = sorted(path for kind in ("learner", "generator") for path in (ROOT / "configs" / kind).glob("*.yaml"))
ANYTHING = [None, True, -1, 0, 1, 3, 0.5, -0.5, 1e9, float("nan"), "", "x", "genmeta", "torch.nn.Linear", [], [1], {}]
DEFAULT = {*range(4), 334, 592}  # the two found a single episode, and numbers that an optimiser refuses
QUICK = [f"--config={ROOT}/configs/trainer/debug.yaml", "--run.wandb=off", "--trainer.devices=1"]


def places(tree, path=()):
    """Yield the path of every value in a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def mutated(tree, rng: random.Random):
    """Return a tree with one mistake, and a word on it."""
    tree = copy.deepcopy(tree)
    path = rng.choice([p for p in places(tree) if p[0] != "run"])
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    old = parent[path[-1]]
    kind = rng.choice(["drop", "misspell", "replace", "replace", "swap", "wrap"])
    if kind == "drop":
        del parent[path[-1]]
    elif kind == "misspell" and isinstance(parent, dict):
        parent[str(path[-1])[:-1] + "q"] = parent.pop(path[-1])
    elif kind == "swap":
        other = tree
        for key in rng.choice(list(places(tree))):
            other = other[key]
        parent[path[-1]] = copy.deepcopy(other)
    elif kind == "wrap":
        parent[path[-1]] = [old]
    else:
        parent[path[-1]] = rng.choice(ANYTHING)
    return tree, f"{kind} {'.'.join(map(str, path))} (was {old!r:.60})"


@pytest.mark.parametrize(
    "seed", [seed if seed in DEFAULT else pytest.param(seed, marks=pytest.mark.slow) for seed in range(1000)]
)
def test_a_mistake_is_told_in_one_line_or_does_no_harm(tmp_path, monkeypatch, capsys, generator, redrawer, seed):
    monkeypatch.chdir(ROOT)
    rng = random.Random(seed)
    path: Path = rng.choice(YAMLS)
    tree, what = mutated(yaml.safe_load(path.read_text()), rng)
    (tmp_path / "mutated.yaml").write_text(yaml.safe_dump(tree))
    of_kind = [f"--data.generator={generator}", f"--data.redrawer={redrawer}"]
    few = [] if path.parent.name == "learner" else ["--data.feature_steps=2"]
    options = [*(of_kind if path.parent.name == "learner" else few), *QUICK, f"--run.folder={tmp_path / 'runs'}"]
    code = main(["fit", f"--config={tmp_path / 'mutated.yaml'}", *options])
    told = capsys.readouterr()
    assert code in (0, 2), f"{path.stem}: {what}"
    if code == 2:
        last = told.err.strip().splitlines()[-1]
        assert last.startswith("genmeta: error: "), f"{path.stem}: {what}: {told.err}"
        assert len(last) < 1000, f"{path.stem}: {what}: {last}"
