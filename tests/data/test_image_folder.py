"""Your own pictures: every kind of file has a defined outcome; what cannot be meant is refused with its name."""

import json
import struct
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_data import drawing, encoded, pixels
from torch import Tensor

from genmeta.data.decode import BadImageError, decode
from genmeta.data.image_folder import ImageFolder, list_folder
from genmeta.data.omniglot_minimal import read_zip
from genmeta.data.splits import DrawnSplit, find_split, load_split
from genmeta.errors import UserError
from genmeta.modules.image_data import ImageDataModule


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "pictures"
    root.mkdir()
    return root


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def put(root: Path, *names: str, content: bytes | None = None) -> None:
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if content is not None else encoded(pixels(12, i, 1)[0]))


def mean(image: Tensor) -> list[int]:
    return image.float().mean((1, 2)).round().int().tolist()


def flat(mode: str, value, size=(8, 8)) -> Image.Image:
    return Image.new(mode, size, value)


def rotated_jpeg() -> bytes:
    """Left half white, right half black, to be turned by 90° clockwise: white is on top then."""
    image = Image.new("RGB", (16, 16))
    image.paste("white", (0, 0, 8, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(image, "JPEG", exif=exif, quality=95)


def half_transparent() -> Image.Image:
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 255))
    image.paste((200, 0, 0, 0), (0, 0, 8, 4))
    return image


@pytest.mark.parametrize(
    ("content", "colour", "grey"),
    [
        (saved(flat("RGB", (10, 20, 30))), [10, 20, 30], 18),
        (saved(flat("L", 77)), [77] * 3, 77),
        (saved(flat("1", 1)), [255] * 3, 255),
        (saved(flat("I;16", 0x8040)), [0x80] * 3, 0x80),  # 16 bits: the upper eight, not all white
        (saved(flat("P", 3).convert("P")), None, None),
        (saved(flat("CMYK", (0, 255, 255, 0)), "JPEG", quality=95), [254, 0, 0], 76),
        (saved(flat("LA", (0, 0))), [255] * 3, 255),  # transparent is white
        (saved(half_transparent()), [228, 128, 128], 158),
    ],
    ids=["RGB", "grey", "1 bit", "16 bits", "palette", "CMYK", "transparent", "half transparent"],
)
def test_modes(content, colour, grey):
    image, shade = decode(content, 4, 3), decode(content, 4, 1)
    assert image.shape == (3, 4, 4)
    assert shade.shape == (1, 4, 4)
    if colour:
        assert max(abs(a - b) for a, b in zip(mean(image), colour, strict=True)) <= 2
        assert abs(mean(shade)[0] - grey) <= 2


def test_exif_rotation_is_applied():
    image = decode(rotated_jpeg(), 16, 1)[0].float()
    assert image[:6].mean() > 240
    assert image[-6:].mean() < 15


def test_any_size_becomes_the_largest_centred_square():
    wide = Image.new("L", (300, 100))
    wide.paste(255, (100, 0, 200, 100))
    assert decode(saved(wide), 20, 1)[0, :, 1:-1].min() == 255
    assert decode(saved(wide), 20, 1).float().mean() > 250
    assert decode(saved(Image.new("L", (1, 1), 9)), 20, 1).unique().tolist() == [9]


