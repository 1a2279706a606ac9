"""`glyphs`: the embedded data set, drawn from the DejaVu fonts that matplotlib ships. No account, no download.

A class is a character, its group a script, an instance one of 20 "hands": a face of the typeface with that hand's own
slant, aspect, rotation, stroke width and wobble, fixed by the hand's number. 28×28, ink = 255. The characters are those
of `glyphs_characters.json`: the letters without a Unicode decomposition that the fonts can draw, look-alikes kept
once (`scripts/make_glyphs_lists.py` finds them).
"""

import hashlib
import json
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFont, features
from torch import Tensor
from torch.nn import functional as F

from genmeta.data.cache import cached_table
from genmeta.data.source import DataSource
from genmeta.data.table import ImageTable

N_HANDS = 20
SIZE = 28
RECIPE = 1  # raise it when the drawing changes, so that caches are made anew
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
class Glyphs(DataSource):
    """Data source: every class of `glyphs` (the split decides which are used for what)."""

    def load(self) -> ImageTable:
        """Return the table from the user's cache folder, drawing it first if it is not there (about 20 s)."""
        characters = load_characters()
        recipe = {
            "recipe": RECIPE,
            "hands": N_HANDS,
            "size": SIZE,
            "freetype": features.version("freetype2"),
            "characters": hashlib.sha256(CHARACTERS_FILE.read_bytes()).hexdigest(),
            "fonts": [hashlib.sha256(font_path(face).read_bytes()).hexdigest() for face in FACES],
        }
        return cached_table("glyphs", recipe, lambda: draw_table(characters))


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


def hand(number: int) -> Hand:
    """Return the hand of a number. Python's own generator is used: its stream is fixed by the language."""
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
    """Return `{script: its characters}` of the committed list."""
    characters: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return characters


def class_name(script: str, character: str) -> str:
    """Return the class name of a character, e.g. `Greek/U+03B1`."""
    return f"{script}/U+{ord(character):04X}"


def font_path(face: str) -> Path:
    """Return the file of a DejaVu face inside the installed matplotlib."""
    import matplotlib  # here: `import genmeta` stays light

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


@cache
def charmap(face: str) -> frozenset[int]:
    """Return the code points that a face can draw."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(font_path(face))).get_charmap())


def faces_with(character: str) -> list[str]:
    """Return the faces that can draw the character, in the order of `FACES`."""
    return [face for face in FACES if ord(character) in charmap(face)]


def master(character: str, face: str) -> np.ndarray:
    """Return the upright character as uint8 `[84, 84]`: centred, its longest side 60 pixels, ink = 255."""
    mask = _font(face).getmask(character, mode="L")
    raster = Image.frombytes("L", mask.size, bytes(mask))
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


def draw_table(characters: dict[str, str]) -> ImageTable:
    """Draw every character in every hand (deterministic; about 20 s on one core)."""
    letters = [(script, character) for script in sorted(characters) for character in characters[script]]
    images = torch.empty(len(letters), N_HANDS, 1, SIZE, SIZE, dtype=torch.uint8)
    rasters = [{face: master(c, face) for face in faces_with(c)} for _, c in letters]
    for number in range(N_HANDS):
        this = hand(number)
        preference = FACES[this.face :] + FACES[: this.face]
        chosen = [next(raster[face] for face in preference if face in raster) for raster in rasters]
        for first in range(0, len(letters), 256):
            block = torch.from_numpy(np.stack(chosen[first : first + 256]))
            images[first : first + 256, number] = write(block, this)
    return ImageTable(
        name="glyphs",
        images=images.flatten(0, 1),
        class_ids=torch.arange(len(letters)).repeat_interleave(N_HANDS),
        class_names=tuple(class_name(script, c) for script, c in letters),
        groups=tuple(script for script, _ in letters),
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
