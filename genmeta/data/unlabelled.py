"""Images without their classes: in an order that says nothing of them."""

import torch
from torch import Tensor

from genmeta.data.seen import hash_images
from genmeta.data.table import gather


def rows_by_pixels(images: Tensor, rows: Tensor) -> Tensor:
    """Return rows of a table in the order of hashes of their pixels, int64 `[n]`.

    Tables are sorted by class, so the order of their rows tells classes. This one follows from the pictures alone:
    whoever draws from it draws the same pictures, whatever class each is said to be of.

    Args:
        images: of the table, uint8 `[N, C, H, W]`.
        rows: int64 `[n]`.
    """
    hashes = torch.cat([hash_images(gather(images, part)) for part in rows.split(4096)])
    order = hashes.numpy().astype("<i8").view(">u8").argsort(kind="stable")  # as their bytes are ordered
    return rows[torch.from_numpy(order)]
