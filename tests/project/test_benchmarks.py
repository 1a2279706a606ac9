"""What the benchmark compares is the same: episodes of each contestant are checked, and wrong ones are noticed."""

import importlib.util
import sys

import pytest
import torch
from conftest import ROOT

from genmeta.episode import EpisodeShape


@pytest.fixture(scope="module")
def sampling():
    spec = importlib.util.spec_from_file_location("sampling", ROOT / "benchmarks" / "sampling.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["sampling"] = module
    spec.loader.exec_module(module)
    module.N_CLASSES, module.TASKS = 24, {5: 3, 20: 3}
    yield module
    del sys.modules["sampling"]


@pytest.fixture(scope="module")
def table(sampling):
    return sampling.make_images()


SHAPE = EpisodeShape(5, 2, 3)


@pytest.mark.parametrize("kind", ["float32", "uint8", "rotations"])
@pytest.mark.parametrize("contestant", ["ours", "learn2learn"])
def test_contestants_make_equivalent_episodes(sampling, table, contestant, kind):
    sampling.check(getattr(sampling, contestant)(table, SHAPE, kind)(), table, SHAPE, kind)


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_easyfsl_makes_equivalent_episodes(sampling, table, kind, monkeypatch):
    pytest.importorskip("easyfsl")
    monkeypatch.setattr(torch.utils.data.Sampler, "__init__", torch.utils.data.Sampler.__init__)  # put back after
    sampling.check(sampling.easyfsl(table, SHAPE, kind)(), table, SHAPE, kind)


def test_wrong_episodes_are_noticed(sampling, table):
    good = sampling.ours(table, SHAPE, "uint8")()
    support, support_y, query, query_y = (part.clone() for part in good)
    twice = query.clone()
    twice[0, 0] = support[0, (support_y[0] == query_y[0, 0]).nonzero()[0, 0]]
    other_class = query[:, torch.arange(15).roll(3)]
    foreign = query + 1
    for wrong, message in ((twice, "twice"), (other_class, "labels do not"), (foreign, "not in the table")):
        with pytest.raises(AssertionError, match=message):
            sampling.check((support, support_y, wrong, query_y), table, SHAPE, "uint8")
    with pytest.raises(AssertionError, match="images per label"):
        sampling.check((support, support_y, query, torch.zeros_like(query_y)), table, SHAPE, "uint8")


def test_tables_are_printed(sampling, table):
    lines = sampling.scaling(1)
    assert len(lines) == 4
    assert all(line.count(" µs") == 4 for line in lines)