def bomb() -> bytes:
    """A PNG of 30,000 × 30,000 pixels in a few hundred bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


FRAMES = [flat("L", value) for value in (0, 100, 200)]
PNG = saved(Image.fromarray(pixels(20, 0, 1)[0]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged, or no picture that can be read"),
        (b"no picture", "damaged, or no picture that can be read"),
        (PNG[:-30], "damaged"),
        (PNG[:60] + bytes(30) + PNG[90:], "damaged"),
        (
            saved(FRAMES[0], save_all=True, append_images=FRAMES[1:]),
            "animated or of several pages, 3 frames; expected one still picture",
        ),
        (saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "several pages, 3 frames"),
        (saved(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "several pages, 3 frames"),
        (saved(flat("I", 70), "TIFF"), "pixels of 32 bits"),  # which would be black
        (saved(FRAMES[0], "TGA"), "no picture that can be read"),  # any bytes may be one
        (saved(FRAMES[0].convert("RGB"), "EPS"), "no picture that can be read"),  # it starts a program
        (bomb(), "decompression bomb"),
    ],
    ids=["empty", "text", "cut", "damaged", "animated", "GIF", "TIFF", "32 bits", "TGA", "EPS", "bomb"],
)
def test_what_cannot_be_used_is_refused_with_its_name_and_leaves_nothing(content, message, folder, tmp_path):
    with pytest.raises(BadImageError, match=message):
        decode(content, 8, 3)
    put(folder, "a/1.png", "b/1.png", "c/1.png")
    put(folder, "b/2.png", content=content)
    with pytest.raises(UserError, match=rf"b/2\.png: .*{message}.*nothing was prepared") as raised:
        ImageFolder(str(folder), 8).load()
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "cache").glob("*.table"))
    (folder / "b" / "2.png").unlink()
    assert len(ImageFolder(str(folder), 8).load().images) == 3


def test_broken_files_are_counted(folder):
    put(folder, "a/1.png", *(f"{c}/{i}.png" for c in "bc" for i in range(3)))
    put(folder, "b/1.png", "b/2.png", "c/0.png", content=b"x")
    with pytest.raises(UserError, match=r"b/1\.png: .*cannot be used: 3; also \S*b/2\.png, \S*c/0\.png; nothing"):
        ImageFolder(str(folder), 8).load()
    put(folder, *(f"d/{i}.png" for i in range(40)), content=b"x")
    with pytest.raises(UserError, match="cannot be used: 43 or more"):
        ImageFolder(str(folder), 8).load()


def test_both_depths_and_upper_case_endings(folder):
    put(folder, "cat/1.PNG", "dog/2.png", "dog/10.jpeg", ".hidden/x.png", "cat/.DS_Store", "cat/notes.txt")
    assert [(c.name, c.group, len(c.files)) for c in list_folder(folder).classes] == [
        ("cat", "image_folder", 1),
        ("dog", "image_folder", 2),
    ]


def test_groups(folder):
    put(folder, "animals/cat/1.png", "animals/dog/1.png", "plants/oak/1.png")
    assert [(c.name, c.group) for c in list_folder(folder).classes] == [
        ("animals/cat", "animals"),
        ("animals/dog", "animals"),
        ("plants/oak", "plants"),
    ]


@pytest.mark.parametrize("deep", [False, True])
def test_sub_folders_train_val_test_are_the_split(folder, deep):
    between = "g/" if deep else ""
    put(
        folder,
        *(f"{part}/{between}{c}/1.png" for part, c in (("train", "a"), ("train", "b"), ("val", "c"), ("test", "d"))),
    )
    split = find_split(None, ImageFolder(str(folder), 8).load())
    assert (split.train, split.val, split.test) == tuple(
        tuple(between + c for c in names) for names in (("a", "b"), ("c",), ("d",))
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no class folder"),
        (["1.png"], r"1\.png: lies in no class folder; expected .*pictures/<class>/1\.png"),
        (["a/1.png", "g/b/1.png"], r"pictures/a: holds pictures, but .*pictures/g holds folders"),
        (["g/a/1.png", "g/2.png"], r"g/2\.png: lies beside folders"),
        (["g/a/x/1.png"], "g/a: holds folders; expected .* no deeper"),
        (
            ["a/1.png", "b/1.heic"],
            r"pictures/b: holds no picture \(PNG, .*\), but 1 other files like 1\.heic; put some",
        ),
        (
            ["train/a/1.png", "val/b/1.png", "test/c/1.png", "2.png"],
            r"pictures/2\.png: lies beside train, val and test",
        ),
        (["train/a/1.png", "test/b/1.png"], "holds test, train; expected train, val and test and nothing else"),
        (["train/a/1.png", "val/b/1.png", "test/c/1.png", "more/d/1.png"], "expected train, val and test and nothing"),
        (
            ["train/a/1.png", "val/b/1.png", "test/a/1.png"],
            r"test/a: is class 'a', as is .*train/a; a class must be one",
        ),
        (["Train/a/1.png", "Val/b/1.png", "Test/c/1.png"], "holds Test, Train, Val; expected train, val and test"),
        (["training/a/1.png", "validation/b/1.png"], "holds training, validation; expected train, val and test"),
        (["a/1.png", "b/x.txt", "c/.DS_Store", "d/y.txt"], r"pictures/b: holds no picture .*\(2 more hold none\)"),
    ],
)
def test_folders_that_cannot_be_meant(folder, names, message):
    put(folder, *names)
    with pytest.raises(UserError, match=message) as raised:
        ImageFolder(str(folder), 8).load()
    assert "\n" not in str(raised.value)


def test_a_drawn_split_takes_whole_groups_depends_on_the_seed_and_is_written_down(folder):
    put(folder, *(f"g{i}/c{j}/1.png" for i in range(10) for j in range(3)))
    table = ImageFolder(str(folder), 8).load()
    one, same, other = (DrawnSplit(seed).draw(table) for seed in (0, 0, 1))
    assert one == same
    assert one.hash != other.hash
    groups = [{name.split("/")[0] for name in part} for part in (one.train, one.val, one.test)]
    assert [len(g) for g in groups] == [6, 2, 2]
    assert len(set.union(*groups)) == 10


@pytest.mark.parametrize("n", [3, 4, 7, 100])
def test_a_drawn_split_has_no_empty_part(folder, n):
    put(folder, *(f"c{j}/1.png" for j in range(n)))
    split = DrawnSplit(5).draw(ImageFolder(str(folder), 8).load())
    assert len(split.train) + len(split.val) + len(split.test) == n
    if n == 100:
        assert (len(split.val), len(split.test)) == (16, 20)


def test_a_draw_that_cannot_be_is_refused(folder):
    put(folder, "a/1.png", "b/1.png")
    with pytest.raises(UserError, match=r"2 classes cannot be split .*; at least 3 are needed"):
        DrawnSplit().draw(ImageFolder(str(folder), 8).load())
    with pytest.raises(UserError, match=r"above 0 and together below 1, found 0\.5, 0\.5"):
        DrawnSplit(val=0.5, test=0.5)


def test_one_image_classes_train_a_generator_but_validate_none(folder):
    put(folder, *(f"c{j}/1.png" for j in range(9)))
    data = ImageDataModule(ImageFolder(str(folder), 8), DrawnSplit(), batch_size=2)
    with pytest.raises(UserError, match="single image, so none can be held out"):
        data.setup("fit")
    put(folder, *(f"c{j}/2.png" for j in range(0, 9, 2)))
    data = ImageDataModule(ImageFolder(str(folder), 8), DrawnSplit(), batch_size=2)
    data.setup("fit")
    train = {int(data.table.class_ids[row]) for row in data.train_rows}
    assert len(train) == len(data.split.train), "each class trains"
    assert not set(data.train_rows.tolist()) & set(data.held_out_rows.tolist())


def test_class_names_are_composed_whatever_the_file_system_makes_of_them(folder, tmp_path):
    """An archive made on a Mac has `e` and an accent for what a keyboard writes as one letter."""
    put(folder, "cafe\u0301/1.png", "the\u0301/2.png", "b/3.png")
    table = ImageFolder(str(folder), 8).load()
    assert set(table.class_names) == {"caf\u00e9", "th\u00e9", "b"}
    for accent in ("e\u0301", "\u00e9"):
        names = {"dataset": "image_folder", "train": [f"caf{accent}"], "val": [f"th{accent}"], "test": ["b"]}
        (tmp_path / "split.json").write_text(json.dumps(names, ensure_ascii=False), encoding="utf-8")
        assert find_split(load_split(str(tmp_path / "split.json")), table).train == ("caf\u00e9",)
    put(folder, "caf\u00e9/1.png")
    with pytest.raises(UserError, match=r"is class 'caf\u00e9', as is"):
        ImageFolder(str(folder), 8).load()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "pictures.zip").write_bytes(b"x")
    with pytest.raises(UserError, match=r"pictures\.zip: is a file; unpack it"):
        ImageFolder(str(tmp_path / "pictures.zip"), 8).load()


def test_class_names_of_any_script_are_kept(folder):
    put(folder, "猫/1.png", "Ω µ/1.png", "a b/1.png")
    table = ImageFolder(str(folder), 8).load()
    assert set(table.class_names) == {"猫", "Ω µ", "a b"}


@st.composite
def spoilt(draw, whole: bytes) -> bytes:
    """A file cut off, with some bytes changed, or garbage."""
    how = draw(st.sampled_from(["cut", "change", "garbage", "both"]))
    if how == "garbage":
        return draw(st.binary(max_size=400))
    content = bytearray(whole)
    if how != "cut":
        for _ in range(draw(st.integers(1, 8))):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    if how != "change":
        content = content[: draw(st.integers(0, len(content)))]
    return bytes(content)


JPEG = saved(Image.fromarray(pixels(20, 0, 1)[0]), "JPEG")
FUZZ = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(st.one_of(spoilt(PNG), spoilt(JPEG)))
@FUZZ
def test_fuzz_pictures(content):
    """An image or a BadImageError, nothing else (some changed bytes are still a picture)."""
    try:
        assert decode(content, 8, 3).shape == (3, 8, 8)
    except BadImageError as error:
        assert "\n" not in str(error)


@given(st.one_of(spoilt(PNG), spoilt(JPEG)), st.sampled_from(["a/1.png", "a/1.jpg", "b/1.PNG", "1.png", "a/b/1.png"]))
@settings(FUZZ, max_examples=60)
def test_fuzz_image_folder(tmp_path_factory, content, name):
    """Truncated, renamed and garbage files: the whole table or a UserError that names what is wrong; no cache then."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("fuzz")
        patch.setenv("GENMETA_CACHE", str(root / "cache"))
        put(root / "pictures", "a/0.png", "b/0.png", "c/0.png")
        put(root / "pictures", name, content=content)
        try:
            assert len(ImageFolder(str(root / "pictures"), 8).load().images) == 4
        except UserError as error:
            assert "\n" not in str(error)
            assert str(root) in str(error)
            assert not list((root / "cache").glob("*.table"))
            assert not list((root / "cache").glob(".*.part"))


