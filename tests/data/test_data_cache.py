"""Prepared tables: larger than memory, never half-written, never trusted without a look."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, make_table, toy_split
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import image_folder

from genmeta.data import cache, table
from genmeta.data.cache import Block, TableStream, cached_table, read_table, table_path
from genmeta.data.image_folder import ImageFolder
from genmeta.data.table import ImageTable, gather
from genmeta.episode import EpisodeShape
from genmeta.errors import UserError
from genmeta.rng import make_rng
from genmeta.tasks.real import RealTasks
from genmeta.tasks.render import render
from genmeta.tasks.sampler import TaskPool


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small_memory(monkeypatch):
    """Every table counts as larger than memory."""
    monkeypatch.setattr(cache, "RESIDENT_LIMIT", 1000)
    monkeypatch.setattr(table, "RESIDENT_LIMIT", 1000)


def make() -> ImageTable:
    return cached_table("toy", {}, lambda: TableStream.of(make_table()))


def is_mapped(images: torch.Tensor) -> bool:
    lines = Path("/proc/self/maps").read_text().splitlines()
    maps = [line.split()[0].split("-") for line in lines if ".table" in line]
    return any(int(first, 16) <= images.data_ptr() < int(last, 16) for first, last in maps)


def test_a_large_table_is_mapped_and_is_the_same_table(small_memory):
    mapped, whole = make(), make_table()
    if sys.platform == "linux":
        assert is_mapped(mapped.images)
    assert not mapped.resident
    assert torch.equal(mapped.images, whole.images)
    assert (mapped.class_names, mapped.groups, mapped.parts) == (whole.class_names, whole.groups, whole.parts)
    assert torch.equal(mapped.starts, whole.starts)


def test_episodes_of_a_large_table_are_the_same(small_memory):
    mapped, whole = make(), make_table()
    ids = toy_split(whole).class_ids(whole, "train")
    shape = EpisodeShape(5, 2, 3)
    plans = [RealTasks(True).sample(TaskPool.of(t, ids), shape, 4, 0, make_rng(0)) for t in (mapped, whole)]
    one, other = (render(plan, t.images) for plan, t in zip(plans, (mapped, whole), strict=True))
    assert torch.equal(one.support_x, other.support_x)
    assert torch.equal(one.query_x, other.query_x)


def test_gather_moves_the_gathered_rows_only():
    """The table may be on another device than the rows: it must not follow them as a whole."""
    images = torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2)
    rows = torch.tensor([5, 0, 5])
    assert torch.equal(gather(images, rows), images[[5, 0, 5]])
    assert gather(images.to("meta"), rows.to("meta")).shape == (3, 1, 2, 2)


def test_blocks_of_a_class_are_joined_and_parts_are_kept():
    images = torch.arange(40, dtype=torch.uint8).view(10, 1, 2, 2)
    blocks = [
        Block("a", "g", images[:3], "train"),
        Block("a", "g", images[3:5], "train"),
        Block("b", "h", images[5:], "test"),
    ]
    made = cached_table("x", {}, lambda: TableStream("x", (1, 2, 2), blocks))
    assert made.counts.tolist() == [5, 5]
    assert (made.groups, made.parts) == (("g", "h"), ("train", "test"))
    assert torch.equal(made.images, images)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([Block("a", "g", torch.zeros(1, 3, 2, 2, dtype=torch.uint8))], "expected uint8 .1, 2, 2."),
        ([Block("a", "g", torch.zeros(1, 1, 2, 2))], "images are torch.float32"),
        (
            [Block(n, "g", torch.zeros(1, 1, 2, 2, dtype=torch.uint8)) for n in "aba"],
            "two classes have the same name, 'a'",
        ),
        ([], "x: there are no images"),
    ],
)
def test_wrong_streams_are_refused_and_leave_nothing(blocks, message, folder):
    with pytest.raises(UserError, match=message):
        cached_table("x", {}, lambda: TableStream("x", (1, 2, 2), blocks))
    assert not [p for p in folder.iterdir() if p.suffix != ".lock"]


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("where", [0, 20, 2000, -100, -41, -20, -1])
def test_one_changed_byte_is_found(where, mapped, request):
    if mapped:
        request.getfixturevalue("small_memory")
    make()
    path = table_path("toy", {})
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"\.table: cut off or damaged"):
        read_table(path)
    assert torch.equal(make().images, make_table().images)


@given(st.binary(max_size=300), st.integers(0, 6000), st.booleans())
@settings(max_examples=150, deadline=None)
def test_fuzz_tables(garbage, cut, append):
    path = table_path("fuzz", {})
    whole = cached_table("fuzz", {}, lambda: TableStream.of(make_table()))
    content = path.read_bytes()
    path.write_bytes(content[:cut] + garbage + (content[cut + len(garbage) :] if append else b""))
    try:
        assert torch.equal(read_table(path).images, whole.images)
        assert path.read_bytes() == content
    except UserError as error:
        assert "\n" not in str(error)
    path.unlink()


def test_a_mapped_table_is_hashed_once_and_again_when_the_file_changed(small_memory, monkeypatch):
    hashed = []
    real = cache._compare_digest
    monkeypatch.setattr(cache, "_compare_digest", lambda file: (hashed.append(1), real(file)))
    make()
    make()
    assert hashed == [], "it was hashed while it was written"
    path = table_path("toy", {})
    read_table(path, trust_stamp=False)
    assert len(hashed) == 1
    os.utime(path, ns=(1, 1))
    make()
    make()
    assert len(hashed) == 2


SLOW = """
import os, sys, time
import torch
from genmeta.data.cache import Block, TableStream, cached_table
def blocks():
    for i in range(50):
        print(i, flush=True)
        while i == 20 and not os.path.exists(sys.argv[1]):
            time.sleep(0.01)
        yield Block(f"c{i}", "g", torch.full((9, 1, 28, 28), i, dtype=torch.uint8))
