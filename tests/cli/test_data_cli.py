"""`genmeta data`: list, prepare, show."""

import json
import re

import numpy as np
import pytest
from conftest import OMNIGLOT, ROOT
from PIL import Image
from small_data import image_folder
from test_cli import assert_one_line

from genmeta.cli.main import main


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_list_names_every_data_set_and_what_is_prepared(tmp_path, capsys, cache, monkeypatch):
    (tmp_path / "configs" / "data").mkdir(parents=True)
    for path in (ROOT / "configs" / "data").glob("*.yaml"):
        text = path.read_text().replace("folder: pictures", f"folder: {tmp_path / 'pictures'}")
        (tmp_path / "configs" / "data" / path.name).write_text(text)
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "pictures")
    assert main(["data", "list"]) == 0
    shown = capsys.readouterr().out
    for path in (ROOT / "configs" / "data").glob("*.yaml"):
        assert re.search(rf"^{path.stem} ", shown, re.M)
    assert re.search(r"^image_folder +not prepared: genmeta data prepare image_folder$", shown, re.M)
    assert re.search(
        r"^mini_imagenet +.*train\.pkl: not there; genmeta data prepare mini_imagenet fetches it$", shown, re.M
    )
    assert f"cache: {cache}" in shown
    assert main(["data", "prepare", "image_folder"]) == 0
    assert "300 images 1×28×28, 15 classes, 3 groups, 235 kB" in capsys.readouterr().out
    assert main(["data", "list"]) == 0
    assert re.search(r"^image_folder +prepared: image_folder-\w+\.table, 2\d\d kB$", capsys.readouterr().out, re.M)


def show(tmp_path, name: str, folder) -> int:
    return main(["data", "show", name, "--folder", str(folder), "--out", str(tmp_path / "out")])


def test_show_counts_draws_a_sheet_a_part_and_writes_the_split(tmp_path, capsys, cache):
    image_folder(tmp_path / "pictures")
    assert show(tmp_path, "image_folder", tmp_path / "pictures") == 0
    shown = capsys.readouterr().out
    assert "no class is in two parts" in shown
    assert "no image is in two parts" in shown
    for part in ("train", "val", "test"):
        assert re.search(rf"  {part} +5 classes in 1 groups, 100 images, 20 to 20 a class", shown)
        with Image.open(tmp_path / "out" / f"{part}.png") as sheet:
            assert sheet.height == 5 * 58
            assert sheet.width > 12 * 58
    split = json.loads((tmp_path / "out" / "split.json").read_text())
    assert f"hash {split['hash']}" in shown


def test_show_names_identical_images_of_two_parts(tmp_path, capsys, cache):
    """The leak that class names do not show: one picture under two names."""
    image_folder(tmp_path / "pictures")
    split_of = {}
    assert show(tmp_path, "image_folder", tmp_path / "pictures") == 0
    for part in ("train", "test"):
        split_of[part] = json.loads((tmp_path / "out" / "split.json").read_text())[part][0]
    content = (tmp_path / "pictures" / split_of["train"] / "3.png").read_bytes()
    (tmp_path / "pictures" / split_of["test"] / "7.png").write_bytes(content)
    capsys.readouterr()
    assert show(tmp_path, "image_folder", tmp_path / "pictures") == 2
    out, err = capsys.readouterr()
    files = {part: tmp_path / "pictures" / name for part, name in split_of.items()}
    expected = f"{files['test'] / '7.png'} (test) is {files['train'] / '3.png'} (train)"
    assert expected in out
    assert f"1 images of image_folder are in two parts of split drawn-0, the first: {expected}" in err
    assert err.count("\n") == 1


@pytest.mark.skipif(not OMNIGLOT.is_dir(), reason="the Omniglot zip files are not here")
def test_show_of_real_omniglot_is_ink_on_black_beside_names(tmp_path, capsys):
    assert show(tmp_path, "omniglot_minimal", OMNIGLOT) == 0
    with Image.open(tmp_path / "out" / "train.png") as sheet:
        pixels = np.asarray(sheet.convert("L"))[:, -12 * 58 :]
    assert 0.02 < (pixels > 128).mean() < 0.3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "required: command"),
        (["shw"], "invalid choice: 'shw'"),
        (["show"], "required: data"),
        (["show", "glyfs"], "'glyfs' is no file and none of .*did you mean 'glyphs'"),
        (["show", "glyphs", "--folder", "x"], "--folder: data set glyphs is read from no folder"),
        (["show", "omniglot_minimal", "--folder", "nowhere"], "nowhere/images_background_small1.zip: no such file"),
        (["prepare", "image_folder", "--folder", "nowhere"], "nowhere: no such folder"),
        (["prepare", "README.md"], r"README\.md: names no data source"),
        (["prepare", "configs/trainer/cpu.yaml"], r"cpu\.yaml: names no data source"),
    ],
)
def test_wrong_input_gives_one_line(args, message, capsys, cache):
    assert main(["data", *args]) == 2
    assert_one_line(capsys, message)


def test_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["data", "--help"])
    assert stopped.value.code == 0
    assert "prepare" in capsys.readouterr().out
