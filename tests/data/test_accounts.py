"""Every file that somebody puts into a data set is used, or counted with its reason: used + named = found."""

import itertools
import json
import os
import pickle
import shutil
import zipfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_data import BUILD, drawing, encoded, pixels

from genmeta.cli.data import read_data_yaml
from genmeta.cli.main import main
from genmeta.data.account import Account
from genmeta.data.decode import formats, picture_suffixes
from genmeta.data.duplicates import drop_duplicates, find_duplicates
from genmeta.data.glyphs import FACES, N_HANDS, Glyphs, font_path
from genmeta.data.image_folder import ImageFolder, list_folder
from genmeta.data.omniglot import Omniglot
from genmeta.data.omniglot_minimal import FILES, OmniglotMinimal
from genmeta.data.source import outline_and_table
from genmeta.data.splits import PARTS, DrawnSplit, Split, load_split
from genmeta.data.table import ImageTable
from genmeta.episode import EpisodeShape
from genmeta.errors import UserError
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.image_data import ImageDataModule
from genmeta.tasks.evaluated import Episodes
from genmeta.tasks.latent import LatentTasks
from genmeta.tasks.policies import PriorNoise
from genmeta.tasks.real import RealTasks

PLAIN = ["--config", "configs/baseline/pixels.yaml", "--config", "configs/trainer/debug.yaml"]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path / "cache"))


def picture(kind: str, seed: int = 0) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels(12, seed, 1)[0]).save(file, kind)
    return file.getvalue()


# kinds that Pillow also writes; AVIF is lossy and slow to write, so it has a test of its own
KINDS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP", "bmp": "BMP", "tif": "TIFF", "tiff": "TIFF"}
KINDS |= {"gif": "GIF", "jp2": "JPEG2000", "ppm": "PPM"}
CONTENT = {kind: picture(kind) for kind in sorted(set(KINDS.values()))}


