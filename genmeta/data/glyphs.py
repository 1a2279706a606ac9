"""`glyphs`: the embedded data set, drawn from the DejaVu fonts that matplotlib ships, or from yours. No download.

A class is a character, its group is a script, and an instance is drawn by one of 20 "hands": a face of the typeface
with that hand's own slant, aspect, rotation, stroke width and wobble, fixed by the hand's number. 28×28, ink = 255.
The characters are in `glyphs_characters.json`: letters without a Unicode decomposition that the fonts can draw, and of
look-alikes only one (`scripts/make_glyphs_lists.py` finds them).
"""

import hashlib
import json
import math
import random
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image, ImageFont, features
from torch import Tensor
from torch.nn import functional as F

from genmeta.data.account import Account, Tally
from genmeta.data.cache import TableStream
from genmeta.data.source import CachedSource
from genmeta.data.table import ImageTable
from genmeta.errors import UserError

N_HANDS = 20
SIZE = 28
RECIPE = 1  # raise it when the drawing changes, so that caches are made again
CHARACTERS_FILE = Path(__file__).with_name("glyphs_characters.json")

# Faces by likeness to a pen: a hand takes the first face of its own list that has the character.
FACES = (
    "DejaVuSans",
    "DejaVuSerif",
    "DejaVuSansMono",
    "DejaVuSans-Oblique",
    "DejaVuSerif-Italic",
    "DejaVuSans-Bold",
    "DejaVuSerif-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-Bold",
    "DejaVuSans-BoldOblique",
)
_MASTER = 84  # side of the raster a hand distorts, 3 × SIZE
_BOX = 60  # longest side of the ink in it: about 20 of 28 pixels


@dataclass(frozen=True)
class Glyphs(CachedSource):
    """Data source: all classes of `glyphs`; the split says which are used for what.

    Args:
        fonts: .ttf or .otf files to draw with, instead of the DejaVu faces.
        characters: JSON file `{"script": "its characters", …}`, instead of the committed list. Without it, your fonts
            draw the characters of the committed list that they have. Leave out characters that look alike yourself;
            `genmeta data show` finds those that are drawn alike.
    """

    fonts: Sequence[str] = ()
    characters: str | None = None

    table_name: ClassVar[str] = "glyphs"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 1, SIZE, SIZE

    def recipe(self) -> dict[str, object]:
        faces = self._faces()
        return {
            "recipe": RECIPE,
            "hands": N_HANDS,
            "size": SIZE,
            "freetype": features.version("freetype2"),
            "characters": hashlib.sha256(self._characters_file().read_bytes()).hexdigest(),
            "fonts": [hashlib.sha256(font_path(face).read_bytes()).hexdigest() for face in faces],
        }

    def stream(self) -> TableStream:
        """Draw them (about 20 s)."""
        faces = self._faces()
        characters, account = self._characters(faces)
        return TableStream.of(draw_table(characters, faces, self._name, account))

    def listed(self) -> ImageTable:
        characters, _ = self._characters(self._faces())
        letters = [(class_name(s, c), s, N_HANDS) for s in sorted(characters) for c in characters[s]]
        return ImageTable.outline(self._name, self.image_shape, letters)

    @property
    def _name(self) -> str:
        return "own_glyphs" if self.fonts or self.characters else "glyphs"

    def _characters(self, faces: Sequence[str]) -> tuple[dict[str, str], Account | None]:
        """Return the characters to draw, and the account of fonts and characters if the user gave some."""
        characters = load_characters(self._characters_file())
        tally = Tally(what="fonts and characters")
        if self.fonts and self.characters is None:
            for script, text in characters.items():
                for c in text:
                    if not faces_with(c, faces):
                        tally.pass_over("that no font can draw", class_name(script, c))
            characters = {s: "".join(c for c in text if faces_with(c, faces)) for s, text in characters.items()}
            characters = {script: text for script, text in characters.items() if text}
            if not characters:
                raise UserError(
                    "data.source.fonts: they can draw none of the committed characters; give characters too"
                )
        for script, text in characters.items():
            for character in text:
                if not faces_with(character, faces):
                    raise UserError(
                        f"{self._characters_file()}: no font can draw U+{ord(character):04X} of script '{script}'; "
                        "leave it out or add a font that can"
                    )
        if self._name == "glyphs":
            return characters, None
        drawing = {face for text in characters.values() for c in text for face in drawing_faces(c, faces)}
        for font in self.fonts:
            if font not in drawing:
                tally.pass_over("that no hand draws with", font)
        n_characters = sum(len(text) for text in characters.values())
        tally.used = n_characters + sum(font in drawing for font in self.fonts)
        return characters, tally.account()

    def _faces(self) -> tuple[str, ...]:
        for font in self.fonts:
            if not font.lower().endswith((".ttf", ".otf")) or not Path(font).is_file():
                raise UserError(f"data.source.fonts: {font}: no such .ttf or .otf file")
            charmap(font)
        return tuple(self.fonts) or FACES

    def _characters_file(self) -> Path:
        path = Path(self.characters) if self.characters else CHARACTERS_FILE
        if not path.is_file():
            raise UserError(
                f"data.source.characters: {path}: no such file; expected JSON of scripts and their characters"
            )
        return path


