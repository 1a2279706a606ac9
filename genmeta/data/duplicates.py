"""The same image in two parts of a split: the leak that class names do not show."""

import hashlib
from collections.abc import Mapping

from torch import Tensor

from genmeta.data.splits import Part
from genmeta.data.table import ImageTable


def find_duplicates(table: ImageTable, class_ids: Mapping[Part, Tensor]) -> list[str]:
    """Return a line for each image that was already met, pixel for pixel, in an earlier part.

    Args:
        class_ids: the table's class ids of each part.
    """
    first: dict[bytes, tuple[str, str]] = {}
    lines = []
    for part, ids in class_ids.items():
        for class_id in ids.tolist():
            start, name = int(table.starts[class_id]), table.class_names[class_id]
            for number, image in enumerate(table.images[start : start + int(table.counts[class_id])]):
                digest = hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest()
                here = f"image {number} of '{name}' ({part})"
                its_part, its_place = first.setdefault(digest, (part, here))
                if its_part != part:
                    lines.append(f"{here} is {its_place}")
    return lines