def test_a_folder_of_mixed_formats_is_used_whole(tmp_path):
    """Half of the pictures were left out, by their suffix, without a word."""
    for label in range(6):
        folder = tmp_path / "pictures" / f"class{label}"
        folder.mkdir(parents=True)
        for number, (suffix, kind) in enumerate(
            [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP"), ("bmp", "BMP"), ("tif", "TIFF"), ("JPEG", "JPEG")]
        ):
            (folder / f"{number}.{suffix}").write_bytes(picture(kind, label))
    table = ImageFolder(str(tmp_path / "pictures"), 12).load()
    assert len(table.images) == 36
    assert str(table.account) == "pictures: 36 used, 0 passed over"
    first = table.images[0].float()
    assert (table.images[2:5].float() - first).abs().mean() < 25, "the same picture in each format"


@pytest.mark.skipif("AVIF" not in formats(), reason="this Pillow is built without AVIF")
def test_avif_is_read(tmp_path):
    for label in "abc":
        (tmp_path / "p" / label).mkdir(parents=True)
        (tmp_path / "p" / label / "1.AVIF").write_bytes(picture("AVIF"))
    assert len(ImageFolder(str(tmp_path / "p"), 12).load().images) == 3


def test_what_pillow_is_built_without_is_named_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("genmeta.data.image_folder.picture_suffixes", lambda: picture_suffixes() - {".avif"})
    for label in "abc":
        (tmp_path / "p" / label).mkdir(parents=True)
        (tmp_path / "p" / label / "1.png").write_bytes(CONTENT["PNG"])
    (tmp_path / "p" / "b" / "2.avif").write_bytes(b"x")
    account = ImageFolder(str(tmp_path / "p"), 12).load().account
    assert str(account) == "pictures: 3 used, 1 passed over: 1 of kind .avif (b/2.avif)"


def test_a_folder_of_a_mac_archive_is_used_and_its_litter_is_not_told(tmp_path):
    """`__MACOSX` was taken for a class without pictures, and refused."""
    archive = tmp_path / "pictures.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for label in "abc":
            file.writestr(f"{label}/1.png", CONTENT["PNG"])
            file.writestr(f"{label}/.DS_Store", b"x")
            file.writestr(f"__MACOSX/{label}/._1.png", b"x")
        file.writestr("a/Thumbs.db", b"x")
        file.writestr("DESKTOP.INI", b"x")
    shutil.unpack_archive(archive, tmp_path / "pictures")
    account = ImageFolder(str(tmp_path / "pictures"), 12).load().account
    assert str(account) == "pictures: 3 used, 0 passed over"
    assert (account.found, account.litter) == (11, 8)


# --- any folder -------------------------------------------------------------------------------------------------------

STEMS = st.sampled_from(["1", "two words", "ünï", "図", "e\u0301", "a.b", "-x", "#1", "'q'", "x.png", "._y", ".z"])
SUFFIXES = st.sampled_from(
    [*KINDS, "PNG", "Jpg", "WebP", "txt", "heic", "", "png.txt", "txt.png", "png~", "0001", "xml"]
)
NAMES = st.one_of(
    st.builds(lambda stem, suffix: f"{stem}.{suffix}" if suffix else stem, STEMS, SUFFIXES),
    st.sampled_from([".DS_Store", "Thumbs.db", "desktop.ini", "._1.png", ".png", "README", "labels.csv"]),
)
CLASSES = st.sampled_from(["cat", "Dog", "ünï", "猫", "a b", "e\u0301", "x.png"])
LITTER_FOLDERS = ["__MACOSX", ".git", "@eaDir", ".thumbnails"]
THINGS = st.sampled_from(["picture"] * 6 + ["garbage", "broken link", "link to itself", "link to a file", "fifo"])
WHERE = st.sampled_from(["class"] * 12 + ["root", "litter", "litter inside", "deep", "circle", "alias", "empty"])


@st.composite
def folders(draw) -> list[tuple[str, str, str, str, str]]:
    """Where a file lies, its class, its name, what it is, and the format of its content."""
    one = st.tuples(WHERE, CLASSES, NAMES, THINGS, st.sampled_from(sorted(CONTENT)))
    return draw(st.lists(one, min_size=1, max_size=14))


def build(root: Path, plan: list[tuple[str, str, str, str, str]]) -> None:
    for label in ("base1", "base2", "base3"):
        (root / label).mkdir(parents=True)
        (root / label / "0.png").write_bytes(CONTENT["PNG"])
    for number, (where, label, name, thing, kind) in enumerate(plan):
        folder = {
            "class": root / "base1",
            "root": root,
            "litter": root / LITTER_FOLDERS[number % 4] / label,
            "litter inside": root / "base2" / LITTER_FOLDERS[number % 4],
            "deep": root / label / "inner" / "deeper",
            "empty": root / label,
            "circle": root / "base2",
            "alias": root,
        }[where]
        if where == "class" and thing == "picture" and number % 2:
            folder = root / label  # a class of its own
        folder.mkdir(parents=True, exist_ok=True)
        if where == "empty":
            continue
        path = folder / (f"{where}{number}" if where in ("circle", "alias") else name)
        if os.path.lexists(path):
            continue
        if where == "circle":
            path.symlink_to([root, root / "base2", Path("."), Path("..")][number % 4])
        elif where == "alias":
            path.symlink_to(["base1", root / "base2"][number % 2])
        elif thing == "picture":
            path.write_bytes(CONTENT[kind])
        elif thing == "garbage":
            path.write_bytes(b"no picture")
        elif thing == "link to a file":
            (root.parent / "elsewhere").write_bytes(CONTENT[kind])
            path.symlink_to(root.parent / "elsewhere")
        elif thing == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to(path if thing == "link to itself" else "nowhere")


def put_in(root: Path) -> int:
    """Count all that is no folder, links to folders too."""
    entries = [Path(where) / name for where, folders, names in os.walk(root) for name in (*folders, *names)]
    return sum(path.is_symlink() or not path.is_dir() for path in entries)


def is_shown_picture(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in picture_suffixes()


@given(folders())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([("class", "cat", "1.png", "fifo", "PNG"), ("class", "cat", "2.png", "link to itself", "PNG")])
@example([("alias", "cat", "1.png", "picture", "PNG"), ("alias", "cat", "1.png", "picture", "PNG")])
@example([("circle", "cat", "1.png", "picture", "PNG"), ("litter", "cat", "1.png", "picture", "PNG")])
@example([("class", "cat", "2.png", "picture", "PNG"), ("empty", "Dog", "1.png", "picture", "PNG")])
@example([("class", "cat", f"{i}.{s}", "picture", "GIF") for i, s in enumerate(["0001", "png.txt", "txt.png", "PNG"])])
def test_each_file_of_any_folder_is_used_or_named(tmp_path_factory, plan):
    """Formats, suffix cases, litter, Unicode, spaces, links (broken, in a circle), too deep, empty, wrong suffix."""
    root = tmp_path_factory.mktemp("any") / "pictures"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENMETA_CACHE", str(root.parent / "cache"))
        build(root, plan)
        try:
            table = ImageFolder(str(root), 8).load()
        except UserError as error:  # refused as a whole, for a file or folder that it names
            assert str(root) in str(error)
            assert "\n" not in str(error)
            assert os.path.lexists(str(error).partition(": ")[0]), "what it names is there"
            assert not list((root.parent / "cache").glob("*.table"))
            assert not all(
                where in ("class", "litter", "litter inside", "circle", "alias")
                and (where != "class" or (thing == "picture" and is_shown_picture(name)))
                for where, _, name, thing, _ in plan
            ), "nothing was wrong"
            return
        account = table.account
        assert account.used == len(table.images)
        assert account.found == put_in(root), "used + named = found"
        assert set(account.examples) == set(account.passed_over)
        line = str(account)
        assert line.isprintable()
        # what is left out is no picture by its name, or hidden, or cannot be opened
        for where, _, names in os.walk(root):
            for path in (Path(where) / name for name in names):
                shown = not any(part.startswith((".", "__MACOSX", "@eaDir")) for part in path.relative_to(root).parts)
                if shown and path.suffix.lower() in picture_suffixes() and path.is_file():
                    assert path in {file for found in list_folder(root).classes for file in found.files}
        files = {os.path.realpath(file.parent) for found in list_folder(root).classes for file in found.files}
        assert len(files) == len(table.class_names), "no class is there under two names"
        # the cached table tells the same
        assert ImageFolder(str(root), 8).load().account == account


def test_what_is_refused_says_which_folder_and_what_lies_there(tmp_path):
    root = tmp_path / "pictures"
    build(root, [])
    (root / "phone").mkdir()
    for number in range(4):
        (root / "phone" / f"IMG_{number}.HEIC").write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"phone: holds no picture .*but 4 other files like IMG_0\.HEIC; put some there"
    ):
        ImageFolder(str(root), 8).load()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_listed_is_refused(tmp_path):
    root = tmp_path / "pictures"
    build(root, [])
    (root / "base2").chmod(0)
    with pytest.raises(UserError, match="base2: cannot be listed"):
        ImageFolder(str(root), 8).load()


def test_names_that_are_no_text(tmp_path):
    """Linux takes any bytes for a name; the fingerprint and the messages must too."""
    root = tmp_path / "pictures"
    build(root, [])
    (root / "base1" / os.fsdecode(b"\xff.png")).write_bytes(CONTENT["PNG"])
    (root / "base1" / os.fsdecode(b"\xfe.txt")).write_bytes(b"x")
    account = ImageFolder(str(root), 8).load().account
    assert (account.used, account.found) == (4, 5)
    str(account).encode()
    (root / os.fsdecode(b"\xff")).mkdir()
    with pytest.raises(UserError, match="no UTF-8; rename it"):
        ImageFolder(str(root), 8).load()


def test_a_file_that_comes_later_is_told_though_the_table_is_cached(tmp_path, monkeypatch):
    root = tmp_path / "pictures"
    build(root, [])
    ImageFolder(str(root), 8).load()
    (root / "base1" / "notes.txt").write_text("x")
    monkeypatch.setattr("genmeta.data.image_folder.decode", None)  # nothing is decoded again
    assert ImageFolder(str(root), 8).load().account.passed_over == {"of kind .txt": 1}


def test_classes_of_no_part_are_passed_over(tmp_path):
    """A split file that forgets a class left its pictures out without a word."""
    classes(tmp_path / "pictures", dict.fromkeys("abcde", 3))
    source = ImageFolder(str(tmp_path / "pictures"), 12)
    split = Split("mine", "image_folder", ("a",), ("c",), ("d",))
    *_, (table, _) = outline_and_table(source, split)
    assert str(table.account) == "pictures: 9 used, 6 passed over: 6 in no part of split mine (b)"
    *_, (table, _) = outline_and_table(source, DrawnSplit())
    assert table.account.passed_over == {}
    fonts = [str(shutil.copy(font_path(FACES[0]), tmp_path / "one.ttf"))]
    (tmp_path / "characters.json").write_text(json.dumps({"mine": "abcd"}))
    own = Glyphs(fonts, str(tmp_path / "characters.json"))
    split = Split("mine", "own_glyphs", ("mine/U+0061",), ("mine/U+0062",), ("mine/U+0063",))
    account = split.told(own.load()).account
    assert (account.used, account.passed_over) == (4, {"in no part of split mine": 1}), "a font, three characters"


def test_a_link_to_a_hidden_folder_or_elsewhere_is_a_class(tmp_path):
    root = tmp_path / "pictures"
    build(root, [])
    for store in (root / ".store" / "cat", tmp_path / "elsewhere"):
        store.mkdir(parents=True)
        (store / "1.png").write_bytes(CONTENT["PNG"])
    (root / "cat").symlink_to(".store/cat")
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (root / ".trash").symlink_to("/usr")  # nobody counts what lies there
    account = ImageFolder(str(root), 8).load().account
    assert (account.used, account.passed_over, account.litter) == (5, {"hidden": 1}, 1)


def test_many_reasons_stay_one_line():
    account = Account(1, {f"reason {i}": i for i in range(1, 30)}, {f"reason {i}": "x" * 60 for i in range(1, 30)})
    assert str(account).endswith(", 300 for 24 more reasons")
    assert str(account).startswith("pictures: 1 used, 435 passed over: 29 reason 29 (")


# --- the other readers ------------------------------------------------------------------------------------------------

MEMBERS = ["s/Greek/c1/1.png", "s/Greek/c1/2.PNG", "s/Latin/c1/1.png", "s/readme.txt", "s/Greek/c1/x/3.png", "4.png"]
MEMBERS += ["__MACOSX/s/Greek/c1/._1.png", "__MACOSX/Greek/c1/._2.png", "s/Greek/.DS_Store", "s/Greek/c2/1.jpg"]
MEMBERS += ["s/Greek/.ipynb_checkpoints/1.png", "s/.Latin/c1/1.png", "s/Greek/c1/.7.png", "s/.git/config"]


def write_zip(path: Path, members: list[str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("s")
        for number, name in enumerate(members):
            archive.writestr(name, drawing(number))


@given(st.lists(st.sampled_from(MEMBERS), unique=True), st.lists(st.sampled_from(MEMBERS), unique=True))
@settings(max_examples=30, deadline=None)
def test_each_member_of_omniglot_zips_is_used_or_named(tmp_path_factory, first, second):
    root = tmp_path_factory.mktemp("zips")
    first, second = (sorted({*members, "s/Greek/c1/1.png"}) for members in (first, second))
    second = [name.replace("Greek", "Other") if number % 2 else name for number, name in enumerate(second)]
    second = sorted({*second, "s/Other/c1/1.png"})
    for name, members in zip(FILES, (first, second), strict=True):
        write_zip(root / name, members)
    table = OmniglotMinimal(str(root), 12).load()
    assert table.account.used == len(table.images)
    assert table.account.found == len(first) + len(second)
    assert not any("/." in f"/{name}" for name in table.class_names), "hidden folders are no characters"


@pytest.mark.parametrize("unpacked", [False, True])
def test_each_file_of_omniglot_is_used_or_named(tmp_path, unpacked):
    for name in ("images_background", "images_evaluation"):
        members = [m.replace("s/", f"{name}/", 1) for m in MEMBERS if not m.startswith("__") or not unpacked]
        write_zip(tmp_path / f"{name}.zip", [m for m in members if m != "4.png" or not unpacked])
        if unpacked:
            shutil.unpack_archive(tmp_path / f"{name}.zip", tmp_path)
            (tmp_path / f"{name}.zip").unlink()
            (tmp_path / name / "Greek" / "c1" / "9.png").symlink_to("nowhere")
            (tmp_path / name / "Greek" / "loop").symlink_to("..")
            (tmp_path / name / "Same").symlink_to("Greek")
            (tmp_path / name / "Greek" / "c1" / "more").symlink_to(tmp_path)
    source = Omniglot(str(tmp_path), 12)
    outline = source.outline()
    table = source.load()
    account = table.account
    assert account.used == len(table.images) == len(outline.images)
    assert outline.class_names == table.class_names
    assert outline.counts.tolist() == table.counts.tolist()
    reasons = set(account.passed_over)
    if unpacked:
        assert account.found == sum(put_in(tmp_path / name) for name in ("images_background", "images_evaluation"))
        assert {"broken link", "link to a folder", "not in <alphabet>/<character>", "hidden"} <= reasons
    else:
        assert account.found == 2 * len(MEMBERS)
        assert reasons >= {"not in <set>/<alphabet>/<character>", "of kind .jpg", "hidden"}
    assert set(table.class_names) == {"Greek/c1", "Latin/c1"}
    assert source.load().account == account, "from the cache, too"


EXTRA = {  # where the pictures are files: a folder of pictures
    "cub200": "cubirds200/CUB_200_2011/images",
    "vgg_flowers": "vgg_flower102/jpg",
    "fgvc_aircraft": "fgvc_aircraft/fgvc-aircraft-2013b/data/images",
    "dtd": "describable_textures/dtd/images",
    "cifar_fs": "cifarfs/cifar100/data",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            n,
            marks=[pytest.mark.slow] if n in ("cub200", "vgg_flowers", "fgvc_aircraft", "dtd", "mini_imagenet") else [],
        )
        for n in ("mini_imagenet", "fc100", "tiered_imagenet", *EXTRA)
    ],
)
def test_each_picture_of_the_published_sets_is_used_or_named(name, tmp_path):
    BUILD[name](tmp_path)
    extra = 0
    if folder := EXTRA.get(name):
        images = tmp_path / folder
        inside = next((path for path in sorted(images.iterdir()) if path.is_dir()), images)
        (inside / "Thumbs.db").write_bytes(b"x")  # it was taken for a picture, and the set refused
        (images / "nobody's").mkdir()
        (images / "nobody's" / "1.png").write_bytes(CONTENT["PNG"])
        (images / "nobody's" / "1.txt").write_bytes(b"x")
        (images / "nobody's" / "more").symlink_to(tmp_path)
        (images / ".hidden").mkdir()
        (images / ".hidden" / "1.png").write_bytes(CONTENT["PNG"])
        extra = 5
    source, _ = read_data_yaml(ROOT / "configs" / "data" / f"{name}.yaml", str(tmp_path))
    table = source.load()
    assert table.account.used == len(table.images)
    assert table.account.found == len(table.images) + extra
    if extra:
        assert table.account.litter == 1
        assert table.account.passed_over["in no part of the published split"] == 1


def test_pictures_of_no_class_in_mini_imagenet_are_refused(tmp_path):
    """learn2learn gives all of them to the second class."""
    BUILD["mini_imagenet"](tmp_path)
    path = tmp_path / "mini-imagenet-cache-train.pkl"
    content = pickle.loads(path.read_bytes())
    first = next(iter(content["class_dict"]))
    content["class_dict"][first] = content["class_dict"][first][:-3]
    path.write_bytes(pickle.dumps(content, 2))
    source, _ = read_data_yaml(ROOT / "configs" / "data" / "mini_imagenet.yaml", str(tmp_path))
    with pytest.raises(UserError, match="has 100 pictures, but its classes list 97 of them, 0 twice"):
        source.load()


@given(st.lists(st.sampled_from("abcdABCDαβ字\U0001f600"), min_size=1, max_size=5, unique=True), st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_each_font_and_character_is_used_or_named(tmp_path_factory, letters, n_fonts):
    """Characters that no font draws were left out in silence, fonts beyond the tenth too."""
    root = tmp_path_factory.mktemp("fonts")
    fonts = [str(shutil.copy(font_path(FACES[i % 10]), root / f"{i}.ttf")) for i in range(n_fonts)]
    (root / "characters.json").write_text(json.dumps({"mine": "".join([*letters, "z"])}))
    source = Glyphs(fonts, str(root / "characters.json"))
    try:
        _, account = source._characters(source._faces())
    except UserError as error:
        assert "no font can draw U+" in str(error)
        return
    assert account.found == n_fonts + len(letters) + 1
    if n_fonts > len(FACES):
        assert account.passed_over == {"that no hand draws with": n_fonts - len(FACES)}


def test_characters_that_own_fonts_cannot_draw_are_named(tmp_path):
    source = Glyphs([str(font_path("DejaVuSansMono-Oblique"))])
    characters, account = source._characters(source._faces())
    n = sum(len(text) for text in characters.values())
    assert account.used == n + 1
    assert account.found == 1060 + 1
    assert account.passed_over == {"that no font can draw": 1060 - n} or n == 1060
    outline = source.listed()
    assert len(outline.class_names) == n
    assert len(outline.images) == n * N_HANDS


# --- before anything is decoded ---------------------------------------------------------------------------------------


def classes(root: Path, counts: dict[str, int]) -> None:
    seeds = itertools.count()
    for label, n in counts.items():
        (root / label).mkdir(parents=True)
        for number in range(n):
            (root / label / f"{number}.png").write_bytes(encoded(pixels(12, next(seeds), 1)[0]))


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ({"a": 20, "b": 20}, [], "2 classes cannot be split into train, val and test"),
        (dict.fromkeys("abcdefghij", 20), ["--data.split=mine.json"], "mine.json"),
        (dict.fromkeys("abcdefghij", 20), ["--data.split=own"], "brings none with it"),
        (dict.fromkeys("abcdefghij", 20), ["--data.split=glyphs_minimal"], "is for data set 'glyphs'"),
        (dict.fromkeys("abcdefghij", 20), [], "n_way is 5, but there are only 2 classes"),
        (dict.fromkeys((f"c{i}" for i in range(40)), 4), [], "the smallest class has 4 images"),
        (dict.fromkeys((f"c{i}" for i in range(40)), 20), ["--data.low_data.classes=90"], "the train part has 26"),
    ],
)
def test_what_a_listing_tells_is_told_before_anything_is_decoded(
    counts, options, message, tmp_path, monkeypatch, capsys
):
    """Two classes were decoded and cached, and then the split failed."""
    classes(tmp_path / "pictures", counts)
    monkeypatch.setattr("genmeta.data.image_folder.decode", lambda *_: pytest.fail("a picture was decoded"))
    data = ["--config", "configs/data/image_folder.yaml", f"--data.source.folder={tmp_path / 'pictures'}"]
    assert main(["test", *PLAIN, *data, *options, f"--run.folder={tmp_path / 'runs'}"]) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "cache").glob("*"))


