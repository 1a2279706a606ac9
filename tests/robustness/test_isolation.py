"""Tests do not depend on their neighbours: what conftest.py puts back, and the order of a seed."""

import os
import random
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import free_port, shuffled
from hangs import Hang, at_most

ALONE = {}
"""What the first of the two tests below began with."""


@pytest.mark.parametrize("turn", [1, 2])
def test_what_a_test_leaves_behind_is_put_back(tmp_path, turn):
    """Whichever of the two is second finds a fixture that forgets one of these."""
    found = {
        "environment": (os.environ.get("PL_GLOBAL_SEED"), os.environ.get("GENMETA_RUN_FOLDER"), os.environ["PATH"]),
        "folder": Path.cwd(),
        "path": [*sys.path],
        "torch": (torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()),
        "draws": (random.random(), float(np.random.rand()), float(torch.rand(()))),  # noqa: NPY002
    }
    assert ALONE.setdefault("found", found) == found
    os.environ |= {"PL_GLOBAL_SEED": "1", "GENMETA_RUN_FOLDER": "x"}
    del os.environ["PATH"]
    os.chdir(tmp_path)
    sys.path.insert(0, "nowhere")
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)


@pytest.fixture(scope="module")
def drawn() -> float:
    return float(torch.rand(()))


def test_a_shared_fixture_draws_the_same_for_whoever_asks_first(request):
    torch.manual_seed(5)
    expected = float(torch.rand(()))
    torch.manual_seed(5)
    assert request.getfixturevalue("drawn") == pytest.approx(0.4962566)  # the first of seed 0
    assert float(torch.rand(())) == expected, "the test draws others once the fixture is there"


def spin() -> None:
    while True:
        pass


def test_a_limit_is_of_processor_time():
    """30 s by the clock were too few where other programs had the cores."""
    with at_most(0.2, "asleep"):
        time.sleep(0.5)
    with pytest.raises(Hang, match=r"busy: more than 0\.2 s"), at_most(0.2, "busy"):
        spin()


def test_a_free_port_is_none_that_the_system_gives_to_others():
    port = free_port()
    assert port < 30_000, "Linux gives those from 32768 on to whoever asks for any"
    with socket.create_server(("127.0.0.1", port)):
        assert free_port() != port


def test_an_order_follows_from_the_seed_and_keeps_files_together():
    """The workers of xdist collect by themselves: they must come to the same order, or nothing is run."""
    items = [SimpleNamespace(nodeid=f"{f}::{n}", path=f) for f in "abcdef" for n in range(9)]
    one, other = shuffled([*items], 1), shuffled(items[::-1], 1)
    assert one == other
    assert sorted(one, key=lambda item: item.nodeid) == items
    assert shuffled([*items], 2) != one
    files = [item.path for item in one]
    changes = [file for before, file in zip(["", *files], files, strict=False) if file != before]
    assert len(changes) == 6
    assert changes != sorted(changes)
    assert [item for item in one if item.path == "a"] != items[:9]
