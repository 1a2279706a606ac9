"""`omniglot_minimal`: Omniglot's two official "minimal" background sets, read from their zip files as they are.

Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program induction", Science
2015. Set 1 has 136 characters of 5 alphabets, set 2 has 156 of 5; Latin and Greek are in both with the same drawings'
characters, so of set 2 only its own three alphabets are used: a class must not stand in two parts of a split.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from torch import Tensor

from genmeta.data.account import Account, Tally, suffix_reason
from genmeta.data.decode import BadImageError, decode
from genmeta.data.source import DataSource, data_folder
from genmeta.data.table import ImageTable
from genmeta.errors import UserError, require_positive

FILES = ("images_background_small1.zip", "images_background_small2.zip")
SOURCE = "the Omniglot release by B. Lake, folder python/ of github.com/brendenlake/omniglot"
_LARGEST = 2**20  # bytes of a drawing; the real ones have 300


@dataclass(frozen=True)
class OmniglotMinimal(DataSource):
    """Data source.

    Args:
        folder: where the two zip files are; by default `$GENMETA_DATA`, or `data`.
        size: side of the images in pixels; the originals have 105.
    """

    folder: str | None = None
    size: int = 28

    def __post_init__(self) -> None:
        require_positive("OmniglotMinimal", size=self.size)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 1, self.size, self.size

    def load(self) -> ImageTable:
        """Read both zips and return the table (about 3 s).

        Raises:
            UserError: a file is missing, cut off, or has other contents than expected.
        """
        drawings: dict[str, list[Tensor]] = {}
        tally = Tally()
        for name in FILES:
            alphabets = {character.split("/")[0] for character in drawings}
            for character, images in read_zip(data_folder(self.folder) / name, self.size, tally).items():
                if character.split("/")[0] in alphabets:
                    tally.used -= len(images)
                    tally.pass_over("of an alphabet that set 1 has", f"{name}: {character}", len(images))
                else:
                    drawings[character] = images
        return table_of_drawings("omniglot_minimal", drawings, tally.account())


def table_of_drawings(name: str, drawings: Mapping[str, Sequence[Tensor]], account: Account) -> ImageTable:
    """Return the table of `{"alphabet/character": images}`, classes sorted by name, alphabets as groups."""
    names = sorted(drawings)
    return ImageTable(
        name=name,
        images=torch.stack([image for character in names for image in drawings[character]]),
        class_ids=torch.repeat_interleave(torch.tensor([len(drawings[character]) for character in names])),
        class_names=tuple(names),
        groups=tuple(character.split("/")[0] for character in names),
        account=account,
    )


def read_drawing(source: Path | bytes, size: int) -> Tensor:
    """Return a drawing as uint8 `[1, size, size]`, ink = 255.

    Black ink on white paper in the file; averaging over the shrunken area keeps thin strokes.

    Raises:
        BadImageError: the file cannot be used.
    """
    return 255 - decode(source, size, 1, Image.Resampling.BOX)


def sort_members(archive: zipfile.ZipFile, tally: Tally) -> list[tuple[str, zipfile.ZipInfo]]:
    """Return `"alphabet/character"` and entry of each `<set>/<alphabet>/<character>/<drawing>.png`, sorted by name.

    Args:
        tally: counts all files of the archive.
    """
    found = []
    place = Path(archive.filename or "").name
    for member in sorted(archive.infolist(), key=lambda info: info.filename):
        parts = PurePosixPath(member.filename).parts
        if member.is_dir():
            continue
        if tally.set_aside(parts, f"{place}: {member.filename}"):
            continue
        if not parts[-1].lower().endswith(".png"):
            tally.pass_over(suffix_reason(parts[-1]), f"{place}: {member.filename}")
        elif len(parts) != 4:
            tally.pass_over("not in <set>/<alphabet>/<character>", f"{place}: {member.filename}")
        else:
            tally.used += 1
            found.append(("/".join(parts[1:3]), member))
    return found


def read_zip(path: Path, size: int, tally: Tally | None = None) -> dict[str, list[Tensor]]:
    """Read `<set>/<alphabet>/<character>/<drawing>.png` from a zip; nothing is unpacked to disk.

    Args:
        tally: counts all files of the zip.

    Returns:
        `{"alphabet/character": images}`, uint8 `[1, size, size]` each, ink = 255, in the order of the file names.

    Raises:
        UserError: the file is missing, cut off, or holds no such pictures.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; put {path.name} there ({SOURCE}), or set GENMETA_DATA to the folder that has it"
        )
    drawings: dict[str, list[Tensor]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for character, member in sort_members(archive, tally or Tally()):
                if member.file_size > _LARGEST:
                    raise BadImageError(f"{member.filename} unpacks to {member.file_size} bytes, maybe a zip bomb")
                image = read_drawing(archive.read(member), size)
                drawings.setdefault(character, []).append(image)
    except Exception as error:  # damaged zips make zipfile and PIL raise a dozen types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: cut off, damaged, or no zip of PNG files ({reason}); fetch it again ({SOURCE})"
        ) from error
    if not drawings:
        raise UserError(f"{path}: holds no <set>/<alphabet>/<character>/<drawing>.png; expected {SOURCE}")
    return drawings
