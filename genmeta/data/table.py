"""The one form in which images reach the rest of the project, wherever they come from."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from genmeta.data.account import Account
from genmeta.errors import UserError

RESIDENT_LIMIT = 4 * 2**30  # bytes; a guess: a third of a 12 GB GPU, three times mini-ImageNet


@dataclass(frozen=True)
class ImageTable:
    """All images of a data set, sorted by class, in memory or in a memory-mapped file.

    Attributes:
        name: the data set's name, for messages and hashes.
        images: uint8 `[N, C, H, W]`, ink or light = 255. Read only: it may be a mapped file.
        class_ids: int64 `[N]`, non-decreasing, values `0 … n_classes - 1`, each of them at least once.
        class_names: one unique name a class, `"group/name"` by custom.
        groups: one group name a class (its alphabet, its super-class).
        parts: `train`, `val` or `test` for each class, if the data set brings a split with it.
        account: of what the reader found, if it tells: what is used, and what is passed over for which reason.
        known_content: `content`, where it is known already.
        files: the file of each image, if each has one.

    Raises:
        UserError: the parts do not fit together.
    """

    name: str
    images: Tensor
    class_ids: Tensor
    class_names: tuple[str, ...]
    groups: tuple[str, ...]
    parts: tuple[str, ...] | None = None
    account: Account | None = None
    known_content: str | None = None
    files: Sequence[Path] | None = None

    def __post_init__(self) -> None:
        n, n_classes = len(self.images), len(self.class_names)
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise UserError(
                f"{self.name}: images must be uint8 [N, C, H, W], found {self.images.dtype} {list(self.images.shape)}"
            )
        if self.images.shape[1] > 4 >= self.images.shape[3]:
            raise UserError(
                f"{self.name}: images are {list(self.images.shape)}, which looks like channels last; expected "
                f"[N, C, H, W]: images.permute(0, 3, 1, 2)"
            )
        if len(self.class_ids) != n or len(self.groups) != n_classes:
            raise UserError(
                f"{self.name}: {n} images with {len(self.class_ids)} class ids; "
                f"{n_classes} class names with {len(self.groups)} groups"
            )
        if self.files is not None and len(self.files) != n:
            raise UserError(f"{self.name}: {n} images with {len(self.files)} files")
        if self.parts is not None and len(self.parts) != n_classes:
            raise UserError(f"{self.name}: {n_classes} class names with {len(self.parts)} parts")
        if len(set(self.class_names)) != n_classes:
            raise UserError(f"{self.name}: two classes have the same name")
        if n == 0 or not torch.equal(self.class_ids.unique_consecutive(), torch.arange(n_classes)):
            raise UserError(f"{self.name}: images must be sorted by class, and every class must have at least one")

    @classmethod
    def outline(
        cls,
        name: str,
        image_shape: tuple[int, int, int],
        classes: Sequence[tuple[str, str, int]],
        parts: Sequence[str] | None = None,
    ) -> "ImageTable":
        """Return a table without its pixels: all of them are one zero, so that it takes no memory.

        It answers what names, groups, parts and counts answer, before anything is decoded.

        Args:
            classes: name, group and number of images of each, in the table's order.
            parts: see the attribute.
        """
        counts = torch.tensor([n for _, _, n in classes], dtype=torch.long)
        return cls(
            name=name,
            images=torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(int(counts.sum()), *image_shape),
            class_ids=torch.repeat_interleave(counts),
            class_names=tuple(class_name for class_name, _, _ in classes),
            groups=tuple(group for _, group, _ in classes),
            parts=None if parts is None else tuple(parts),
        )

    def keep(self, rows: Tensor) -> "ImageTable":
        """Return the table with some of its rows only (int64, ascending, at least one of each class).

        Raises:
            UserError: it is larger than memory, or a class would be empty.
        """
        if not self.resident:
            raise UserError(f"{self.name}: is larger than memory, so images cannot be left out; remove their files")
        files = None if self.files is None else [self.files[row] for row in rows.tolist()]
        return replace(self, images=self.images[rows], class_ids=self.class_ids[rows], known_content=None, files=files)

    @cached_property
    def content(self) -> str:
        """16 hex digits of what the pictures are: pixels, size, colour, how many of each class; not their names."""
        if self.known_content:
            return self.known_content
        digest = ContentHash()
        for chunk in self.images.split(4096):
            digest.update(chunk)
        return digest.of(self.image_shape, self.counts.tolist())

    def group_ids(self, class_ids: Tensor) -> Tensor:
        """Return the number of each class's group, int64 `[n]` for class ids `[n]`; groups count in the order in which
        these classes come.
        """
        names = [self.groups[number] for number in class_ids.tolist()]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        return torch.tensor([numbers[name] for name in names], dtype=torch.long)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)`."""
        c, h, w = self.images.shape[1:]
        return c, h, w

    @property
    def resident(self) -> bool:
        """Whether the table is small enough to be moved to a device as a whole (`RESIDENT_LIMIT`)."""
        return self.images.nbytes <= RESIDENT_LIMIT

    @cached_property
    def counts(self) -> Tensor:
        """Images of each class, int64 `[n_classes]`."""
        return torch.bincount(self.class_ids, minlength=len(self.class_names))

    @cached_property
    def starts(self) -> Tensor:
        """First row of each class, int64 `[n_classes]`."""
        return self.counts.cumsum(0) - self.counts


class ContentHash:
    """Of the pictures of a table, piece by piece: `ImageTable.content`."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=8)

    def update(self, images: Tensor) -> None:
        """Add uint8 images `[n, C, H, W]`."""
        self._digest.update(images.contiguous().numpy().data)

    def of(self, image_shape: tuple[int, int, int], counts: Sequence[int]) -> str:
        """Return the hash of all images, with their shape and their number in each class."""
        self._digest.update(json.dumps([list(image_shape), list(counts)]).encode())
        return self._digest.hexdigest()


def gather(images: Tensor, rows: Tensor) -> Tensor:
    """Return the rows of a table, uint8 `[n, C, H, W]`, on the device of `rows` (int64 `[n]`).

    One gather where the images are. Of a table that stays on the CPU, only the gathered rows go to the device.
    """
    return images.index_select(0, rows.to(images.device)).to(rows.device)
