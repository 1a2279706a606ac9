"""Finds the same image in two parts of a split: a leak that class names do not show."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from genmeta.data.splits import PARTS, Part, Split, image_digest
from genmeta.data.table import ImageTable
from genmeta.errors import printable


@dataclass(frozen=True)
class Double:
    """An image that an earlier part has too, pixel for pixel.

    Attributes:
        class_name, digest: its identity (`image_digest`).
        line: where both images are, in words.
    """

    class_name: str
    digest: str
    line: str


def find_duplicates(table: ImageTable, class_ids: Mapping[Part, Tensor]) -> list[Double]:
    """Return the images that an earlier part has too, pixel for pixel.

    Args:
        table: all images.
        class_ids: the table's class ids of each part.
    """
    first: dict[str, tuple[str, str]] = {}
    doubles = []
    for part, ids in class_ids.items():
        for class_id in ids.tolist():
            start, name = int(table.starts[class_id]), table.class_names[class_id]
            for number, image in enumerate(table.images[start : start + int(table.counts[class_id])]):
                digest = image_digest(image)
                here = f"{_place(table, class_id, number)} ({part})"
                its_part, its_place = first.setdefault(digest, (part, here))
                if its_part != part:
                    doubles.append(Double(name, digest, f"{here} is {its_place}"))
    return doubles


def _place(table: ImageTable, class_id: int, number: int) -> str:
    """Return an image's file as printable text, or class and number if it has no file."""
    if table.files is None:
        return f"image {number} of '{table.class_names[class_id]}'"
    return printable(str(table.files[int(table.starts[class_id]) + number]))


def drop_duplicates(split: Split, table: ImageTable, doubles: list[Double]) -> Split:
    """Return the split without the images that an earlier part has too.

    A class that has no other images is left out as a whole.

    Args:
        split: to be changed.
        table: without the images that the split leaves out already.
        doubles: from `find_duplicates`.

    Raises:
        UserError: a part would have no classes.
    """
    n_doubles: dict[str, int] = {}
    for double in doubles:
        n_doubles[double.class_name] = n_doubles.get(double.class_name, 0) + 1
    counts = dict(zip(table.class_names, table.counts.tolist(), strict=True))
    emptied = {name for name, n in n_doubles.items() if n == counts[name]}
    left_out = {*split.left_out, *((double.class_name, double.digest) for double in doubles)}
    parts = {part: tuple(name for name in getattr(split, part) if name not in emptied) for part in PARTS}
    kept = tuple(sorted(pair for pair in left_out if pair[0] not in emptied))
    return replace(split, **parts, left_out=kept)  # type: ignore[arg-type]
