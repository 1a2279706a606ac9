"""`glyphs` with a user's own fonts and characters."""

import json
import shutil

import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.t2CharStringPen import T2CharStringPen

from genmeta.data import glyphs
from genmeta.data.glyphs import N_HANDS, Glyphs, draw_table, font_path
from genmeta.data.splits import DrawnSplit, load_split
from genmeta.errors import UserError


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def ttf(tmp_path):
    return str(shutil.copy(font_path("DejaVuSerif"), tmp_path / "Mine.ttf"))


@pytest.fixture
def otf(tmp_path):
    """An OpenType font with outlines of its own kind (CFF): A is a box, B a frame's corner, C a triangle."""
    shapes = {
        "A": [(0, 0), (500, 0), (500, 500), (0, 500)],
        "B": [(0, 0), (500, 0), (500, 100), (100, 100), (100, 500), (0, 500)],
        "C": [(0, 0), (500, 0), (250, 500)],
    }
    strings = {".notdef": T2CharStringPen(600, None).getCharString()}
    for name, points in shapes.items():
        pen = T2CharStringPen(600, None)
        pen.moveTo(points[0])
        for point in points[1:]:
            pen.lineTo(point)
        pen.closePath()
        strings[name] = pen.getCharString()
    font = FontBuilder(1000, isTTF=False)
    font.setupGlyphOrder(list(strings))
    font.setupCharacterMap({ord(name): name for name in shapes})
    font.setupCFF("Mine", {}, strings, {})
    font.setupHorizontalMetrics(dict.fromkeys(strings, (600, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Mine", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    path = tmp_path / "Mine.otf"
    font.save(path)
    return str(path)


def listed(tmp_path, content) -> str:
    path = tmp_path / "scripts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_own_fonts_and_scripts(ttf, otf, tmp_path):
    scripts = {"Latin": "ABC", "Greek": "αβ", "Digits": "12"}
    table = Glyphs([otf, ttf], listed(tmp_path, scripts)).load()
    assert table.name == "own_glyphs"
    assert table.class_names[:3] == ("Digits/U+0031", "Digits/U+0032", "Greek/U+03B1")
    assert (table.counts == N_HANDS).all()
    a = table.images[table.class_ids == table.class_names.index("Latin/U+0041")].float().flatten(1).mean(1) / 255
    assert a[0] > 1.3 * a[1], "hands take the fonts in turn: a box of the one, a letter of the other"
    split = DrawnSplit().draw(table)
    assert {len({c.split("/")[0] for c in part}) for part in (split.train, split.val, split.test)} == {1}


def test_own_fonts_alone_draw_what_they_can_of_the_committed_characters(otf, monkeypatch):
    with pytest.raises(UserError, match="can draw none of the committed characters"):
        Glyphs([otf]).load()
    monkeypatch.setattr(glyphs, "load_characters", lambda path: {"Latin": "Aß", "Greek": "λ"})
    assert Glyphs([otf]).load().class_names == ("Latin/U+0041",)


def test_own_scripts_with_the_shipped_fonts_are_drawn_as_before(tmp_path):
    table = Glyphs(characters=listed(tmp_path, {"Greek": "λ"})).load()
    assert torch.equal(table.images, draw_table({"Greek": "λ"}).images)
    with pytest.raises(UserError, match="is for data set 'glyphs', but the data are 'own_glyphs'"):
        load_split("glyphs_minimal").class_ids(table, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"Greek": ""}, "expected JSON like"),
        ({}, "expected JSON like"),
        ([1], "expected JSON like"),
        ("{", "expected JSON like"),
        ({"Greek": ["a", "b"]}, "expected JSON like"),
        ({"Greek": "αα"}, r"U\+03B1 is in 'Greek' and again in 'Greek'"),
        ({"a": "x", "b": "x"}, r"U\+0078 is in 'a' and again in 'b'"),
        ({"Han": "漢"}, r"no font can draw U\+6F22 of script 'Han'"),
        ({"Blank": "a "}, r"U\+0020 has no ink"),
    ],
)
def test_lists_that_cannot_be_meant(content, message, tmp_path, ttf):
    with pytest.raises(UserError, match=message) as raised:
        Glyphs([ttf], listed(tmp_path, content)).load()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"no font", bytes(range(256)) * 20])
def test_files_that_are_no_fonts(content, tmp_path):
    (tmp_path / "bad.ttf").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.ttf: cannot be read as a font") as raised:
        Glyphs([str(tmp_path / "bad.ttf")]).load()
    assert "\n" not in str(raised.value)


def test_missing_files_are_named(tmp_path, ttf):
    with pytest.raises(UserError, match=r"data\.source\.fonts: nowhere\.otf: no such"):
        Glyphs(["nowhere.otf"]).load()
    with pytest.raises(UserError, match=r"data\.source\.characters: nowhere\.json: no such"):
        Glyphs([ttf], "nowhere.json").load()
