"""`omniglot`: 1,623 handwritten characters of 50 alphabets, 20 drawers each.

Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program induction", Science 2015.
Splits: `omniglot` (the authors' background and evaluation alphabets) and `omniglot_vinyals` (1,200 and 423 characters).
"""

import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from genmeta.data.account import Tally, is_read_anyway, suffix_reason
from genmeta.data.cache import TableStream
from genmeta.data.decode import BadImageError
from genmeta.data.omniglot_minimal import SOURCE, read_drawing, read_zip, sort_members, table_of_drawings
from genmeta.data.source import CachedSource, data_folder, fingerprint
from genmeta.data.table import ImageTable
from genmeta.errors import UserError, require_positive

SETS = ("images_background", "images_evaluation")


@dataclass(frozen=True)
class Omniglot(CachedSource):
    """Data source: both sets; the split decides which classes are used for what.

    Of each set the zip file is read as it is, or a folder of it unpacked; they may lie in `folder` itself or in
    `folder/omniglot-py`, where torchvision puts them.

    Args:
        folder: where the files are; by default `$GENMETA_DATA/omniglot`, or `data/omniglot`.
        size: side of the images in pixels; the originals have 105.
        download: let torchvision fetch the zip files into `folder/omniglot-py` if they are not there.
    """

    folder: str | None = None
    size: int = 28
    download: bool = False

    table_name: ClassVar[str] = "omniglot"

    def __post_init__(self) -> None:
        require_positive("Omniglot", size=self.size)

    @property
    def path(self) -> Path:
        """Where the files are."""
        return data_folder(self.folder, self.table_name)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 1, self.size, self.size

    def recipe(self) -> dict[str, object]:
        return {"recipe": 3, "size": self.size, "files": fingerprint(self._find(name) for name in SETS)}

    def stream(self) -> TableStream:
        drawings: dict[str, list[Tensor]] = {}
        tally = Tally()
        for name in SETS:
            path = self._find(name)
            read = read_zip if path.is_file() else read_folder
            for character, images in read(path, self.size, tally).items():
                drawings.setdefault(character, []).extend(images)
        return TableStream.of(table_of_drawings(self.table_name, drawings, tally.account()))

    def listed(self) -> ImageTable | None:
        counts: Counter[str] = Counter()
        for name in SETS:
            path = self._find(name)
            try:
                counts.update(_characters(path))
            except (OSError, zipfile.BadZipFile):  # reading it says what is wrong
                return None
        classes = [(character, character.split("/")[0], counts[character]) for character in sorted(counts)]
        return ImageTable.outline(self.table_name, self.image_shape, classes) if classes else None

    def _find(self, name: str) -> Path:
        folder = self.path
        places = [place / f"{name}{end}" for place in (folder / "omniglot-py", folder) for end in (".zip", "")]
        for attempt in range(2):
            for path in places:
                if path.is_file() or path.is_dir():
                    return path
            if attempt == 0 and self.download:
                self._fetch(name)
        raise UserError(
            f"{folder}: no {name}.zip; put it there ({SOURCE}), or set the data source's folder, or its download: true"
        )

    def _fetch(self, name: str) -> None:
        from torchvision.datasets import Omniglot as TorchvisionOmniglot

        try:
            TorchvisionOmniglot(self.path, background=name == SETS[0], download=True)
        except Exception as error:  # network, disk or a wrong checksum: a dozen types
            reason = " ".join(str(error).split())[:150] or type(error).__name__
            raise UserError(
                f"cannot download {name}.zip ({reason}); put it into {self.path} yourself ({SOURCE})"
            ) from error


def _characters(path: Path) -> list[str]:
    """Return the character of each drawing of a zip or folder."""
    if not path.is_file():
        return [character for character, _ in sort_files(path, Tally(path))]
    with zipfile.ZipFile(path) as archive:
        return [character for character, _ in sort_members(archive, Tally())]


def sort_files(path: Path, tally: Tally) -> list[tuple[str, Path]]:
    """Return `"alphabet/character"` and file of each `<alphabet>/<character>/<drawing>.png`, sorted.

    Args:
        tally: counts all files below.
    """
    found = []
    for file in sorted(_files(path)):
        place = file.relative_to(path).parts
        if tally.set_aside(place, file):
            continue
        if not file.is_file():
            kind = "link to a folder" if file.is_dir() else "broken link" if file.is_symlink() else "no regular file"
            tally.pass_over(kind, file)
        elif file.suffix.lower() != ".png":
            tally.pass_over(suffix_reason(file.name), file)
        elif len(place) != 3:
            tally.pass_over("not in <alphabet>/<character>", file)
        else:
            tally.used += 1
            found.append(("/".join(place[:2]), file))
    return found


def _files(path: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(path, followlinks=True):
        folder = Path(where)
        links = [name for name in folders if (folder / name).is_symlink()]
        if len(folder.relative_to(path).parts) < 2:  # a link to a drawing's folder, or further down, may be a circle
            links = [name for name in links if is_read_anyway(folder / name, path)]
        folders[:] = [name for name in folders if name not in links]
        yield from (folder / name for name in [*names, *links])


def read_folder(path: Path, size: int, tally: Tally | None = None) -> dict[str, list[Tensor]]:
    """Read `<alphabet>/<character>/<drawing>.png`, as `read_zip` does.

    Raises:
        UserError: a file is no picture, or there is none.
    """
    drawings: dict[str, list[Tensor]] = {}
    for character, file in sort_files(path, tally or Tally(path)):
        try:
            drawings.setdefault(character, []).append(read_drawing(file, size))
        except BadImageError as error:
            raise UserError(f"{file}: {error}; fetch {path.name}.zip again ({SOURCE})") from error
    if not drawings:
        raise UserError(f"{path}: holds no <alphabet>/<character>/<drawing>.png; expected {path.name} of {SOURCE}")
    return drawings
