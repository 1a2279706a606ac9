"""The interfaces of all data sources; a YAML names one by `class_path`."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from genmeta.data.cache import TableStream, cached_table, table_path
from genmeta.data.splits import Split, Wanted, find_split
from genmeta.data.table import ImageTable


def data_folder(given: str | None, name: str = "") -> Path:
    """Return where a data set's files are: the folder given, else folder `name` in `$GENMETA_DATA`, or in `data`."""
    if given is not None:
        return Path(given).expanduser()
    return Path(os.environ.get("GENMETA_DATA") or "data").expanduser() / name


class DataSource(ABC):
    """Something that loads an image table."""

    @abstractmethod
    def load(self) -> ImageTable:
        """Return the whole table, reading or making it.

        Raises:
            UserError: it cannot be had; the message says which file to put where.
        """

    def outline(self) -> ImageTable | None:
        """Return the table without its pixels (`ImageTable.outline`), where a listing tells it before the long work.

        None: nothing tells it, or the table is at hand anyway.

        Raises:
            UserError: as `load`.
        """
        return None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of the images. Overridden where it is known without loading."""
        return self.load().image_shape


class CachedSource(DataSource):
    """A source whose table is made once and then read from the user's cache folder.

    Attributes:
        table_name: the table's name, also that of its file.
    """

    table_name: ClassVar[str]

    @abstractmethod
    def recipe(self) -> dict[str, object]:
        """Return everything that the table follows from, as plain values: another recipe is another file.

        Raises:
            UserError: the files that it is made of are not there.
        """

    @abstractmethod
    def stream(self) -> TableStream:
        """Read or draw the images.

        Raises:
            UserError: they cannot be had; the message says which file to put where.
        """

    def outline(self) -> ImageTable | None:
        return None if self.cache_path().is_file() else self.listed()

    def listed(self) -> ImageTable | None:
        """Return what `outline` does, if the table has yet to be made."""
        return None

    def load(self) -> ImageTable:
        return cached_table(self.table_name, self.recipe(), self.stream)

    def cache_path(self) -> Path:
        """Return where the table is, or will be, kept.

        Raises:
            UserError: the files that it is made of are not there.
        """
        return table_path(self.table_name, self.recipe())


def outline_and_table(source: DataSource, wanted: Wanted, outline: bool = True) -> Iterator[tuple[ImageTable, Split]]:
    """Yield the outline with its split, if there is one and it is asked for, and then the table with its split.

    So whoever checks both tells before the long work all that a listing tells. The table is without the images that the
    split leaves out, and its account counts those of classes that are in no part.

    Raises:
        UserError: data or split are missing or do not fit.
    """
    if outline and (listing := source.outline()) is not None:
        yield listing, find_split(wanted, listing)
    table = source.load()
    split = find_split(wanted, table)
    yield split.told(split.without_left_out(table)), split


def fingerprint(paths: Iterable[Path]) -> str:
    """Return a hash of the files' sizes, times and names (their contents are not read), folders with all below."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        for found in [path] if path.is_file() else sorted(_files_below(path)):
            state = os.stat(found) if found.exists() else os.lstat(found)  # a broken link is there, too
            name = os.fsencode(found.relative_to(path.parent))  # which may be no text
            digest.update(name + f"\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def _files_below(folder: Path) -> Iterable[Path]:
    for where, _, names in os.walk(folder):
        yield from (Path(where) / name for name in names)
