"""`omniglot`: 1,623 handwritten characters of 50 alphabets, 20 drawers each.

Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program induction", Science 2015.
Splits: `omniglot` (the authors' background and evaluation alphabets) and `omniglot_vinyals` (1,200 and 423 characters).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from genmeta.data.cache import TableStream
from genmeta.data.decode import BadImageError
from genmeta.data.omniglot_minimal import SOURCE, read_drawing, read_zip, table_of_drawings
from genmeta.data.source import CachedSource, data_folder, fingerprint
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
        return {"recipe": 1, "size": self.size, "files": fingerprint(self._find(name) for name in SETS)}

    def stream(self) -> TableStream:
        drawings: dict[str, list[Tensor]] = {}
        for name in SETS:
            path = self._find(name)
            drawings |= read_zip(path, self.size) if path.is_file() else read_folder(path, self.size)
        return TableStream.of(table_of_drawings(self.table_name, drawings))

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


def read_folder(path: Path, size: int) -> dict[str, list[Tensor]]:
    """Read `<alphabet>/<character>/<drawing>.png`, as `read_zip` does.

    Raises:
        UserError: a file is no picture, or there is none.
    """
    drawings: dict[str, list[Tensor]] = {}
    for file in sorted(path.glob("*/*/*.png")):
        try:
            drawings.setdefault(f"{file.parts[-3]}/{file.parts[-2]}", []).append(read_drawing(file, size))
        except BadImageError as error:
            raise UserError(f"{file}: {error}; fetch {path.name}.zip again ({SOURCE})") from error
    if not drawings:
        raise UserError(f"{path}: holds no <alphabet>/<character>/<drawing>.png; expected {path.name} of {SOURCE}")
    return drawings
