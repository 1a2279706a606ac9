"""Data sources, tables, splits and the cache."""

import itertools
import json
import re
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
import torch
from conftest import OMNIGLOT, ROOT, make_table, toy_split
from PIL import Image

from genmeta.cli.main import main
from genmeta.data.cache import TableStream, cached_table
from genmeta.data.glyphs import (
    N_HANDS,
    Glyphs,
    class_name,
    draw_table,
    hand,
    keep_look_alikes_once,
    load_characters,
    master,
    write,
)
from genmeta.data.learn2learn_sets import CifarFS
from genmeta.data.omniglot import Omniglot
from genmeta.data.omniglot_minimal import FILES, OmniglotMinimal, read_zip
from genmeta.data.splits import SPLITS_FOLDER, Split, load_split
from genmeta.data.table import ImageTable
from genmeta.episode import EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.metric import PixelNearestNeighbour
from genmeta.rng import make_rng
from genmeta.tasks.real import RealTasks
from genmeta.tasks.render import render
from genmeta.tasks.sampler import TaskPool

SPLITS = sorted(path.stem for path in SPLITS_FOLDER.glob("*.json"))


@pytest.fixture(scope="module")
def glyphs():
    return Glyphs().load()


def pixel_accuracy(table: ImageTable, class_ids: torch.Tensor) -> float:
    plan = RealTasks().sample(TaskPool.of(table, class_ids), EpisodeShape(5, 1, 15), 400, 0, make_rng(0))
    batch = render(plan, table.images)
    return (PixelNearestNeighbour()(batch).argmax(2) == batch.query_y).float().mean().item()


def test_glyphs_has_over_a_thousand_classes_of_20_hands(glyphs):
    assert len(glyphs.class_names) >= 1000
    assert (glyphs.counts == N_HANDS).all()
    assert glyphs.image_shape == (1, 28, 28)
    assert len(set(glyphs.groups)) >= 15


def test_glyphs_is_neither_trivial_nor_noise(glyphs):
    accuracy = pixel_accuracy(glyphs, load_split("glyphs_minimal").class_ids(glyphs, "test"))
    assert 0.50 <= accuracy <= 0.75


def test_every_glyph_has_ink_and_paper_in_its_frame(glyphs):
    share = glyphs.images.float().flatten(1).mean(1) / 255
    assert share.min() > 0.01
    assert share.max() < 0.6
    frame = torch.ones(28, 28, dtype=torch.bool)
    frame[1:-1, 1:-1] = False
    cut_off = (glyphs.images[:, 0][:, frame] > 128).float().mean()
    assert cut_off < 0.01, "characters must not run out of the picture"


def test_no_image_occurs_in_two_classes(glyphs):
    _, counts = glyphs.images.flatten(1).unique(dim=0, return_counts=True)
    assert counts.max() == 1


def test_drawing_is_deterministic_and_the_table_is_what_is_drawn(glyphs):
    few = {"Greek": load_characters()["Greek"][:3]}
    drawn, again = draw_table(few), draw_table(few)
    assert torch.equal(drawn.images, again.images)
    first = glyphs.class_names.index(drawn.class_names[0])
    assert torch.equal(glyphs.images[glyphs.class_ids == first], drawn.images[:N_HANDS])


def test_a_hand_is_the_same_for_every_character_and_differs_from_the_others():
    masters = torch.stack([torch.from_numpy(master(c, "DejaVuSans").copy()) for c in "ԱԲ"])
    together, alone = write(masters, hand(3)), write(masters[1:], hand(3))
    assert torch.equal(together[1:], alone)
    assert not torch.equal(write(masters, hand(4)), together)


def test_look_alikes_are_kept_once():
    assert keep_look_alikes_once("AΑАB", threshold=0.08) == "AB"  # Latin, Greek, Cyrillic
    assert keep_look_alikes_once("oOО", threshold=0.08) == "o"


def test_the_committed_characters_hold_no_look_alikes_within_a_script():
    characters = load_characters()["Hebrew"]
    assert keep_look_alikes_once(characters, threshold=0.08) == characters


