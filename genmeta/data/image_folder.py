"""`image_folder`: your own pictures, a folder a class."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from genmeta.data.cache import Block, TableStream
from genmeta.data.decode import BadImageError, decode
from genmeta.data.source import CachedSource, fingerprint
from genmeta.data.splits import PARTS
from genmeta.errors import UserError, require_positive

ENDINGS = (".png", ".jpg", ".jpeg")
_BLOCK = 256  # images of a class decoded before they are written
_NAMED = 10  # files that cannot be used that a message counts


@dataclass(frozen=True)
class FolderClass:
    """A class folder: its class, its group, its part if the folder is split, and its pictures in order."""

    name: str
    group: str
    part: str | None
    files: tuple[Path, ...]


@dataclass(frozen=True)
class ImageFolder(CachedSource):
    """Data source: `folder/<class>/*.png` or `*.jpg`, or `folder/<group>/<class>/…`, the same depth everywhere.

    If `folder` holds `train`, `val` and `test`, each of these holds such folders and they are the data set's own split
    (`split: own`); otherwise `split` names a JSON file, or `{seed: 0}` draws one. Class names are `<class>` or
    `<group>/<class>`. Names that begin with a dot and other kinds of files are passed over. A class with one image is
    a class; episodes that need more images than the smallest class has are refused before training.

    What becomes of a picture is told by `genmeta.data.decode.decode`: rotated by its EXIF orientation, 16 bits and CMYK
    converted, cut to the largest centred square and scaled. A broken, empty or animated picture stops the preparation
    with its name; nothing is passed over in silence.

    Args:
        folder: of the pictures.
        size: side of the images in pixels.
        channels: 3 for colour, 1 for grey.
    """

    folder: str
    size: int = 84
    channels: Literal[1, 3] = 3

    table_name: ClassVar[str] = "image_folder"

    def __post_init__(self) -> None:
        require_positive("ImageFolder", size=self.size)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def recipe(self) -> dict[str, object]:
        classes = self._classes()
        return {
            "recipe": 1,
            "size": self.size,
            "channels": self.channels,
            "classes": [(found.part, found.name, len(found.files)) for found in classes],
            "files": fingerprint(file for found in classes for file in found.files),
        }

    def stream(self) -> TableStream:
        classes = self._classes()
        n_images = sum(len(found.files) for found in classes)
        return TableStream(self.table_name, self.image_shape, self._blocks(classes), n_images)

    def _classes(self) -> list[FolderClass]:
        folder = Path(self.folder).expanduser()
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; expected one with a folder of pictures for each class")
        return find_classes(folder)

    def _blocks(self, classes: list[FolderClass]) -> Iterator[Block]:
        bad: list[str] = []
        for found in classes:
            for first in range(0, len(found.files), _BLOCK):
                images = []
                for file in found.files[first : first + _BLOCK]:
                    try:
                        images.append(decode(file, self.size, self.channels))
                    except BadImageError as error:
                        bad.append(f"{file}: {error}")
                if len(bad) >= _NAMED:
                    raise _refusal(bad)
                if not bad:
                    yield Block(found.name, found.group, torch.stack(images), found.part)
        if bad:
            raise _refusal(bad)


def _refusal(bad: list[str]) -> UserError:
    n = f"{len(bad)} or more" if len(bad) >= _NAMED else str(len(bad))
    return UserError(f"{bad[0]}; remove or replace it (pictures that cannot be used: {n}; nothing was prepared)")


def find_classes(folder: Path) -> list[FolderClass]:
    """Return the class folders below a folder, sorted by part, group and class.

    Raises:
        UserError: there is no picture, one lies in no class folder or too deep, a class folder is empty, only some of
            `train`, `val` and `test` are there, or a class is in two of them.
    """
    inside = _folders(folder)
    split = [part for part in PARTS if part in inside]
    if split and (len(split) < 3 or len(inside) > 3):
        raise UserError(
            f"{folder}: holds {', '.join(inside[:5])}; expected train, val and test and nothing else, or none of them"
        )
    roots: list[tuple[Path, str | None]] = [(folder / part, part) for part in split] or [(folder, None)]
    classes = [found for root, part in roots for found in _classes_of_part(root, part)]
    if not classes:
        raise UserError(f"{folder}: holds no class folder with {' or '.join(ENDINGS)} pictures")
    where: dict[str, FolderClass] = {}
    for found in classes:
        if found.name in where:
            raise UserError(
                f"{folder}: class '{found.name}' is in {where[found.name].part} and in {found.part}; "
                "a class must be in one of them"
            )
        where[found.name] = found
    return classes


def _classes_of_part(root: Path, part: str | None) -> list[FolderClass]:
    if loose := _pictures(root):
        raise UserError(f"{loose[0]}: lies in no class folder; expected {root}/<class>/{loose[0].name}")
    classes = []
    depths: dict[int, Path] = {}
    for outer in _folders(root):
        inner = _folders(root / outer)
        if inner and (loose := _pictures(root / outer)):
            raise UserError(f"{loose[0]}: lies beside folders; pictures must lie in class folders only")
        depths.setdefault(2 if inner else 1, root / outer)
        for path, name, group in (
            [(root / outer / i, f"{outer}/{i}", outer) for i in inner]
            if inner
            else [(root / outer, outer, ImageFolder.table_name)]
        ):
            if _folders(path):
                raise UserError(f"{path}: holds folders; expected pictures in <class>/ or <group>/<class>/, no deeper")
            files = _pictures(path)
            if not files:
                raise UserError(f"{path}: holds no {' or '.join(ENDINGS)} picture; put some there or remove the folder")
            classes.append(FolderClass(name, group, part, tuple(files)))
    if len(depths) > 1:
        raise UserError(
            f"{depths[1]}: holds pictures, but {depths[2]} holds folders; expected <class>/ everywhere or "
            "<group>/<class>/ everywhere"
        )
    return classes


def _folders(path: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(path) if e.is_dir() and not e.name.startswith("."))


def _pictures(path: Path) -> list[Path]:
    names = (e.name for e in os.scandir(path) if not e.name.startswith(".") and e.is_file())
    return [path / name for name in sorted(names) if name.lower().endswith(ENDINGS)]
