"""`image_folder`: your own pictures, a folder for each class."""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch

from genmeta.data.account import Account, Tally, is_litter, is_litter_folder, is_read_anyway, suffix_reason
from genmeta.data.cache import Block, TableStream, cached_table
from genmeta.data.decode import BadImageError, decode, picture_suffixes
from genmeta.data.source import CachedSource, fingerprint
from genmeta.data.splits import PARTS
from genmeta.data.table import ImageTable
from genmeta.errors import UserError, require_positive

_READ = "PNG, JPEG, WebP, TIFF, BMP, GIF, …"
_BLOCK = 256  # images of a class decoded before they are written
_NAMED = 10  # unusable files that a message counts
_SHOWN = 3  # unusable files that it names
# names of parts in other data sets: as groups they would mix the parts
_PART_NAMES = {*PARTS, "training", "valid", "validation", "dev", "testing"}


@dataclass(frozen=True)
class FolderClass:
    """A class folder: its class, its group, its part if the folder is split, and its pictures in order."""

    name: str
    group: str
    part: str | None
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Listing:
    """The content of a folder, found without opening a picture."""

    classes: tuple[FolderClass, ...]
    account: Account

    @property
    def parts(self) -> tuple[str, ...] | None:
        """Part of each class, if the folder is split."""
        parts = tuple(one.part for one in self.classes if one.part is not None)
        return parts or None


