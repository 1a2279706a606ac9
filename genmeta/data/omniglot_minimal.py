"""`omniglot_minimal`: Omniglot's two official "minimal" background sets, read from their zip files as they are.

Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program induction", Science
2015. Set 1 has 136 characters of 5 alphabets, set 2 has 156 of 5; Latin and Greek are in both with the same drawings'
characters, so of set 2 only its own three alphabets are used: a class must not stand in two parts of a split.
"""

import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from genmeta.data.source import DataSource
from genmeta.data.table import ImageTable
from genmeta.errors import UserError

FILES = ("images_background_small1.zip", "images_background_small2.zip")
SOURCE = "the Omniglot release by B. Lake, folder python/ of github.com/brendenlake/omniglot"


@dataclass(frozen=True)
class OmniglotMinimal(DataSource):
    """Data source.

    Args:
        folder: where the two zip files are.
        size: side of the images in pixels; the originals have 105.
    """

    folder: str
    size: int = 28

    def load(self) -> ImageTable:
        """Read both zips and return the table (about 3 s).

        Raises:
            UserError: a file is missing, cut off, or has other contents than expected.
        """
        drawings: dict[str, list[np.ndarray]] = {}
        for name in FILES:
            alphabets = {character.split("/")[0] for character in drawings}
            of_zip = read_zip(Path(self.folder) / name, self.size)
            drawings |= {c: images for c, images in of_zip.items() if c.split("/")[0] not in alphabets}
        names = sorted(drawings)
        return ImageTable(
            name="omniglot_minimal",
            images=torch.from_numpy(np.concatenate([np.stack(drawings[name]) for name in names]))[:, None],
            class_ids=torch.repeat_interleave(torch.tensor([len(drawings[name]) for name in names])),
            class_names=tuple(names),
            groups=tuple(name.split("/")[0] for name in names),
        )


def read_zip(path: Path, size: int) -> dict[str, list[np.ndarray]]:
    """Read `<set>/<alphabet>/<character>/<drawing>.png` from a zip; nothing is unpacked to disk.

    Returns:
        `{"alphabet/character": images}`, uint8 `[size, size]` each, ink = 255, in the order of the file names.

    Raises:
        UserError: the file is missing, cut off, or holds no such pictures.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; put {path.name} there ({SOURCE}), or set the data source's folder")
    drawings: dict[str, list[np.ndarray]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.namelist()):
                parts = PurePosixPath(member).parts
                if len(parts) != 4 or not member.endswith(".png"):
                    continue
                with Image.open(BytesIO(archive.read(member))) as image:
                    # black ink on white paper; averaging over the shrunken area keeps thin strokes
                    ink = image.convert("L").resize((size, size), Image.Resampling.BOX)
                drawings.setdefault("/".join(parts[1:3]), []).append(255 - np.asarray(ink))
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path}: cut off, damaged, or no zip of PNG files ({error}); fetch it again ({SOURCE})"
        ) from error
    if not drawings:
        raise UserError(f"{path}: holds no <set>/<alphabet>/<character>/<drawing>.png; expected {SOURCE}")
    return drawings