def test_cache_is_read_back_and_a_damaged_file_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path))
    made = []

    def make():
        made.append(1)
        return TableStream.of(make_table())

    first = cached_table("toy", {"recipe": 1}, make)
    second = cached_table("toy", {"recipe": 1}, make)
    assert len(made) == 1
    assert torch.equal(first.images, second.images)
    assert first.class_names == second.class_names
    (file,) = tmp_path.glob("*.table")
    file.write_bytes(file.read_bytes()[:1000])
    assert torch.equal(cached_table("toy", {"recipe": 1}, make).images, first.images)
    assert len(made) == 2
    cached_table("toy", {"recipe": 2}, make)
    assert len(made) == 3, "another recipe is another file"
    assert not list(tmp_path.glob("*.part"))


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="GENMETA_CACHE"):
        cached_table("toy", {}, lambda: TableStream.of(make_table()))


@pytest.mark.parametrize("name", SPLITS)
def test_committed_splits_share_neither_class_nor_group(name):
    split = load_split(name)
    # as published, with different characters; ten digits are one group
    shared = {"omniglot_vinyals": {"Gurmukhi"}, "digits": {"digits"}}.get(name, set())
    groups = [{c.split("/")[0] for c in part} for part in (split.train, split.val, split.test)]
    for a, b in itertools.combinations(groups, 2):
        assert a & b <= shared


def test_glyphs_splits_cover_classes_that_are_drawn(glyphs):
    for name, n_train in (("glyphs_full", 850), ("glyphs_minimal", 149)):
        split = load_split(name)
        assert len(split.class_ids(glyphs, "train")) == n_train
        split.class_ids(glyphs, "val")
        split.class_ids(glyphs, "test")
    minimal, full = load_split("glyphs_minimal"), load_split("glyphs_full")
    assert (minimal.val, minimal.test) == (full.val, full.test)
    assert {c.split("/")[0] for c in minimal.train} == {"Tifinagh", "Lao", "Hebrew", "NKo", "OldItalic"}


def test_no_test_class_looks_like_a_training_class(glyphs):
    """The leak that look-alikes would be: nearly equal pixels in one hand."""
    split = load_split("glyphs_full")
    hand_0 = glyphs.images.view(-1, N_HANDS, 28 * 28)[:, 0].float() / 255
    train = hand_0[split.class_ids(glyphs, "train")]
    test = hand_0[split.class_ids(glyphs, "test")]
    joint = torch.cdist(train, test).square() / (train.square().sum(1)[:, None] + test.square().sum(1))
    assert joint.min() > 0.05


def test_split_hash_depends_on_content_not_on_order_or_name():
    split = Split("a", "toy", ("x", "y"), ("z",), ("w",))
    assert split.hash == Split("b", "toy", ("y", "x"), ("z",), ("w",)).hash
    assert split.hash != Split("a", "toy", ("x", "y"), ("w",), ("z",)).hash
    assert split.hash != Split("a", "other", ("x", "y"), ("z",), ("w",)).hash


def test_split_overlap_is_named():
    with pytest.raises(UserError, match=r"class 'x' is in 'train' and in 'test'"):
        Split("a", "toy", ("x", "y"), ("z",), ("x",))
    with pytest.raises(UserError, match="part 'val' has no classes"):
        Split("a", "toy", ("x",), (), ("y",))


def test_split_errors_name_what_would_work(tmp_path):
    with pytest.raises(UserError, match="did you mean 'glyphs_minimal'"):
        load_split("glyphs_minimla")
    (tmp_path / "bad.json").write_text('{"dataset": "toy", "train": [1]}')
    with pytest.raises(UserError, match=r"bad\.json: expected JSON"):
        load_split(str(tmp_path / "bad.json"))
    table = make_table()
    with pytest.raises(UserError, match="is for data set 'glyphs', but the data are 'toy'"):
        load_split("glyphs_minimal").class_ids(table, "train")
    split = toy_split(table)
    other = Split("o", "toy", (*split.train, "g0/c99"), split.val, split.test)
    with pytest.raises(UserError, match="1 of the train classes are not in data set 'toy', the first is 'g0/c99'"):
        other.class_ids(table, "train")