def test_generators_and_training_tell_it_too(tmp_path, monkeypatch):
    classes(tmp_path / "pictures", dict.fromkeys("abcdefghij", 2))
    monkeypatch.setattr("genmeta.data.image_folder.decode", lambda *_: pytest.fail("a picture was decoded"))
    source = ImageFolder(str(tmp_path / "pictures"), 12)
    with pytest.raises(UserError, match="batch_size is 64, but the meta-train classes have 6 images"):
        ImageDataModule(source, DrawnSplit()).setup("fit")
    shape, val = EpisodeShape(2, 1, 1), Episodes(2, 1, 1, 2)
    with pytest.raises(UserError, match=r"data\.train: .*smallest class has 2 images"):
        EpisodicDataModule(source, DrawnSplit(), RealTasks(), EpisodeShape(2, 5, 5), val, []).setup("fit")
    with pytest.raises(UserError, match=r"data\.val: n_way is 9"):
        EpisodicDataModule(source, DrawnSplit(), RealTasks(), shape, Episodes(9, 1, 1, 2), []).setup("fit")


def test_checkpoints_that_are_not_there_are_told_before_anything_is_decoded(tmp_path, monkeypatch, capsys):
    classes(tmp_path / "pictures", dict.fromkeys("abcdefghijklmno", 20))
    monkeypatch.setattr("genmeta.data.image_folder.decode", lambda *_: pytest.fail("a picture was decoded"))
    data = ["--config", "configs/data/image_folder.yaml", f"--data.source.folder={tmp_path / 'pictures'}"]
    few = "--data.test=[{n_way: 3, n_shot: 1, n_query: 5, n_episodes: 2}]"
    assert main(["test", *PLAIN, *data, few, "--ckpt_path=gone.ckpt", f"--run.folder={tmp_path / 'runs'}"]) == 2
    assert "checkpoint gone.ckpt: no such file" in capsys.readouterr().err
    shape, val = EpisodeShape(2, 1, 1), Episodes(2, 1, 1, 2)
    source, tasks = ImageFolder(str(tmp_path / "pictures"), 12), LatentTasks(PriorNoise())
    with pytest.raises(UserError, match=r"checkpoint gone\.ckpt: no such file"):
        EpisodicDataModule(source, DrawnSplit(), tasks, shape, val, [], generator="gone.ckpt").setup("fit")


