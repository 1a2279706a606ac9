"""Reads a data set of torchvision, torch or Hugging Face, or arrays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from genmeta.data.account import Account
from genmeta.data.decode import BadImageError
from genmeta.data.pictures import as_image, as_pil
from genmeta.data.source import DataSource
from genmeta.data.table import ImageTable
from genmeta.errors import UserError, nearest, require_positive


@dataclass(frozen=True)
class FromDataset(DataSource):
    """Data source: the pictures and labels of another data set, read into memory in each run.

    Pictures may have any size and mode; `genmeta.data.decode.decode` says how they are converted. Class names are
    `<name>/<label>`, with the label's name if the data set has names (`classes`, `ClassLabel`).

    Args:
        dataset: a torch `Dataset` whose items begin with picture and label, such as all of torchvision's for
            classification (in a YAML, by `class_path`); in Python also a pair of arrays `(images, labels)`; a data set
            of Hugging Face, or its name (`pip install "genmeta[hf]"`).
        size: side of the images in pixels.
        channels: 3 for colour, 1 for grey.
        name: of the table; by default that of the data set.
        transforms: of torchvision (v2), applied to each PIL image before it is cut and scaled. Each picture is read
            once, so a random transform is drawn once.
        image, label: columns of a data set of Hugging Face; needed only if it has several of a kind.
        hf_split: the part of a data set of Hugging Face; `train+test` joins two.

    Raises:
        UserError: the size is not positive.
    """

    dataset: Dataset | str | tuple[Any, Any]
    size: int = 84
    channels: Literal[1, 3] = 3
    name: str | None = None
    transforms: Sequence[nn.Module] = ()
    image: str | None = None
    label: str | None = None
    hf_split: str = "train"

    def __post_init__(self) -> None:
        require_positive("FromDataset", size=self.size)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def load(self) -> ImageTable:
        """Return the table.

        Raises:
            UserError: the data set cannot be loaded, has no items, or an item is no picture with a label.
        """
        dataset: Any = load_hugging_face(self.dataset, self.hf_split) if isinstance(self.dataset, str) else self.dataset
        name = self.name or _name_of(self.dataset)
        classes, items = self._items(dataset)
        by_label: dict[Any, list[Tensor]] = {}
        n = len(dataset[0]) if isinstance(dataset, tuple | list) else len(dataset) if _is_sized(dataset) else None
        # disable=None: no bar without a terminal; delay: no bar for less than a second
        bar = tqdm(items, name, n, unit="image", delay=1, disable=None, leave=False)
        for number, (picture, label) in enumerate(bar):
            try:
                image = self._image(picture)
            except BadImageError as error:
                raise UserError(f"data set {name}, item {number}: {error}") from error
            by_label.setdefault(_plain(label, f"data set {name}, item {number}"), []).append(image)
        if not by_label:
            raise UserError(f"data set {name}: there are no items")
        labels = sorted(by_label, key=lambda label: (isinstance(label, str), label))
        counts = torch.tensor([len(by_label[label]) for label in labels])
        return ImageTable(
            name=name,
            images=torch.stack([image for label in labels for image in by_label[label]]),
            class_ids=torch.repeat_interleave(counts),
            class_names=tuple(f"{name}/{_class_name(label, classes)}" for label in labels),
            groups=(name,) * len(labels),
            account=Account(int(counts.sum())),
        )

    def _image(self, picture: Any) -> Tensor:
        if self.transforms:
            picture = as_pil(picture)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                for transform in self.transforms:
                    picture = transform(picture)
        return as_image(picture, self.size, self.channels)

    def _items(self, dataset: Any) -> tuple[Sequence[str] | None, Iterator[tuple[Any, Any]]]:
        """Return the names of the labels, if the data set has them, and pairs of picture and label."""
        if isinstance(dataset, tuple | list):
            if len(dataset) != 2 or len(dataset[0]) != len(dataset[1]):
                raise UserError("FromDataset: expected (images, labels), of the same length")
            return None, zip(dataset[0], dataset[1], strict=True)
        if isinstance(dataset, Mapping):
            raise UserError(
                f"FromDataset: expected one part of a data set, found all of {', '.join(map(str, dataset))}"
            )
        if hasattr(dataset, "column_names"):
            image = _column(dataset, "Image", self.image, "image")
            label = _column(dataset, "ClassLabel", self.label, "label")
            names = getattr((dataset.features or {}).get(label), "names", None)
            return names, ((row[image], row[label]) for row in dataset)
        return getattr(dataset, "classes", None), _pairs(dataset)


def load_hugging_face(name: str, split: str) -> Any:
    """Return a data set of Hugging Face by its name. No code in it is run.

    Raises:
        UserError: the package is not installed, or the data set cannot be loaded.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UserError(f"data set '{name}' needs Hugging Face's datasets: pip install \"genmeta[hf]\"") from error
    try:
        return load_dataset(name, split=split)
    except Exception as error:  # network, disk, names: a dozen types
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(f"data set '{name}' of Hugging Face, part '{split}', cannot be loaded: {reason}") from error


def _column(dataset: Any, kind: str, given: str | None, option: str) -> str:
    """Return the given column, or the only one of a kind."""
    columns = list(dataset.column_names or ())
    if given is not None:
        if given not in columns:
            raise UserError(f"FromDataset: {option}: no column '{given}'{nearest(given, columns)}; there are {columns}")
        return given
    candidates = [name for name, feature in (dataset.features or {}).items() if type(feature).__name__ == kind]
    candidates = candidates or [name for name in columns if name == option]
    if len(candidates) != 1:
        raise UserError(f"FromDataset: {option}: give its column, one of {', '.join(candidates or columns)}")
    return candidates[0]


def _pairs(dataset: Any) -> Iterator[tuple[Any, Any]]:
    """Yield picture and label of each item of a torch data set, numbered or a stream."""
    items = (dataset[i] for i in range(len(dataset))) if _is_sized(dataset) else iter(dataset)
    for number, item in enumerate(items):
        if isinstance(item, Mapping) and {"image", "label"} <= item.keys():
            item = (item["image"], item["label"])
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise UserError(
                f"data set {_name_of(dataset)}, item {number}: expected a picture and its label, found "
                f"{type(item).__name__}"
            )
        yield item[0], item[1]


def _is_sized(dataset: Any) -> bool:
    return hasattr(dataset, "__len__")


def _plain(label: Any, where: str) -> int | str:
    if isinstance(label, Tensor | np.ndarray | np.generic) and np.ndim(label) == 0:
        label = label.item()
    if not isinstance(label, int | str):
        raise UserError(f"{where}: expected a number or a name as label, found {type(label).__name__}")
    return label


def _class_name(label: int | str, classes: Any) -> str:
    """Return the name of a label, from the data set if it has names."""
    if isinstance(label, int) and isinstance(classes, Sequence) and 0 <= label < len(classes):
        return str(classes[label])
    return str(label)


def _name_of(dataset: Any) -> str:
    if isinstance(dataset, str):
        return dataset.rstrip("/").rsplit("/", 1)[-1]
    if isinstance(dataset, tuple | list):
        return "arrays"
    return getattr(getattr(dataset, "info", None), "dataset_name", None) or type(dataset).__name__
