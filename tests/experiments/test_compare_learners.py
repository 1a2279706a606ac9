"""The learners' table: its split, its rows' modes, and its numbers by hand."""

import argparse
import importlib
import sys

import pytest
import torch
from conftest import ROOT
from torch import nn

from genmeta.cli.training import checked
from genmeta.data.splits import Split
from genmeta.learners.maml import MAML
from genmeta.learners.metric import ProtoNet, TransductiveProtoNet
from genmeta.learners.transductive import depends_on_other_queries
from genmeta.models.backbones import Conv4


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "scripts"))
    yield importlib.import_module("compare_learners")
    sys.path.remove(str(ROOT / "scripts"))
    for name in ("compare_learners", "learner_rows", "table_of_runs"):
        del sys.modules[name]


def test_the_smallest_groups_of_train_are_moved_to_val_until_it_is_large_enough():
    groups = {"a": 3, "b": 2, "c": 4, "d": 1}
    train = tuple(f"{group}{i}" for group, n in groups.items() for i in range(n))
    split = Split("s", "toy", train, ("v0", "v1"), ("t0",))
    group_of = {name: name[0] for name in train}
    assert split.with_val_of(2, group_of) is split
    larger = split.with_val_of(4, group_of)
    assert larger.val == ("v0", "v1", "d0", "b0", "b1")
    assert larger.train == ("a0", "a1", "a2", "c0", "c1", "c2", "c3")
    assert (larger.test, larger.name) == (("t0",), "s_val5")
    assert larger.hash != split.hash


@pytest.mark.parametrize(
    ("make", "transductive"),
    [
        (lambda: ProtoNet(Conv4(1, 4, 16)), False),
        (lambda: TransductiveProtoNet(nn.Flatten()), True),
        (lambda: MAML(Conv4(1, 4, 16, norm="batch"), 3), True),
        (lambda: MAML(Conv4(1, 4, 16, norm="group"), 3), False),
    ],
)
def test_whether_queries_are_classified_together_is_found_out_by_trying(make, transductive):
    torch.manual_seed(0)
    assert depends_on_other_queries(make(), 3) == transductive


def test_shapes_by_name(script):
    assert list(script.SHAPES) == ["5w1s", "5w1s_within", "20w1s", "20w1s_within"]
    found = script.SHAPES["20w1s_within"]
    assert (found.n_way, found.n_shot, found.n_query, found.n_episodes, found.groups) == (20, 1, 5, 600, "within")


def test_rows_of_a_learner_with_a_head_and_of_one_without(script, tmp_path, monkeypatch):
    """One has a training for each way, at the same number of images; the other is trained once, as its YAML says."""
    monkeypatch.chdir(ROOT)
    options = argparse.Namespace(data="glyphs", seeds=[0], images=48_000, runs=str(tmp_path), options=[])
    shapes = {name: script.SHAPES[name] for name in ("5w1s", "20w1s")}
    row, *others = script.rows_of("learner", "maml", shapes, [], options)
    assert len(row.fits) == 2
    images = []
    for ([fit], _), way in zip(row.fits, (5, 20), strict=True):
        data = checked(fit.args).datamodule
        assert data.train_shape.n_way == data.val.n_way == way
        images.append(script.EPOCHS * data.steps_per_epoch * data.tasks_per_step * way * data.train_shape.n_images)
    assert images == [48_000, 48_000]
    fits = {shape: tests[0].after for shape, tests in row.tests.items()}
    assert fits == {"5w1s": tuple(row.fits[0][0]), "20w1s": tuple(row.fits[1][0])}
    assert row.mode == "transductive"
    assert {other.mode for other in others} <= {"inductive"}
    (row,) = script.rows_of("learner", "protonet", shapes, [], options)
    assert len(row.fits) == 1
    assert row.mode == "inductive"
    assert row.tests["5w1s"] == row.tests["20w1s"]