def test_data_show_tells_it_too(tmp_path, monkeypatch, capsys):
    classes(tmp_path / "pictures", {"a": 2, "b": 2})
    monkeypatch.setattr("genmeta.data.image_folder.decode", lambda *_: pytest.fail("a picture was decoded"))
    assert main(["data", "show", "image_folder", "--folder", str(tmp_path / "pictures")]) == 2
    assert "2 classes cannot be split" in capsys.readouterr().err


def test_outlines_are_tables_without_pixels(tmp_path):
    classes(tmp_path / "pictures", {c: n for n, c in enumerate("abcde", 1)})
    source = ImageFolder(str(tmp_path / "pictures"), 12)
    (outline, split), (table, same) = outline_and_table(source, DrawnSplit())
    assert split == same
    assert outline.images.shape == table.images.shape
    assert outline.images.untyped_storage().nbytes() == 1
    assert (outline.class_names, outline.groups) == (table.class_names, table.groups)
    assert torch.equal(outline.class_ids, table.class_ids)
    assert source.outline() is None, "the table is at hand"


# --- where it is told -------------------------------------------------------------------------------------------------


def test_counts_are_printed_before_training_and_stand_in_run_json_and_in_the_report(tmp_path, capsys):
    root = tmp_path / "pictures"
    classes(root, {f"c{i:02}": 20 for i in range(30)})
    (root / "c01" / "notes.txt").write_text("x")
    (root / "c02" / "gone.png").symlink_to("nowhere")
    (root / "c02" / ".DS_Store").write_bytes(b"x")
    data = ["--config", "configs/data/image_folder.yaml", f"--data.source.folder={root}"]
    config = ["--config", "configs/learner/protonet.yaml", "--config", "configs/policy/real_only.yaml", *PLAIN[2:]]
    assert main(["fit", *config, *data, f"--run.folder={tmp_path / 'runs'}"]) == 0
    line = "pictures: 600 used, 2 passed over: 1 of kind .txt (c01/notes.txt), 1 broken link (c02/gone.png)"
    out = capsys.readouterr().out
    assert out.count(line) == 1
    assert out.index(line) < out.index("best.ckpt")
    (run,) = (tmp_path / "runs").glob("*/001")
    facts = json.loads((run / "run.json").read_text())["pictures"]
    assert facts == {
        "what": "pictures",
        "found": 603,
        "used": 600,
        "passed_over": {"of kind .txt": 1, "broken link": 1},
        "litter": 1,
    }
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    for cell in ("600", "1 of kind .txt, 1 broken link"):
        assert f">{cell}<" in page
    images = ImageDataModule(ImageFolder(str(root), 28, 1), DrawnSplit())
    images.setup("fit")
    assert images.facts["pictures"] == facts, "of generators, too"