def test_table_refuses_parts_that_do_not_fit():
    table = make_table(3)
    with pytest.raises(UserError, match="sorted by class"):
        ImageTable("t", table.images, table.class_ids.flip(0), table.class_names, table.groups)
    with pytest.raises(UserError, match="uint8"):
        ImageTable("t", table.images.float(), table.class_ids, table.class_names, table.groups)


def write_zip(path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def png(value: int = 0) -> bytes:
    file = BytesIO()
    image = Image.new("L", (105, 105), 255)
    image.paste(value, (40, 40, 60, 60))
    image.convert("1").save(file, "PNG")
    return file.getvalue()


def test_omniglot_zip_ink_is_white_and_shapes_follow_the_option(tmp_path):
    write_zip(tmp_path / "a.zip", {"set/Greek/character01/1_01.png": png(), "set/readme.txt": b"no image"})
    drawings = read_zip(tmp_path / "a.zip", 28)
    (image,) = drawings["Greek/character01"]
    assert image.shape == (1, 28, 28)
    assert image[0, 14, 14] == 255
    assert image[0, 0, 0] == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; put .* there"),
        (b"", "cut off, damaged, or no zip"),
        (b"not a zip at all" * 100, "cut off, damaged, or no zip"),
        ({"set/Greek/character01/1.png": b"no picture"}, "cut off, damaged, or no zip of PNG"),
        ({"set/Greek/character01/1.png": png()[:-40]}, "cut off, damaged, or no zip of PNG"),
        ({"readme.txt": b"hello"}, "holds no <set>/<alphabet>"),
    ],
)
def test_bad_zips_give_one_clear_message(tmp_path, content, message):
    path = tmp_path / FILES[0]
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        write_zip(path, content)
    with pytest.raises(UserError, match=message) as raised:
        read_zip(path, 28)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_omniglots_zips_are_looked_for_where_the_user_says_or_in_data(tmp_path, monkeypatch, capsys):
    """The shipped YAML named a folder of the machine that it was written on."""
    args = ["fit", "--config=configs/generator/gan_classic.yaml", "--config=configs/data/omniglot_minimal.yaml"]
    monkeypatch.chdir(ROOT)
    for given, place in ((tmp_path, tmp_path), ("", Path("data"))):
        monkeypatch.setenv("GENMETA_DATA", str(given))
        assert OmniglotMinimal("mine").folder == "mine"
        if not (place / FILES[0]).is_file():
            assert main([*args, f"--run.folder={tmp_path}/runs"]) == 2
            error = capsys.readouterr().err
            assert f"{place / FILES[0]}: no such file; put {FILES[0]} there" in error
            assert "github.com/brendenlake/omniglot" in error
            assert "set GENMETA_DATA" in error
    monkeypatch.setenv("GENMETA_DATA", str(tmp_path))
    assert Omniglot().path == tmp_path / "omniglot"
    assert CifarFS().path == tmp_path / "cifar_fs"


def test_no_shipped_yaml_names_a_path_of_a_machine():
    for path in (ROOT / "configs").rglob("*.yaml"):
        text = path.read_text()
        assert "../" not in text, path
        assert not re.search(r"folder: *[/~]", text), path


@pytest.mark.skipif(not OMNIGLOT.is_dir(), reason="the Omniglot zip files are not here")
class TestRealOmniglot:
    def test_sizes_and_split(self):
        table = OmniglotMinimal(str(OMNIGLOT)).load()
        assert len(table.class_names) == 136 + 106
        assert (table.counts == 20).all()
        split = load_split("omniglot_minimal")
        assert [len(split.class_ids(table, part)) for part in ("train", "val", "test")] == [136, 17, 89]
        share = table.images.float().mean() / 255
        assert 0.05 < share < 0.12, "ink is white and thin"
        assert 0.3 < pixel_accuracy(table, split.class_ids(table, "test")) < 0.5

    def test_a_cut_off_zip_is_refused(self, tmp_path):
        whole = (OMNIGLOT / FILES[0]).read_bytes()
        (tmp_path / FILES[0]).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match="cut off"):
            OmniglotMinimal(str(tmp_path)).load()


def test_class_names_are_readable():
    assert class_name("Greek", "α") == "Greek/U+03B1"
    assert json.loads((SPLITS_FOLDER / "glyphs_minimal.json").read_text())["dataset"] == "glyphs"
