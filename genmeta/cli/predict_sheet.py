"""The predictions of a learner as a picture: for each class its examples, and the pictures that got its label."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from genmeta.data.glyphs import font_path
from genmeta.errors import printable
from genmeta.explore.drawing import FRAME, as_picture
from genmeta.learners.predictor import Predictions

_TILE, _GAP, _TEXT = 72, 6, 26  # pixels: side of a picture, space about it, two lines below it
_EXAMPLES, _NAMED, _ROWS = 4, 10, 60  # of a row; rows
_TITLE = 24  # letters of a class name


def contact_sheet(
    support: Mapping[str, Tensor], query: Tensor, names: Sequence[str], predictions: Predictions
) -> Image.Image:
    """Return a picture with a row for each class: its name, its examples framed blue, and the pictures with its label.

    The most certain picture is first. Each has the end of its name and its probability below it. All are shown as the
    learner sees them.

    Args:
        support: examples by class, uint8 `[n, C, H, W]`.
        query: the labelled pictures, uint8 `[n, C, H, W]`.
        names: of the labelled pictures.
        predictions: their labels.
    """
    font = ImageFont.truetype(font_path("DejaVuSans"), 10)
    classes = list(support)[:_ROWS]
    taken: dict[str, list[int]] = {name: [] for name in support}
    labels, confidences = predictions.labels, predictions.confidences
    for number in sorted(range(len(names)), key=lambda number: -confidences[number]):
        taken[labels[number]].append(number)
    left = 2 * _GAP + max(int(font.getlength(line)) for name in classes for line in _title(name, len(taken[name])))
    step, height = _TILE + _GAP, _TILE + _TEXT + _GAP
    n_examples = min(_EXAMPLES, max(len(images) for images in support.values()))
    n_named = min(_NAMED, max(len(numbers) for numbers in taken.values()))
    more = len(support) > len(classes)
    width = left + (n_examples + n_named) * step + 2 * _GAP
    sheet = Image.new("RGB", (width, len(classes) * height + 16 * more), "white")
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(classes):
        top = row * height + _GAP
        for line, text in enumerate(_title(name, len(taken[name]))):
            draw.text((_GAP, top + _TILE // 2 - 12 + 13 * line), text, fill="black", font=font)
        for column, image in enumerate(support[name][:n_examples]):
            x = left + column * step
            draw.rectangle((x - 2, top - 2, x + _TILE + 1, top + _TILE + 1), fill=FRAME)
            sheet.paste(_tile(image), (x, top))
        for column, number in enumerate(taken[name][:n_named]):
            x = left + (n_examples + column) * step + _GAP
            sheet.paste(_tile(query[number]), (x, top))
            stem = _fitting(PurePath(printable(names[number])).stem, font)
            draw.text((x, top + _TILE + 1), stem, fill="black", font=font)
            draw.text((x, top + _TILE + 13), f"{100 * confidences[number]:.0f} %", fill="black", font=font)
    if more:
        draw.text((_GAP, len(classes) * height), f"and {len(support) - len(classes)} more classes", "black", font)
    return sheet


def _title(name: str, n: int) -> tuple[str, str]:
    text = printable(name)
    return text if len(text) <= _TITLE else f"…{text[1 - _TITLE :]}", f"{n} picture{'s' * (n != 1)}"


def _fitting(text: str, font: ImageFont.FreeTypeFont) -> str:
    """Return a text cut to the width of a picture; its end is kept."""
    if font.getlength(text) <= _TILE:
        return text
    while text and font.getlength(f"…{text}") > _TILE:
        text = text[1:]
    return f"…{text}"


def _tile(image: Tensor) -> Image.Image:
    picture = as_picture(image.float() / 255)
    smooth = Image.Resampling.NEAREST if image.shape[-1] < _TILE else Image.Resampling.LANCZOS
    return picture.resize((_TILE, _TILE), smooth)