@dataclass(frozen=True)
class ImageFolder(CachedSource):
    """Data source: `folder/<class>/…` or `folder/<group>/<class>/…`, the same depth everywhere, pictures of all usual
    formats (`genmeta.data.decode.FORMATS`), known by their suffix.

    If `folder` holds `train`, `val` and `test`, each holds such folders, and they are the data set's own split
    (`split: own`). Otherwise `split` names a JSON file, or `{seed: 0}` draws one. Class names are `<class>` or
    `<group>/<class>`, always in Unicode's composed form. Files of other kinds, hidden pictures, broken links and links
    to a folder that is read anyway are passed over; the table's `account` counts them by reason. Files of systems and
    archives (`.DS_Store`, `__MACOSX`, …) are not shown. A class with one image is a class, unless `min_images` leaves
    it out. Episodes that need more images than the smallest class has are refused before training.

    `genmeta.data.decode.decode` converts a picture: rotated by its EXIF orientation, 16 bits and CMYK converted, cut to
    the largest centred square and scaled. A broken, empty or animated picture stops the preparation with its name.

    Args:
        folder: of the pictures.
        size: side of the images in pixels.
        channels: 3 for colour, 1 for grey.
        min_images: classes with fewer pictures are left out; the account names the first and counts their pictures.
    """

    folder: str
    size: int = 84
    channels: Literal[1, 3] = 3
    min_images: int = 1

    table_name: ClassVar[str] = "image_folder"

    def __post_init__(self) -> None:
        require_positive("ImageFolder", size=self.size, min_images=self.min_images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def recipe(self) -> dict[str, object]:
        return self._recipe(self._listing().classes)

    def stream(self) -> TableStream:
        return self._stream(self._listing())

    def listed(self) -> ImageTable:
        listing = self._listing()
        classes = [(one.name, one.group, len(one.files)) for one in listing.classes]
        return ImageTable.outline(self.table_name, self.image_shape, classes, listing.parts)

    def load(self) -> ImageTable:
        listing = self._listing()
        table = cached_table(self.table_name, self._recipe(listing.classes), lambda: self._stream(listing))
        # the account of now: other files may be passed over than when the table was made
        files = [file for one in listing.classes for file in one.files]
        return replace(table, account=listing.account, files=files)

    def _recipe(self, classes: Sequence[FolderClass]) -> dict[str, object]:
        return {
            "recipe": 1,
            "size": self.size,
            "channels": self.channels,
            "classes": [(one.part, one.name, len(one.files)) for one in classes],
            "files": fingerprint(file for one in classes for file in one.files),
        }

    def _stream(self, listing: Listing) -> TableStream:
        blocks = self._blocks(listing.classes)
        return TableStream(self.table_name, self.image_shape, blocks, listing.account.used, lambda: listing.account)

    def _listing(self) -> Listing:
        folder = Path(self.folder).expanduser()
        if not folder.is_dir():
            problem = "is a file; unpack it and give its folder," if folder.is_file() else "no such folder; expected"
            raise UserError(f"{folder}: {problem} one with a folder of pictures for each class")
        return list_folder(folder, self.min_images)

    def _blocks(self, classes: Sequence[FolderClass]) -> Iterator[Block]:
        bad: list[tuple[Path, BadImageError]] = []
        for one in classes:
            for first in range(0, len(one.files), _BLOCK):
                images = []
                for file in one.files[first : first + _BLOCK]:
                    try:
                        images.append(decode(file, self.size, self.channels))
                    except BadImageError as error:
                        bad.append((file, error))
                if len(bad) >= _NAMED:
                    raise _refusal(bad)
                if not bad:
                    yield Block(one.name, one.group, torch.stack(images), one.part)
        if bad:
            raise _refusal(bad)


def _refusal(bad: list[tuple[Path, BadImageError]]) -> UserError:
    n = f"{len(bad)} or more" if len(bad) >= _NAMED else str(len(bad))
    also = ", ".join(str(file) for file, _ in bad[1:_SHOWN])
    n += f"; also {also}" if also else ""
    file, error = bad[0]
    return UserError(f"{file}: {error}; remove or replace it (pictures that cannot be used: {n}; nothing was prepared)")


def list_folder(folder: Path, min_images: int = 1) -> Listing:
    """Return the class folders below a folder, sorted by part, group and class, and the account of all files below it.

    Classes with fewer than `min_images` pictures are passed over.

    Raises:
        UserError: there is no picture, a picture is in no class folder or too deep, a class folder is empty, some of
            `train`, `val` and `test` are missing or have other names, a class is there twice, or no class has
            `min_images`.
    """
    tally = Tally(folder)
    inside = _look(folder, tally)
    split = [part for part in PARTS if part in inside.folders]
    like_parts = len(inside.folders) > 1 and {name.lower() for name in inside.folders} <= _PART_NAMES
    if (split or like_parts) and set(inside.folders) != set(PARTS):
        raise UserError(
            f"{folder}: holds {', '.join(inside.folders[:5])}; expected train, val and test and nothing else, or none "
            "of them"
        )
    parts = [(folder / part, part, _look(folder / part, tally)) for part in split]
    if parts and inside.pictures:
        raise UserError(f"{inside.pictures[0]}: lies beside train, val and test; pictures must lie in class folders")
    roots: list[tuple[Path, str | None, _Inside]] = [*parts] or [(folder, None, inside)]
    classes = [one for root, part, its in roots for one in _classes_of_part(root, part, its, tally)]
    if not classes:
        raise UserError(f"{folder}: holds no class folder with pictures ({_READ}); found {tally.account()}")
    where: dict[str, FolderClass] = {}
    for one in classes:
        if one.name in where:
            first, second = where[one.name].files[0].parent, one.files[0].parent
            raise UserError(f"{second}: is class '{one.name}', as is {first}; a class must be one folder")
        where[one.name] = one
    small = [one for one in classes if len(one.files) < min_images]
    for one in small:
        tally.pass_over(f"in a class of fewer than {min_images}", one.name, len(one.files))
    if len(small) == len(classes):
        most = max(classes, key=lambda one: len(one.files))
        raise UserError(
            f"{folder}: no class has min_images = {min_images} pictures; the largest, '{most.name}', has "
            f"{len(most.files)}"
        )
    classes = [one for one in classes if len(one.files) >= min_images]
    tally.used = sum(len(one.files) for one in classes)
    return Listing(tuple(classes), tally.account())


@dataclass(frozen=True)
class _Inside:
    """The content of a folder: names of folders, and pictures, both sorted."""

    folders: list[str]
    pictures: list[Path]


def _classes_of_part(root: Path, part: str | None, inside: _Inside, tally: Tally) -> list[FolderClass]:
    if loose := inside.pictures:
        raise UserError(f"{loose[0]}: lies in no class folder; expected {root}/<class>/{loose[0].name}")
    classes = []
    empty: list[Path] = []
    depths: dict[int, Path] = {}
    for outer in inside.folders:
        within = _look(root / outer, tally)
        if within.folders and within.pictures:
            raise UserError(f"{within.pictures[0]}: lies beside folders; pictures must lie in class folders only")
        depths.setdefault(2 if within.folders else 1, root / outer)
        for path, name, group, its in (
            [(root / outer / i, f"{outer}/{i}", outer, _look(root / outer / i, tally)) for i in within.folders]
            if within.folders
            else [(root / outer, outer, ImageFolder.table_name, within)]
        ):
            name, group = _composed(path, name), _composed(path, group)
            if its.folders:
                raise UserError(f"{path}: holds folders; expected pictures in <class>/ or <group>/<class>/, no deeper")
            if its.pictures:
                classes.append(FolderClass(name, group, part, tuple(its.pictures)))
            else:
                empty.append(path)
    if empty:
        problem = f"holds no picture ({_READ}){_first_file(empty[0])}"
        others = f" ({len(empty) - 1} more hold none)" if len(empty) > 1 else ""
        raise UserError(f"{empty[0]}: {problem}; put some there or remove the folder{others}")
    if len(depths) > 1:
        raise UserError(
            f"{depths[1]}: holds pictures, but {depths[2]} holds folders; expected <class>/ everywhere or "
            "<group>/<class>/ everywhere"
        )
    return classes


def _look(path: Path, tally: Tally) -> _Inside:
    """Return the content of a folder; files that are no pictures are counted, with the reason."""
    inside = _Inside([], [])
    for entry in _entries(path):
        name = entry.name
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself
            is_folder = is_file = False
        if is_folder and entry.is_symlink() and is_read_anyway(path / name, tally.root or path):
            tally.pass_over("link to a folder that is read anyway", path / name)
        elif is_folder and (name.startswith(".") or is_litter_folder(name)):
            _count_passed_over(path / name, tally)
        elif is_folder:
            inside.folders.append(name)
        elif tally.set_aside([name], path / name):
            continue
        elif not is_file:
            tally.pass_over("broken link" if entry.is_symlink() else "no regular file", path / name)
        elif os.path.splitext(name)[1].lower() in picture_suffixes():
            inside.pictures.append(path / name)
        else:
            tally.pass_over(suffix_reason(name), path / name)
    return inside


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{path}: cannot be listed ({error.strerror}); make it readable or remove it") from error


def _composed(path: Path, name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: a class cannot be named by bytes that are no UTF-8; rename it") from error
    return unicodedata.normalize("NFC", name)


def _count_passed_over(folder: Path, tally: Tally) -> None:
    """Count the files in a folder that is passed over; a link is not followed."""
    if folder.is_symlink():
        tally.litter += 1
        return
    for where, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(where) / name).is_symlink()]
        for file in (Path(where) / name for name in sorted([*names, *links])):
            tally.set_aside(file.relative_to(folder.parent).parts, file)


def _first_file(path: Path) -> str:
    names = [entry.name for entry in _entries(path) if not is_litter(entry.name) and not entry.name.startswith(".")]
    return f", but {len(names)} other files like {names[0]}" if names else ""
