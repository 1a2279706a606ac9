"""Long trainings: nothing that is kept for every step, in Python, in tensors or on the disk."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE, ROOT
from count_alive import LEAKS, MOMENTS, TINY

from genmeta.modules.pictures import GeneratorPictures


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def long_run():
    spec = importlib.util.spec_from_file_location("long_run", ROOT / "benchmarks" / "long_run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def counted(folder: Path, *kinds: str) -> dict[str, list[dict[str, int]]]:
    """Return what was alive in short trainings and beside known leaks, by kind; counted in a process of its own."""
    out = folder / "found.json"
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "count_alive.py"), str(out), *kinds]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def kept(found: list[dict[str, int]]) -> list[str]:
    """What has grown both times by more than caches of Lightning and Python do: a number for every step is more."""
    early, middle, late = found
    limits = {"objects": 50, "containers": 4 * (MOMENTS[1] - MOMENTS[0]), "tensors": 0}
    grown = {name: (middle[name] - early[name], late[name] - middle[name]) for name in limits}
    return [f"{name}: + {more[0]}, + {more[1]}" for name, more in grown.items() if min(more) > limits[name]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", TINY)
def test_nothing_is_kept_for_every_step(tmp_path, kind):
    """Finds metrics or losses in a list, graphs that a logged loss holds, batches in a cache without an end.

    What is kept beside known leaks is noticed, or it could not fail.
    """
    found = counted(tmp_path, kind, *LEAKS)
    assert kept(found[kind]) == []
    for grows in LEAKS:
        assert grows in " ".join(kept(found[grows]))


def test_what_grows_once_is_no_leak():
    """Bug: a cache that another test's leftovers filled, 1.5 kB, was taken for one."""
    found = [{"objects": 0, "containers": size, "tensors": 0} for size in (0, 0, 1480)]
    assert kept(found) == []


@pytest.mark.parametrize("every", [1, 5])
def test_pictures_come_ever_more_rarely(tmp_path, every):
    """Finds a folder that gets a picture every five epochs for ever."""
    due = GeneratorPictures(tmp_path, every).is_due
    drawn = [epoch for epoch in range(10_000) if due(epoch)]
    assert drawn[:10] == list(range(0, 10 * every, every))
    assert len(drawn) < 80
    assert any(epoch > 7_500 for epoch in drawn)


def points(**late) -> list[dict]:
    """100 points of a run in which nothing grows, but for what `late` says of those after the first half."""
    found = []
    size, clock = 1000, 0.0
    for number in range(1, 101):
        more = late if number > 50 else {}
        size, clock = size + more.get("log", 100), clock + more.get("seconds", 1.0)
        files = {"metrics.csv": size, "checkpoints/best.ckpt": more.get("checkpoint", 5000)}
        files |= {f"pictures/{i}.png": 10 for i in range(number if "picture" in more else 3)}
        memory = more.get("memory", 10**9)
        same = {"processor": clock, "clock": clock, "memory": memory, "service": 0, "files": files}
        found.append({"step": 1000 * number, **same})
    return found


@pytest.mark.parametrize(
    ("late", "what"),
    [
        ({}, None),
        ({"memory": int(1.009e9), "log": 120, "seconds": 1.05}, None),
        ({"memory": int(1.011e9)}, "resident memory"),
        ({"seconds": 1.11}, "a step, processor time"),
        ({"log": 300}, "metrics.csv"),
        ({"checkpoint": 6000}, "checkpoints"),
        ({"picture": True}, "files"),
    ],
)
def test_each_limit_is_checked(long_run, late, what):
    """Finds a benchmark that says all is well whatever it has measured."""
    rows, missed = long_run.table(points(**late))
    assert {len(cells) for cells in rows} == {4}
    assert [cells.split(",")[0] for cells in missed] == ([what.split(",")[0]] if what else [])


def test_a_run_that_was_stopped_is_not_taken_for_a_whole_one(long_run):
    """SIGTERM ends a training with exit code 0: a run of 80,000 steps was called one of 100,000."""
    for n in (0, 80, 99):
        assert long_run.table(points()[:n]) == ([], [f"stopped after {n} of 100 points"])


@pytest.mark.slow
def test_a_long_run_is_flat(tmp_path, long_run):
    """Finds what only shows in the memory of the process or on the disk. (Its time is measured by make long-run.)

    Not of the GAN: its memory settles only after about 1,000 steps, 1 to 4 % higher than after the first tenth.
    """
    rows, missed = long_run.table(long_run.watched("real", 5_000, tmp_path, "offline"), ratio=1.5)
    assert missed == [], rows
