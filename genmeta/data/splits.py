"""Which classes are train, val and test: from JSON, brought by the data set, drawn, or all of them test; with a content
hash.
"""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from genmeta.data.table import ImageTable
from genmeta.errors import UserError, nearest
from genmeta.rng import make_rng

SPLITS_FOLDER = Path(__file__).with_name("splits")
Part = Literal["train", "val", "test"]
OWN = "own"  # the setting that means: the split that the data set brings with it
ALL_TEST = "all_test"  # the setting that means: all classes are test classes
PARTS: tuple[Part, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Class names of the three parts. Train and val may be empty together: a split for tests alone.

    Attributes:
        images: which images of the train classes are used, if not all; a part of the hash.
        left_out: class and content (`image_digest`) of the images that are not used, because another part has them too.

    Raises:
        UserError: a part is empty, names a class twice, or shares a class with another part.
    """

    name: str
    dataset: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    images: str = ""
    left_out: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for part in PARTS:
            classes: tuple[str, ...] = getattr(self, part)
            if not classes and (part == "test" or not self.test_only):
                raise UserError(f"split {self.name}: part '{part}' has no classes")
            for name in classes:
                if name in seen:
                    raise UserError(f"split {self.name}: class '{name}' is in '{seen[name]}' and in '{part}'")
                seen[name] = part

    @property
    def test_only(self) -> bool:
        """Whether there is nothing to train or to choose on."""
        return not self.train and not self.val

    def check_has(self, *parts: Part) -> None:
        """Raise UserError if one of these parts, which something needs, has no classes."""
        for part in parts:
            if not getattr(self, part):
                raise UserError(
                    f"data.split: '{self.name}' has test classes only, but this needs {part} classes; give {{seed: 0}} "
                    f"to have a split drawn, the name of a committed one, or a JSON file"
                )

    def with_val_of(self, n_classes: int, group_of: Mapping[str, str]) -> "Split":
        """Return the split with the smallest groups of `train` moved to `val` until that has so many classes; itself if
        it has.

        Args:
            n_classes: that are wanted.
            group_of: group of each class.
        """
        train, val = list(self.train), list(self.val)
        while len(val) < n_classes:
            sizes = Counter(group_of[name] for name in train)
            smallest = min(sizes, key=lambda group: (sizes[group], group))
            val += [name for name in train if group_of[name] == smallest]
            train = [name for name in train if group_of[name] != smallest]
        if len(val) == len(self.val):
            return self
        return Split(f"{self.name}_val{len(val)}", self.dataset, tuple(train), tuple(val), self.test)

    @property
    def hash(self) -> str:
        """16 hex digits of SHA-256 over the data set's name, the sorted classes of each part, `images`, `left_out`."""
        content = [self.dataset, *(sorted(getattr(self, part)) for part in PARTS)]
        content += [self.images] if self.images else []
        content += [sorted(self.left_out)] if self.left_out else []
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
        return torch.tensor([ids[name] for name in getattr(self, part)], dtype=torch.long)

    def without_left_out(self, table: ImageTable) -> ImageTable:
        """Return the table without the images that the split leaves out.

        Raises:
            UserError: one of them is not there: the split was made of other images, or of another size of them.
        """
        if not self.left_out:
            return table
        ids = {name: number for number, name in enumerate(table.class_names)}
        keep = torch.ones(len(table.images), dtype=torch.bool)
        digests: dict[str, set[str]] = {}
        for name, digest in self.left_out:
            digests.setdefault(name, set()).add(digest)
        for name, unwanted in digests.items():
            first = int(table.starts[ids[name]]) if name in ids else 0
            n = int(table.counts[ids[name]]) if name in ids else 0
            found = [image_digest(image) for image in table.images[first : first + n]]
            if missing := unwanted - set(found):
                raise UserError(
                    f"split '{self.name}': leaves out an image of class '{name}' that is not there ({min(missing)}); "
                    "the images or their size are others than those it was made of: make it again with genmeta data "
                    "show --drop-duplicates"
                )
            if unwanted >= set(found):
                raise UserError(f"split '{self.name}': leaves out all images of class '{name}'; leave out the class")
            keep[first : first + n] = torch.tensor([digest not in unwanted for digest in found])
        kept = table.keep(keep.nonzero().flatten())
        if table.account is None:
            return kept
        n_out, example = int((~keep).sum()), self.left_out[0][0]
        return replace(kept, account=table.account.less(n_out, "also in another part", example))

    def told(self, table: ImageTable) -> ImageTable:
        """Return the table with an account by which the pictures of classes that are in no part are passed over."""
        named = {*self.train, *self.val, *self.test}
        unused = [number for number, name in enumerate(table.class_names) if name not in named]
        if not unused or table.account is None:
            return table
        # what is drawn with own fonts is counted by character, which is a class
        of_pictures = table.account.used == len(table.images)
        n = int(table.counts[unused].sum()) if of_pictures else len(unused)
        example = table.class_names[unused[0]]
        return replace(table, account=table.account.less(n, f"in no part of split {self.name}", example))


def image_digest(image: Tensor) -> str:
    """Return a hash of an image's pixels, uint8 `[C, H, W]`."""
    return hashlib.blake2b(image.numpy().tobytes(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class DrawnSplit:
    """A split that is drawn: whole groups if the data set has at least three, else single classes.

    Args:
        seed: of the draw.
        val, test: shares of the classes, in (0, 1), together below 1. The defaults are mini-ImageNet's 16 and 20 of 100
            classes. Of whole groups, as many are drawn as come nearest, at least one.
    """

    seed: int = 0
    val: float = 0.16
    test: float = 0.2

    def __post_init__(self) -> None:
        if self.val <= 0 or self.test <= 0 or self.val + self.test >= 1:
            raise UserError(f"split: val and test must be above 0 and together below 1, found {self.val}, {self.test}")

    def draw(self, table: ImageTable) -> Split:
        """Return the split of a table; it depends on the names of its classes and on nothing else of it.

        Raises:
            UserError: there are fewer than three classes.
        """
        of_group: dict[str, list[str]] = {}
        for name, group in sorted(zip(table.class_names, table.groups, strict=True)):
            of_group.setdefault(group, []).append(name)
        bundles = list(of_group.values()) if len(of_group) >= 3 else [[name] for name in sorted(table.class_names)]
        if len(bundles) < 3:
            raise UserError(
                f"{table.name}: {len(bundles)} classes cannot be split into train, val and test; at least 3 are needed"
            )
        order = torch.randperm(len(bundles), generator=make_rng(self.seed, "split", table.name)).tolist()
        parts: dict[Part, list[str]] = {"train": [], "val": [], "test": []}
        for part, share in (("val", self.val), ("test", self.test)):
            wanted = share * len(table.class_names)
            chosen = parts[part]  # type: ignore[index]
            # one bundle at least for this part and for each that comes after it
            after = 2 if part == "val" else 1
            while not chosen or (len(order) > after and len(chosen) + len(bundles[order[-1]]) / 2 <= wanted):
                chosen += bundles[order.pop()]
        parts["train"] = [name for i in order for name in bundles[i]]
        train, val, test = (tuple(sorted(parts[part])) for part in PARTS)
        return Split(f"drawn-{self.seed}", table.name, train, val, test)


@dataclass(frozen=True)
class AllTest:
    """The split that has all classes of a table as test classes, for a learner that was trained on others."""

    def draw(self, table: ImageTable) -> Split:
        """Return the split of a table."""
        return Split(ALL_TEST, table.name, (), (), tuple(sorted(table.class_names)))


Wanted = Split | DrawnSplit | AllTest | None
"""What split is wanted of a table: this one, one that is made for it, or (None) the one that the data set brings."""


def read_split(wanted: str | DrawnSplit) -> Wanted:
    """Return what `find_split` takes for a setting: `own` is the split that the data set brings with it, with
    `all_test` all classes are test classes.

    Raises:
        UserError: there is no split of that name.
    """
    if not isinstance(wanted, str):
        return wanted
    if wanted == ALL_TEST:
        return AllTest()
    return None if wanted == OWN else load_split(wanted)


def find_split(wanted: Wanted, table: ImageTable) -> Split:
    """Return the split of a table: as given, drawn, or (None) the one that the data set brings with it.

    Raises:
        UserError: it cannot be had, or names classes that the table does not have.
    """
    if isinstance(wanted, Split):
        split = wanted
    elif wanted is not None:
        split = wanted.draw(table)
    elif table.parts is None:
        raise UserError(
            f"data.split is '{OWN}', but data set '{table.name}' brings none with it; give the name of a committed "
            f"split, a JSON file, {{seed: 0}} to have one drawn, or {ALL_TEST} to test on all classes"
        )
    else:
        pairs = list(zip(table.class_names, table.parts, strict=True))
        train, val, test = (tuple(name for name, its in pairs if its == part) for part in PARTS)
        split = Split(f"{table.name}-{OWN}", table.name, train, val, test)
    for part in PARTS:
        split.class_ids(table, part)
    return split


def write_split(split: Split, path: Path) -> None:
    """Write a split as a JSON file that `load_split` reads."""
    content: dict[str, object] = {"dataset": split.dataset, "hash": split.hash, "images": split.images}
    content |= {part: getattr(split, part) for part in PARTS}
    if split.left_out:
        names = dict.fromkeys(name for name, _ in split.left_out)
        content["left_out"] = {name: [digest for its, digest in split.left_out if its == name] for name in names}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_split(name_or_path: str) -> Split:
    """Read a split by the name of a committed file (`glyphs_minimal`) or from a JSON file of your own.

    The JSON holds `dataset` and the lists of class names `train`, `val` and `test`, the first two empty for tests
    alone; `left_out`, if it is there, the
    images that `genmeta data show --drop-duplicates` left out of some classes.

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
        train, val, test = (tuple(unicodedata.normalize("NFC", name) for name in content[part]) for part in PARTS)
        left_out = tuple((name, digest) for name, its in content.get("left_out", {}).items() for digest in its)
        if not all(isinstance(name, str) for name in (dataset, *sum(left_out, ()))):
            raise TypeError("names must be text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"split file {path}: expected JSON with 'dataset' and lists 'train', 'val', 'test' of class names "
            f"({type(error).__name__}: {error})"
        ) from error
    return Split(path.stem, dataset, train, val, test, left_out=left_out)
