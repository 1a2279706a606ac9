"""What a test says of its classes: two tables and a picture in the run folder."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from genmeta.data.glyphs import font_path
from genmeta.errors import printable
from genmeta.evaluation.confusion import PAIRS, PER_CLASS, Confusion, pair_rows, per_class_rows
from genmeta.modules.meta_module import MetaModule
from genmeta.modules.pictures import save_picture

PER_CLASS_FILE, CONFUSION_FILE = "per_class.csv", "confusion.csv"
DRAWN = 30  # classes in the picture, at most
_CELL, _LONGEST = 9, 24  # pixels of a cell, and of a line of text; letters of a name
_NEVER = (0.85, 0.85, 0.85)  # colour of two classes that never met


class ClassFiles(Callback):
    """After a test, `per_class.csv` and `confusion.csv` of all its kinds of episodes, and `pictures/confusion.png` of
    the first.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MetaModule)
        found = pl_module.confusions
        if not trainer.is_global_zero or not found:
            return
        _write(self.folder / PER_CLASS_FILE, PER_CLASS, (per_class_rows(*entry) for entry in found.items()))
        _write(self.folder / CONFUSION_FILE, PAIRS, (pair_rows(*entry) for entry in found.items()))
        picture = draw_confusion(next(iter(found.values())))
        save_picture(trainer, self.folder / "pictures", "confusion", None, picture)


def lowest_classes(confusion: Confusion, n: int = 3) -> str:
    """Return the classes of the lowest accuracies in words: `g/c3 41.3 %, g/c1 45.0 %`."""
    return ", ".join(f"{printable(name)} {100 * accuracy:.1f} %" for name, accuracy in confusion.lowest(n))


def draw_confusion(confusion: Confusion) -> Tensor:
    """Return the rates as a picture `[3, h, w]`: a row for each class of the queries, a column for what they were taken
    for; white 0, dark 1, grey where the two never met. Of more than `DRAWN` classes those of the most confused pairs.
    """
    from PIL import Image, ImageDraw, ImageFont

    chosen = confusion.most_confused(DRAWN) or [0]  # where nothing was confused
    names = [_short(confusion.names[i]) for i in chosen]
    font = ImageFont.truetype(font_path("DejaVuSans"), 7)
    width = max(int(font.getlength(name)) for name in names) + 4
    side = _CELL * len(names)
    picture = Image.new("RGB", (width + side + 4, width + side + 4), "white")
    text = Image.new("RGB", (width, side), "white")
    draw = ImageDraw.Draw(text)
    for row, name in enumerate(names):
        draw.text((2, row * _CELL), name, fill="black", font=font)
    picture.paste(text, (0, width))
    picture.paste(text.rotate(90, expand=True), (width, 0))
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    cells = _colours(confusion, torch.tensor(chosen)).repeat_interleave(_CELL, 1).repeat_interleave(_CELL, 2)
    pixels[:, width : width + side, width : width + side] = cells
    return pixels


def _colours(confusion: Confusion, chosen: Tensor) -> Tensor:
    """Return the colour of each cell, `[3, n, n]`: right answers blue, wrong ones red."""
    offered, times = (counts[chosen][:, chosen] for counts in (confusion.offered, confusion.chosen))
    rate = times / offered.clamp(min=1)
    dark = torch.tensor([[0.75, 0.05, 0.05], [0.05, 0.2, 0.6]])[torch.eye(len(chosen), dtype=torch.long)]
    colours = torch.lerp(torch.ones(3), dark, rate.sqrt()[..., None])  # small rates of mistakes are to be seen
    colours[offered == 0] = torch.tensor(_NEVER)
    return colours.permute(2, 0, 1)


def _short(name: str) -> str:
    """Return a class name, its end if it is long."""
    text = printable(name)
    return text if len(text) <= _LONGEST else f"…{text[1 - _LONGEST :]}"


def _write(path: Path, columns: Sequence[str], of_episodes: Iterable[list[Sequence[object]]]) -> None:
    part = path.with_name(f".{path.name}.part")  # whole, or not at all
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for rows in of_episodes:
            writer.writerows(rows)
    part.replace(path)
