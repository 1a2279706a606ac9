"""Every data set that is read from files trains and tests from its shipped YAML, on small files of its own form."""

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
import requests
import torch
from conftest import ROOT, slow_but
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import BUILD, N, drawing, pixels

from genmeta.cli.data import read_data_yaml
from genmeta.cli.main import main
from genmeta.data import plain_pickle
from genmeta.data.learn2learn_sets import CUB200, DTD, FC100, CifarFS, FGVCAircraft, MiniImagenet, TieredImagenet
from genmeta.data.omniglot import Omniglot
from genmeta.data.splits import PARTS, find_split, load_split
from genmeta.errors import UserError
from genmeta.learn2learn_import import import_learn2learn
from genmeta.models.checkpoint import load_generator

# run by tests/cli/test_cli.py, test_digits.py
EMBEDDED = {"glyphs", "glyphs_full", "omniglot_minimal", "omniglot_minimal_set2", "digits"}
YAMLS = {path.stem: path for path in sorted((ROOT / "configs" / "data").glob("*.yaml"))}
LEARN2LEARN = sorted(set(BUILD) - {"omniglot", "omniglot_vinyals", "image_folder"})
PROTONET, REAL, DEBUG = "configs/learner/protonet.yaml", "configs/policy/real_only.yaml", "configs/trainer/debug.yaml"


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch, tmp_path_factory):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Return a function that makes the files of a data set, once."""
    made = {}

    def make(name):
        build = BUILD[name]
        if build not in made:
            made[build] = tmp_path_factory.mktemp(name)
            build(made[build])
        return made[build]

    return make


@pytest.fixture
def copy(files, tmp_path):
    """Return a function that makes files of a data set that a test may spoil."""

    def make(name):
        return shutil.copytree(files(name), tmp_path / name)

    return make


def test_every_data_yaml_is_run_by_a_test():
    assert set(YAMLS) == EMBEDDED | set(BUILD)


@pytest.mark.parametrize("name", slow_but(["cifar_fs", "image_folder"], BUILD))
def test_data_sets_train_and_test_from_their_yaml(name, tmp_path, files):
    # one task a batch: ten of pictures of 84×84 take seconds
    settings = ["--config", DEBUG, "--data.tasks_per_eval_batch=1", f"--run.folder={tmp_path}"]
    data = ["--config", str(YAMLS[name]), f"--data.source.folder={files(name)}"]
    assert main(["fit", "--config", PROTONET, "--config", REAL, *data, *settings]) == 0
    (run,) = tmp_path.glob("*/001")
    checkpoint = f"--ckpt_path={run / 'checkpoints' / 'best.ckpt'}"
    assert main(["test", "--config", str(run / "config.yaml"), checkpoint, *settings]) == 0
    (test,) = tmp_path.glob("*/002")
    assert "test/acc_5w5s" in json.loads((test / "run.json").read_text())["metrics"]
    split = json.loads((run / "split.json").read_text())
    assert split == json.loads((test / "split.json").read_text())
    assert json.loads((run / "run.json").read_text())["split"]["hash"] == split["hash"]


@pytest.mark.parametrize(
    ("name", "generator"), [("fc100", "gan"), pytest.param("mini_imagenet", "vae_vamp", marks=pytest.mark.slow)]
)
def test_generators_take_the_size_of_the_data(name, generator, tmp_path, files):
    settings = ["--config", DEBUG, "--data.feature_steps=1", "--data.batch_size=4", f"--run.folder={tmp_path}"]
    settings += [] if generator == "gan" else ["--model.importance_samples=1", "--model.second_stage=0"]
    config = ["--config", f"configs/generator/{generator}.yaml", "--config", str(YAMLS[name])]
    assert main(["fit", *config, f"--data.source.folder={files(name)}", *settings]) == 0
    (run,) = tmp_path.glob("*/001")
    source, _ = read_data_yaml(YAMLS[name], str(files(name)))
    assert load_generator(run / "checkpoints" / "best.ckpt").image_shape == source.image_shape


# classes of each part, where the published lists are in learn2learn's code
PUBLISHED = {"cub200": (140, 30, 30), "vgg_flowers": (71, 15, 16), "fgvc_aircraft": (70, 15, 15), "dtd": (33, 7, 7)}
SIZES = {"cifar_fs": 32, "fc100": 32}


@pytest.mark.parametrize("name", LEARN2LEARN)
def test_colour_sets_have_their_published_size_and_split(name, files):
    source, wanted = read_data_yaml(YAMLS[name], str(files(name)))
    table = source.load()
    size = SIZES.get(name, 84)
    assert table.image_shape == source.image_shape == (3, size, size)
    split = find_split(wanted, table)
    assert tuple(len(split.class_ids(table, p)) for p in PARTS) == PUBLISHED.get(name, (5, 5, 5))
    assert (table.counts == N).all()


@pytest.mark.parametrize("name", ["mini_imagenet", "fc100", "tiered_imagenet", "cifar_fs"])
def test_pixels_arrive_in_their_class_unchanged(name, files):
    """Small files whose pixels are known: catches mixed-up labels, channels or axes."""
    source, wanted = read_data_yaml(YAMLS[name], str(files(name)))
    table = source.load()
    split = find_split(wanted, table)
    for number, part in enumerate(PARTS):
        for i, class_id in enumerate(split.class_ids(table, part).tolist()):
            expected = torch.from_numpy(pixels(table.image_shape[1], 100 * number + i)).permute(0, 3, 1, 2)
            assert torch.equal(table.images[table.class_ids == class_id], expected)


def test_published_part_of_an_aircraft_does_not_depend_on_the_list_it_is_in(files):
    table = FGVCAircraft(str(files("fgvc_aircraft"))).load()
    assert table.parts[table.class_names.index("A380")] == "train"
    assert table.parts[table.class_names.index("Spitfire")] == "test"


@pytest.mark.slow
def test_omniglot_names_its_classes_as_the_minimal_sets_do_and_ink_is_white(files):
    table = Omniglot(str(files("omniglot"))).load()
    assert len(table.class_names) == 1623
    assert {"Japanese_(katakana)/character47", "Latin/character26", "Sanskrit/character42"} <= set(table.class_names)
    assert len(set(table.groups)) == 50
    share = table.images.float().mean() / 255
    assert 0.05 < share < 0.15


def test_omniglot_reads_unpacked_folders_too_and_other_sizes(files, tmp_path):
    for name in ("images_background", "images_evaluation"):
        few = tmp_path / "omniglot-py" / name / "Greek" if "back" in name else tmp_path / name / "Angelic"
        (few / "character01").mkdir(parents=True)
        (few / "character01" / "0001_01.png").write_bytes(drawing(3))
    table = Omniglot(str(tmp_path), size=35).load()
    assert table.class_names == ("Angelic/character01", "Greek/character01")
    assert table.image_shape == (1, 35, 35)


def test_vinyals_split_has_the_sizes_of_the_papers():
    split, authors = load_split("omniglot_vinyals"), load_split("omniglot")
    assert [len(split.train), len(split.val), len(split.test)] == [1028, 172, 423]
    assert [len(authors.train) + len(authors.val), len(authors.test)] == [964, 659]
    assert {*split.train, *split.val, *split.test} == {*authors.train, *authors.val, *authors.test}


@pytest.mark.parametrize("name", [*LEARN2LEARN, "omniglot"])
def test_a_failed_download_says_which_file_to_put_where_and_leaves_nothing(name, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests.Session, "request", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    source, _ = read_data_yaml(YAMLS[name], str(tmp_path / "there"))
    with pytest.raises(UserError, match=r"cannot download .*no network.*put .* into .*there yourself") as raised:
        source.load()
    assert "\n" not in str(raised.value)
    assert [p for p in (tmp_path / "there").rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("name", [*LEARN2LEARN, "omniglot", "image_folder"])
def test_missing_files_are_named_without_a_download(name, tmp_path):
    source, _ = read_data_yaml(YAMLS[name], str(tmp_path / "there"))
    if name != "image_folder":
        source = type(source)(str(tmp_path / "there"))
    with pytest.raises(UserError, match="there"):
        source.load()


@pytest.mark.parametrize("source", [MiniImagenet, FC100, TieredImagenet])
def test_pickles_run_nothing(source, copy, tmp_path):
    """A pickle that would make a folder is refused and makes none."""

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    folder = copy(source.table_name)
    path = folder / source.files[0]
    path.write_bytes(pickle.dumps({"image_data": Attack(), "labels": Attack(), "data": Attack()}))
    with pytest.raises(UserError, match=r"cannot be read .*holds posix\.mkdir; only arrays and plain values"):
        source(str(folder)).load()
    assert not (tmp_path / "ran").exists()


def test_plain_pickles_reads_arrays_of_all_protocols(tmp_path):
    content = {"a": np.arange(6).reshape(2, 3), "b": [np.float32(2), b"bytes", "text"], "c": np.array(["x"], object)}
    for protocol in range(6):
        (tmp_path / "x").write_bytes(pickle.dumps(content, protocol))
        with (tmp_path / "x").open("rb") as file:
            read = plain_pickle.load(file)
        assert (read["a"] == content["a"]).all()
        assert read["b"] == content["b"]
        assert read["c"] == content["c"]


# in a process of its own: the peak of one of many tests is that of another
PEAK = r"""
import io, resource
from genmeta.data import plain_pickle
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert plain_pickle.load(io.BytesIO(b"\x80\x02]r\xff\xff\xff\x0f.")) == []
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_few_damaged_bytes_of_a_pickle_do_not_reserve_memory():
    """Python's unpickler in C makes room for as many entries as a file says it will note down."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) < 500 * 1024


WHOLE = [pickle.dumps({"a": np.zeros((2, 3), np.uint8), "b": {"c": [1, 2], "d": np.float32(1)}}, p) for p in range(6)]


@given(
    st.sampled_from(WHOLE), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6), st.integers(0)
)
@settings(max_examples=200, deadline=None)
def test_fuzz_pickles(whole, changes, end):
    """A value or an exception: no crash, and nothing that the file names is called."""
    content = bytearray(whole)
    for place, value in changes:
        content[place % len(content)] = value
    with contextlib.suppress(Exception):
        plain_pickle.load(BytesIO(bytes(content[: len(content) - end % 9])))


def test_the_pickle_module_of_learn2learn_is_its_own_again(files):
    list(FC100(str(files("fc100"))).stream().blocks)
    assert import_learn2learn().vision.datasets.fc100.pickle is pickle


@pytest.mark.parametrize("name", LEARN2LEARN)
@pytest.mark.parametrize("spoil", ["cut", "garbage", "empty"])
def test_damaged_files_give_one_clear_message_and_no_cache(name, spoil, copy, monkeypatch, tmp_path):
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path / "cache"))
    folder = copy(name)
    shutil.rmtree(folder / "cifarfs" / "processed", ignore_errors=True)  # learn2learn's copy of another test
    path = min(p for p in folder.rglob("*") if p.suffix in (".pkl", ".pickle", ".mat", ".jpg", ".png"))
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "garbage": bytes(range(256)) * 8, "empty": b""}[spoil])
    source, _ = read_data_yaml(YAMLS[name], str(folder))
    with pytest.raises(UserError) as raised:
        source.load()
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "cache").glob("*.table"))
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_killed_copy_of_cifar_fs_leaves_no_half_filled_part(copy, monkeypatch):
    """learn2learn copies classes into `processed` and takes any `processed` for a whole one."""
    folder = copy("cifar_fs")
    shutil.rmtree(folder / "cifarfs" / "processed", ignore_errors=True)
    real, copied = shutil.copytree, []

    def killed(*args, **kwargs):
        copied.append(1)
        if len(copied) == 7:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(shutil, "copytree", killed)
    with pytest.raises(KeyboardInterrupt):
        list(CifarFS(str(folder)).stream().blocks)
    monkeypatch.setattr(shutil, "copytree", real)
    assert len({block.class_name for block in CifarFS(str(folder)).stream().blocks}) == 15


@pytest.mark.parametrize("source", [pytest.param(CUB200, marks=pytest.mark.slow), DTD])
def test_the_order_of_files_in_a_folder_does_not_matter(source, files, monkeypatch):
    """learn2learn takes them as the file system lists them."""
    folder = str(files(source.table_name))
    one = [block.images for block in source(folder).stream().blocks]
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: sorted(real(path), reverse=True))
    other = [block.images for block in source(folder).stream().blocks]
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