# --- doubles ----------------------------------------------------------------------------------------------------------


def show(root: Path, out: Path, *more: str) -> int:
    return main(["data", "show", "image_folder", "--folder", str(root), "--out", str(out), *more])


def test_drop_duplicates_writes_a_split_that_trains_and_tests_without_them(tmp_path, capsys):
    root = tmp_path / "pictures"
    classes(root, {f"c{i:02}": 21 for i in range(30)})
    assert show(root, tmp_path / "out") == 0
    split = json.loads((tmp_path / "out" / "split.json").read_text())
    train, val, test = (split[part][0] for part in ("train", "val", "test"))
    shared = (root / train / "3.png").read_bytes()
    (root / test / "7.png").write_bytes(shared)  # train's stays
    (root / val / "9.png").write_bytes((root / test / "5.png").read_bytes())  # val's stays: it comes first
    whole = split["test"][1]
    for number in range(21):  # a class that is one of train's under another name
        shutil.copy(root / train / f"{number}.png", root / whole / f"{number}.png")
    capsys.readouterr()
    assert show(root, tmp_path / "out") == 2
    assert "--drop-duplicates" in capsys.readouterr().err
    assert show(root, tmp_path / "out", "--drop-duplicates") == 0
    said = capsys.readouterr().out
    assert "left out: 23 images that an earlier part has too" in said
    assert f"{root / test / '7.png'} (test) is {root / train / '3.png'} (train)" in said
    assert f"class '{whole}' (test) has no other images and is left out as a whole" in said
    assert "no image is in two parts" in said
    path = tmp_path / "out" / "split.json"
    cleaned = json.loads(path.read_text())
    assert Counter({name: len(its) for name, its in cleaned["left_out"].items()}) == {test: 2}
    assert cleaned["train"] == split["train"]
    assert whole not in cleaned["test"]
    assert cleaned["hash"] != split["hash"]

    data = ["--config", "configs/data/image_folder.yaml", f"--data.source.folder={root}", f"--data.split={path}"]
    few = "--data.test=[{n_way: 5, n_shot: 1, n_query: 15, n_episodes: 2}]"
    assert main(["test", *PLAIN, *data, few, f"--run.folder={tmp_path / 'runs'}"]) == 0
    (run,) = (tmp_path / "runs").glob("*/001")
    assert json.loads((run / "split.json").read_text()) == cleaned
    source = ImageFolder(str(root), 28, 1)
    *_, (table, again) = outline_and_table(source, load_split(str(path)))
    assert again.hash == cleaned["hash"]
    assert table.counts[table.class_names.index(test)] == 19
    assert set(root.rglob("*.png")) - set(table.files) == {
        root / test / "5.png",
        root / test / "7.png",
    }
    ids = [table.class_names[number] for number in table.class_ids.tolist()]
    assert ids == [file.parent.name for file in table.files], "files go with their images"
    assert table.counts[table.class_names.index(train)] == 21
    assert table.account.used + sum(table.account.passed_over.values()) == 630

    with pytest.raises(UserError, match=r"leaves out an image of class .* that is not there"):
        list(outline_and_table(ImageFolder(str(root), 20, 1), load_split(str(path))))