@dataclass(frozen=True)
class Hand:
    """One way of writing, the same for every character. Angles in radians, lengths in units of the half width."""

    face: int
    slant: float
    rotation: float
    aspect: float
    scale: float
    shift: tuple[float, float]
    weight: float  # threshold on the blurred ink: below 0.5 thickens, above it thins
    wobble: tuple[tuple[float, float, float, float, float], ...]  # (amplitude x, y, frequency x, y, phase)


@cache
def hand(number: int) -> Hand:
    """Return the hand of a number, drawn by Python's own generator, whose numbers never change."""
    rng = random.Random(f"genmeta glyphs hand {number}")
    return Hand(
        face=number % len(FACES),
        slant=rng.uniform(-0.25, 0.25),
        rotation=rng.uniform(-0.14, 0.14),
        aspect=math.exp(rng.uniform(-0.15, 0.15)),
        scale=math.exp(rng.uniform(-0.15, 0.12)),
        shift=(rng.uniform(-0.08, 0.08), rng.uniform(-0.08, 0.08)),
        weight=rng.uniform(0.3, 0.62),
        wobble=tuple(
            (
                rng.uniform(-0.07, 0.07),
                rng.uniform(-0.07, 0.07),
                rng.uniform(-4.0, 4.0),
                rng.uniform(-4.0, 4.0),
                rng.uniform(0.0, 2 * math.pi),
            )
            for _ in range(3)
        ),
    )


def load_characters(path: Path = CHARACTERS_FILE) -> dict[str, str]:
    """Return `{script: its characters}` of a list.

    Raises:
        UserError: the file has another form, or has a character twice.
    """
    try:
        characters: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        if not characters or not all(isinstance(text, str) and text for text in characters.values()):
            raise ValueError("a script without characters")
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            f'{path}: expected JSON like {{"Greek": "αβγ"}}, scripts and their characters ({error})'
        ) from error
    characters = {unicodedata.normalize("NFC", script): text for script, text in characters.items()}
    script_of: dict[str, str] = {}
    for script, text in characters.items():
        for character in text:
            if character in script_of:
                raise UserError(
                    f"{path}: U+{ord(character):04X} is in '{script_of[character]}' and again in '{script}'; "
                    "a class must not be there twice"
                )
            script_of[character] = script
    return characters


def class_name(script: str, character: str) -> str:
    """Return the class name of a character, e.g. `Greek/U+03B1`."""
    return f"{script}/U+{ord(character):04X}"


def font_path(face: str) -> Path:
    """Return the file of a face: a font file itself, or a DejaVu face inside the installed matplotlib."""
    if face not in FACES:
        return Path(face)
    import matplotlib  # here: `import genmeta` stays light

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


@cache
def charmap(face: str) -> frozenset[int]:
    """Return the code points that a face can draw.

    Raises:
        UserError: the file is no font.
    """
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(str(font_path(face))).get_charmap())
    except Exception as error:  # FreeType's reasons come as several types
        raise UserError(f"{font_path(face)}: cannot be read as a font ({error})") from error


def faces_with(character: str, faces: Sequence[str] = FACES) -> list[str]:
    """Return the faces that can draw the character, in their order."""
    return [face for face in faces if ord(character) in charmap(face)]


def preference(number: int, faces: Sequence[str]) -> list[str]:
    """Return the faces in the order of a hand: it takes the first face that has the character."""
    first = hand(number).face % len(faces)
    return [*faces[first:], *faces[:first]]


def drawing_faces(character: str, faces: Sequence[str]) -> set[str]:
    """Return the faces that draw the character in some hand."""
    able = set(faces_with(character, faces))
    return {next(face for face in preference(number, faces) if face in able) for number in range(N_HANDS)}


