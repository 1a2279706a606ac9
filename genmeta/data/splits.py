"""Which classes are train, val and test: committed JSON, checked for overlap, with a content hash."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from genmeta.data.table import ImageTable
from genmeta.errors import UserError, nearest

SPLITS_FOLDER = Path(__file__).with_name("splits")
Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Class names of the three parts.

    Raises:
        UserError: a part is empty, names a class twice, or shares a class with another part.
    """

    name: str
    dataset: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for part in PARTS:
            classes: tuple[str, ...] = getattr(self, part)
            if not classes:
                raise UserError(f"split {self.name}: part '{part}' has no classes")
            for name in classes:
                if name in seen:
                    raise UserError(f"split {self.name}: class '{name}' is in '{seen[name]}' and in '{part}'")
                seen[name] = part

    @property
    def hash(self) -> str:
        """16 hex digits of SHA-256 over the data set's name and the sorted class names of each part."""
        content = [self.dataset, *(sorted(getattr(self, part)) for part in PARTS)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def class_ids(self, table: ImageTable, part: Part) -> Tensor:
        """Return the table's class ids of one part, int64, in the order of the split file.

        Raises:
            UserError: the split belongs to another data set, or names a class that the table does not have.
        """
        if self.dataset != table.name:
            raise UserError(f"split '{self.name}' is for data set '{self.dataset}', but the data are '{table.name}'")
        ids = {name: number for number, name in enumerate(table.class_names)}
        missing = [name for name in getattr(self, part) if name not in ids]
        if missing:
            raise UserError(
                f"split '{self.name}': {len(missing)} of the {part} classes are not in data set '{table.name}', "
                f"the first is '{missing[0]}'{nearest(missing[0], ids)}"
            )
        return torch.tensor([ids[name] for name in getattr(self, part)])


def load_split(name_or_path: str) -> Split:
    """Read a split by the name of a committed file (`glyphs_minimal`) or from a JSON file of your own.

    The JSON holds `dataset` and the lists of class names `train`, `val` and `test`.

    Raises:
        UserError: no such split, or the file is not of that form.
    """
    committed = {path.stem: path for path in sorted(SPLITS_FOLDER.glob("*.json"))}
    path = committed.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise UserError(
            f"split '{name_or_path}': neither a file nor one of {', '.join(committed)}"
            f"{nearest(name_or_path, committed)}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        dataset = content["dataset"]
        parts = {part: tuple(content[part]) for part in PARTS}
        if not all(isinstance(name, str) for name in [dataset, *sum(parts.values(), ())]):
            raise TypeError("names must be text")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"split file {path}: expected JSON with 'dataset' and lists 'train', 'val', 'test' of class names "
            f"({type(error).__name__}: {error})"
        ) from error
    return Split(name=path.stem, dataset=dataset, **parts)