def zipped(compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for i in range(4):
            archive.writestr(f"set/Greek/character{i:02d}/{i:04d}_01.png", drawing(i))
    return file.getvalue()


@given(st.one_of(spoilt(zipped()), spoilt(zipped(zipfile.ZIP_STORED)), spoilt(zipped(zipfile.ZIP_LZMA))))
@FUZZ
def test_fuzz_zips(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.zip"
    path.write_bytes(content)
    try:
        drawings = read_zip(path, 28)
        assert all(image.shape == (1, 28, 28) for images in drawings.values() for image in images)
    except UserError as error:
        assert "\n" not in str(error)
        assert str(path) in str(error)


def test_a_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/Greek/character01/1.png", bytes(2**24))
    with pytest.raises(UserError, match="unpacks to 16777216 bytes, maybe a zip bomb"):
        read_zip(path, 28)


def test_no_value_of_a_picture_is_lost_in_the_table(folder):
    """Pixels arrive as they are when nothing has to be scaled."""
    image = np.arange(64 * 3, dtype=np.uint8).reshape(8, 8, 3)
    put(folder, "a/1.png", content=encoded(image))
    put(folder, "b/1.png", "c/1.png")
    table = ImageFolder(str(folder), 8).load()
    assert torch.equal(table.images[0], torch.from_numpy(image).permute(2, 0, 1))