print("begun", flush=True)
table = cached_table("slow", {}, lambda: TableStream("slow", (1, 28, 28), blocks()))
print("made", len(table.images), int(table.images[-1, 0, 0, 0]))
"""


def start(go: Path) -> subprocess.Popen[str]:
    """Begin to prepare a table of 50 classes, of which the 21st waits for a file."""
    return subprocess.Popen([sys.executable, "-c", SLOW, str(go)], stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_a_killed_preparation_leaves_no_table_and_the_next_one_completes(folder, tmp_path):
    with start(tmp_path / "never") as process:
        while process.stdout.readline() != "20\n":
            pass
        process.send_signal(signal.SIGKILL)
    assert list(folder.glob(".slow-*.part")), "the test killed it too late"
    assert not list(folder.glob("*.table"))
    assert "made 450 49" in start(tmp_path).communicate()[0]
    assert len(list(folder.glob("*.table"))) == 1
    assert not list(folder.glob(".*.part"))


def test_of_two_processes_one_prepares_and_the_other_waits(tmp_path):
    go = tmp_path / "go"
    first = start(go)
    while first.stdout.readline() != "20\n":
        pass
    second = start(go)
    assert second.stdout.readline() == "begun\n"
    go.touch()
    assert "made 450 49" in first.communicate()[0]
    assert second.communicate()[0] == "made 450 49\n"


def test_a_killed_prepare_command_completes_when_run_again(tmp_path, folder):
    image_folder(tmp_path / "pictures")
    command = [
        sys.executable,
        "-m",
        "genmeta",
        "data",
        "prepare",
        "image_folder",
        "--folder",
        str(tmp_path / "pictures"),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while not (folder.is_dir() and list(folder.glob(".image_folder-*.part"))) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "300 images 1×28×28, 15 classes, 3 groups" in done.stdout
    assert len(list(folder.glob("*.table"))) == 1
    assert not list(folder.glob(".*.part"))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(folder):
    """A table of 242 MB in blocks of 40 MB: neither writing nor reading a few rows holds it."""
    code = """
import resource, torch
from genmeta.data import cache, table
from genmeta.data.cache import Block, TableStream, cached_table
cache.RESIDENT_LIMIT = table.RESIDENT_LIMIT = 2**20
image = torch.zeros(2000, 3, 84, 84, dtype=torch.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
stream = TableStream("large", (3, 84, 84), (Block(f"c{i}", "g", image) for i in range(6)))
made = cached_table("large", {}, lambda: stream)
rows = torch.tensor([0, 5000, 11999])
assert made.images.index_select(0, rows).shape == (3, 3, 84, 84)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(made.images.nbytes // 2**20, int(grown))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    size, grown = map(int, done.stdout.split()[-2:])
    assert size > 200
    assert grown < size / 4


def test_the_recipe_follows_the_files(tmp_path):
    image_folder(tmp_path)
    source = ImageFolder(str(tmp_path), size=8, channels=1)
    one = source.cache_path()
    assert source.cache_path() == one
    assert ImageFolder(str(tmp_path), size=9, channels=1).cache_path() != one
    (tmp_path / "group0" / "thing0" / "0.png").rename(tmp_path / "group0" / "thing0" / "x.png")
    assert source.cache_path() != one