def master(character: str, face: str) -> np.ndarray:
    """Return the upright character as uint8 `[84, 84]`: centred, its longest side 60 pixels, ink = 255.

    Raises:
        UserError: it has no ink (a space).
    """
    mask = _font(face).getmask(character, mode="L")
    raster = Image.frombytes("L", mask.size, bytes(mask))
    if raster.getbbox() is None:
        raise UserError(f"U+{ord(character):04X} has no ink in {font_path(face).name}; leave it out")
    ink = raster.crop(raster.getbbox())
    scale = _BOX / max(ink.size)
    size = (max(1, round(ink.width * scale)), max(1, round(ink.height * scale)))
    canvas = Image.new("L", (_MASTER, _MASTER))
    canvas.paste(ink.resize(size, Image.Resampling.BOX), ((_MASTER - size[0]) // 2, (_MASTER - size[1]) // 2))
    return np.asarray(canvas)


@cache
def _font(face: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font_path(face)), size=96, layout_engine=ImageFont.Layout.BASIC)


def write(masters: Tensor, hand: Hand) -> Tensor:
    """Draw upright characters in one hand.

    Args:
        masters: uint8 `[N, 84, 84]`, from `master`.

    Returns:
        uint8 `[N, 1, 28, 28]`.
    """
    axis = torch.linspace(-1, 1, _MASTER, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    u, v = x - hand.shift[0], y - hand.shift[1]
    cos, sin = math.cos(hand.rotation), math.sin(hand.rotation)
    u, v = (cos * u + sin * v) / hand.scale, (cos * v - sin * u) / hand.scale
    u, v = (u + hand.slant * v) / hand.aspect, v * hand.aspect
    dx, dy = torch.zeros_like(u), torch.zeros_like(v)
    for amplitude_x, amplitude_y, frequency_x, frequency_y, phase in hand.wobble:
        wave = torch.sin(frequency_x * u + frequency_y * v + phase)
        dx, dy = dx + amplitude_x * wave, dy + amplitude_y * wave
    grid = torch.stack([u + dx, v + dy], -1).float().expand(len(masters), -1, -1, -1)
    ink = F.grid_sample(masters[:, None].float() / 255, grid, align_corners=True)
    blurred = F.avg_pool2d(F.avg_pool2d(ink, 5, 1, 2), 3, 1, 1)
    ink = torch.sigmoid((blurred - hand.weight) * 12)
    ink = ink * (blurred > 0.02)
    return (F.avg_pool2d(ink, _MASTER // SIZE) * 255).round().to(torch.uint8)


def draw_table(
    characters: dict[str, str], faces: Sequence[str] = FACES, name: str = "glyphs", account: Account | None = None
) -> ImageTable:
    """Draw every character in every hand (deterministic; about 20 s on one core for the committed list)."""
    letters = [(script, character) for script in sorted(characters) for character in characters[script]]
    images = torch.empty(len(letters), N_HANDS, 1, SIZE, SIZE, dtype=torch.uint8)
    rasters = [{face: master(c, face) for face in faces_with(c, faces)} for _, c in letters]
    for number in range(N_HANDS):
        this = hand(number)
        chosen = [next(raster[face] for face in preference(number, faces) if face in raster) for raster in rasters]
        for first in range(0, len(letters), 256):
            block = torch.from_numpy(np.stack(chosen[first : first + 256]))
            images[first : first + 256, number] = write(block, this)
    return ImageTable(
        name=name,
        images=images.flatten(0, 1),
        class_ids=torch.arange(len(letters)).repeat_interleave(N_HANDS),
        class_names=tuple(class_name(script, c) for script, c in letters),
        groups=tuple(script for script, _ in letters),
        account=account,
    )


def keep_look_alikes_once(characters: Iterable[str], threshold: float) -> str:
    """Return the characters without those that look like an earlier one.

    Two characters look alike if, in the later one's first face, the pixels of their blurred 28×28 rasters differ by
    less than `threshold` in relative squared distance `|a - b|² / (|a|² + |b|²)` (0: same pixels, 1: no common ink), or
    by less than a quarter of it in another face (bold faces are alike because they are bold).
    """
    kept: list[str] = []
    seen: dict[str, list[Tensor]] = {face: [] for face in FACES}
    for character in characters:
        rows = {}
        faces = faces_with(character)
        for face in faces:
            raster = torch.from_numpy(master(character, face).astype(np.float32) / 255)
            rows[face] = F.avg_pool2d(F.avg_pool2d(raster[None, None], 3, 3), 3, 1, 1).flatten()
        limits = {face: threshold if face == faces[0] else threshold / 4 for face in faces}
        if any(_nearest(row, seen[face]) < limits[face] for face, row in rows.items()):
            continue
        kept.append(character)
        for face, row in rows.items():
            seen[face].append(row)
    return "".join(kept)


def _nearest(row: Tensor, others: list[Tensor]) -> float:
    if not others:
        return float("inf")
    stacked = torch.stack(others)
    return float(((stacked - row).square().sum(1) / (stacked.square().sum(1) + row.square().sum())).min())