@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=5), min_size=3, max_size=8))
@settings(max_examples=60, deadline=None)
def test_after_dropping_no_image_is_in_two_parts_and_none_is_lost(contents):
    """Classes of any contents: each image that was in a part stays in the first of its parts."""
    images = torch.tensor([value for its in contents for value in its], dtype=torch.uint8)[:, None, None, None]
    names = tuple(f"c{i}" for i in range(len(contents)))
    ids = torch.repeat_interleave(torch.tensor([len(its) for its in contents]))
    table = ImageTable("t", images, ids, names, names)
    split = Split("s", "t", *(names[i::3] for i in range(3)))
    try:
        cleaned = drop_duplicates(split, table, find_duplicates(table, {p: split.class_ids(table, p) for p in PARTS}))
    except UserError as error:
        assert "has no classes" in str(error)
        return
    kept = cleaned.without_left_out(table)
    seen: dict[str, set[int]] = {}
    for part in PARTS:
        found = {
            int(kept.images[i]) for c in cleaned.class_ids(kept, part).tolist() for i in (kept.class_ids == c).nonzero()
        }
        assert not found & set().union(*seen.values())
        seen[part] = found
    assert set().union(*seen.values()) == {value for its in contents for value in its}
    assert not find_duplicates(kept, {p: cleaned.class_ids(kept, p) for p in PARTS})
