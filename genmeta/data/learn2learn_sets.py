"""Few-shot data sets of colour pictures with their published splits, read by learn2learn's data set classes.

Only these classes are used, never learn2learn's benchmark tasksets. Pickles are read without running code in them
(`plain_pickle`).
"""

import os
import pickle
import shutil
import sys
import tarfile
import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genmeta.data.account import Account, Tally, is_litter, suffix_reason
from genmeta.data.cache import Block, TableStream
from genmeta.data.decode import BadImageError, decode, picture_suffixes, to_tensor
from genmeta.data.plain_pickle import plain_pickles_only
from genmeta.data.source import CachedSource, data_folder, fingerprint
from genmeta.data.splits import PARTS
from genmeta.errors import UserError, require_positive
from genmeta.learn2learn_import import import_learn2learn

Picture = Path | bytes | np.ndarray
"""A file, its content, or pixels `[H, W, 3]`."""

_MODES = {"train": "train", "val": "validation", "test": "test"}  # learn2learn's names of the parts

_LARGEST_LABELS = 2**16  # bytes of imagelabels.mat, which is compressed and may unpack to a thousand times as much


@dataclass(frozen=True)
class Learn2learnSource(CachedSource):
    """A data set that learn2learn can read. All classes are in one group.

    Args:
        folder: learn2learn's `root`; by default a folder with the table's name in `$GENMETA_DATA`, or in `data`.
        size: side of the images in pixels; the published one by default. Other pictures are cut to the largest centred
            square and scaled.
        download: let learn2learn fetch missing files.

    Attributes:
        class_name: of learn2learn's class, in `learn2learn.vision.datasets`.
        files: that it reads, below `folder`.
        origin: where to get the files.
        picture_folder: folder of the pictures, below `folder`, if they are files.
    """

    folder: str | None = None
    size: int = 84
    download: bool = False

    class_name: ClassVar[str]
    files: ClassVar[tuple[str, ...]]
    origin: ClassVar[str]
    picture_folder: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        require_positive(type(self).__name__, size=self.size)

    @property
    def path(self) -> Path:
        """Where the files are."""
        return data_folder(self.folder, self.table_name)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.size, self.size

    @abstractmethod
    def pictures(self, dataset: Any, module: ModuleType, mode: str) -> list[tuple[str, Picture]]:
        """Return class name and picture of each item of learn2learn's data set, in the same order on every machine."""

    def recipe(self) -> dict[str, object]:
        return {"recipe": 2, "size": self.size, "files": fingerprint(self._find())}

    def stream(self) -> TableStream:
        self._find()
        tally = Tally(self.path)
        used: set[tuple[str, str]] = set()  # folder and name: CIFAR-FS is read from a copy elsewhere

        def account() -> Account:
            self._count_unused(used, tally)
            return tally.account()

        return TableStream(self.table_name, self.image_shape, self._blocks(tally, used), account=account)

    def _count_unused(self, used: set[tuple[str, str]], tally: Tally) -> None:
        if self.picture_folder is None:
            return
        root = self.path / self.picture_folder
        for where, folders, names in os.walk(root):
            links = [name for name in folders if (Path(where) / name).is_symlink()]  # which are not followed
            for file in (Path(where) / name for name in sorted([*names, *links])):
                if (file.parent.name, file.name) in used or tally.set_aside(file.relative_to(root).parts, file):
                    continue
                if file.suffix.lower() in picture_suffixes():
                    tally.pass_over("in no part of the published split", file)
                else:
                    tally.pass_over(suffix_reason(file.name), file)

    def _find(self) -> list[Path]:
        """Return the files; fetch them first if `download` is set."""
        paths = [self.path / name for name in self.files]
        missing = [path for path in paths if not path.exists()]
        if missing and self.download:
            self._fetch()
            missing = [path for path in paths if not path.exists()]
        if missing:
            raise UserError(
                f"{missing[0]}: not there; put {', '.join(self.files)} into {self.path} ({self.origin}), or set the "
                "data source's folder, or its download: true"
            )
        return paths

    def _fetch(self) -> None:
        """Let learn2learn download into a folder beside; move the files when all are there."""
        folder = self.path
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (
                tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as beside,
                # unpacked files must stay in the folder; from 3.14 on this is Python's default
                patch.object(tarfile.TarFile, "extraction_filter", staticmethod(tarfile.data_filter), create=True),
            ):
                for mode in _MODES.values():
                    self._open(Path(beside), mode, download=True)
                for path in Path(beside).iterdir():
                    if not (folder / path.name).exists():
                        shutil.move(path, folder / path.name)
        except Exception as error:  # network, disk, damaged archives: a dozen types
            reason = " ".join(str(error).split())[:150] or type(error).__name__
            raise UserError(
                f"cannot download {self.table_name} ({reason}); put {', '.join(self.files)} into {self.path} "
                f"yourself ({self.origin})"
            ) from error

    def _open(self, folder: Path, mode: str, download: bool = False) -> tuple[Any, ModuleType]:
        datasets = import_learn2learn().vision.datasets
        its_class = getattr(datasets, self.class_name)
        module = sys.modules[its_class.__module__]
        with ExitStack() as stack:
            if hasattr(module, "pickle"):
                stack.enter_context(plain_pickles_only(module))
            if hasattr(
                module, "default_loader"
            ):  # else all decoded pictures are kept in memory, in the file system's order
                stack.enter_context(patch.object(module, "default_loader", Path))
            return self._make(its_class, folder, mode, download), module

    def _make(self, its_class: Any, folder: Path, mode: str, download: bool) -> Any:
        return its_class(str(folder), mode=mode, download=download)

    def _blocks(self, tally: Tally, used: set[tuple[str, str]]) -> Iterator[Block]:
        for part in PARTS:
            try:
                dataset, module = self._open(self.path, _MODES[part])
                pictures = self.pictures(dataset, module, _MODES[part])
            except UserError:
                raise
            except Exception as error:  # damaged files make pickle, scipy and others raise a dozen types
                reason = " ".join(str(error).split())[:150]
                raise UserError(
                    f"{self.path}: {self.table_name} cannot be read ({type(error).__name__}: {reason}); expected "
                    f"{', '.join(self.files)} as published ({self.origin})"
                ) from error
            del dataset  # it may hold all images a second time
            by_class: dict[str, list[Picture]] = {}
            for name, picture in pictures:
                if isinstance(picture, Path):
                    if is_litter(picture.name):  # `_count_unused` counts it
                        continue
                    used.add((picture.parent.name, picture.name))
                tally.used += 1
                by_class.setdefault(name, []).append(picture)
            del pictures
            if not by_class:
                raise UserError(f"{self.path}: {self.table_name} has no {part} images; expected {self.origin}")
            for name in sorted(by_class):
                images = torch.stack([self._decode(name, picture) for picture in by_class.pop(name)])
                yield Block(name, self.table_name, images, part)

    def _decode(self, name: str, picture: Picture) -> Tensor:
        try:
            if isinstance(picture, np.ndarray):
                return to_tensor(Image.fromarray(picture), self.size, 3)
            return decode(picture, self.size, 3)
        except (BadImageError, TypeError, ValueError) as error:
            what = picture if isinstance(picture, Path) else f"a picture of class {name}"
            raise UserError(f"{self.path}: {what}: {error}; fetch it again ({self.origin})") from error


@dataclass(frozen=True)
class MiniImagenet(Learn2learnSource):
    """*mini*-ImageNet: 100 classes of 600 pictures, 84×84; split of Ravi and Larochelle, ICLR 2017 (64/16/20)."""

    table_name: ClassVar[str] = "mini_imagenet"
    class_name: ClassVar[str] = "MiniImagenet"
    files: ClassVar[tuple[str, ...]] = tuple(f"mini-imagenet-cache-{mode}.pkl" for mode in _MODES.values())
    origin: ClassVar[str] = "record 7978538 of zenodo.org"

    def pictures(self, dataset: Any, module: ModuleType, mode: str) -> list[tuple[str, Picture]]:
        names = {number: name for name, number in dataset.class_idx.items()}
        images = dataset.data["image_data"]
        listed = sorted(int(i) for its in dataset.data["class_dict"].values() for i in its)
        if listed != list(range(len(images))):  # learn2learn would give unlisted pictures to the second class
            raise UserError(
                f"{self.folder}: mini-imagenet-cache-{mode}.pkl has {len(images)} pictures, but its classes list "
                f"{len(set(listed))} of them, {len(listed) - len(set(listed))} twice; expected each once "
                f"({self.origin})"
            )
        return [(names[int(y)], np.asarray(image, np.uint8)) for y, image in zip(dataset.y, images, strict=True)]


@dataclass(frozen=True)
class CifarFS(Learn2learnSource):
    """CIFAR-FS: 100 classes of 600 pictures, 32×32; split of Bertinetto et al., ICLR 2019 (64/16/20)."""

    size: int = 32

    table_name: ClassVar[str] = "cifar_fs"
    class_name: ClassVar[str] = "CIFARFS"
    picture_folder: ClassVar[str | None] = "cifarfs/cifar100/data"
    files: ClassVar[tuple[str, ...]] = ("cifarfs/cifar100/data", "cifarfs/cifar100/splits/bertinetto")
    origin: ClassVar[str] = "cifar100.zip of record 7978538 of zenodo.org, unpacked into cifarfs"

    def _make(self, its_class: Any, folder: Path, mode: str, download: bool) -> Any:
        class Whole(its_class):  # type: ignore[misc,valid-type]
            """Copies each part to a folder beside its place first, so that a killed run leaves no half-filled part."""

            processed_root: str

            def _process_zip(self) -> None:
                place = Path(self.processed_root)
                self.processed_root = f"{place}.part"
                shutil.rmtree(self.processed_root, ignore_errors=True)
                super()._process_zip()
                Path(self.processed_root).replace(place)
                self.processed_root = str(place)

        return Whole(str(folder), mode=mode, download=download)

    def pictures(self, dataset: Any, module: ModuleType, mode: str) -> list[tuple[str, Picture]]:
        return [(dataset.classes[y], Path(path)) for path, y in sorted(dataset.samples)]


@dataclass(frozen=True)
class FC100(Learn2learnSource):
    """FC100: 100 classes of CIFAR-100, 600 pictures each, 32×32; split of Oreshkin et al., NeurIPS 2018, by super-class
    (60/20/20 classes). The files have numbers for names, so the part stands in the class name.
    """

    size: int = 32

    table_name: ClassVar[str] = "fc100"
    class_name: ClassVar[str] = "FC100"
    files: ClassVar[tuple[str, ...]] = ("FC100_train.pickle", "FC100_val.pickle", "FC100_test.pickle")
    origin: ClassVar[str] = "fc100.zip of record 7978538 of zenodo.org"

    def pictures(self, dataset: Any, module: ModuleType, mode: str) -> list[tuple[str, Picture]]:
        return [
            (f"{mode}/class{int(y):03d}", np.asarray(x)) for x, y in zip(dataset.images, dataset.labels, strict=True)
        ]


@dataclass(frozen=True)
class TieredImagenet(Learn2learnSource):
    """*tiered*-ImageNet: 608 classes, 779,165 pictures, 84×84; split of Ren et al., ICLR 2018, by category (351/97/160
    classes). The files have numbers for names, so the part stands in the class name.
    """

    table_name: ClassVar[str] = "tiered_imagenet"
    class_name: ClassVar[str] = "TieredImagenet"
    files: ClassVar[tuple[str, ...]] = tuple(
        f"tiered-imagenet/{part}_{what}.pkl" for part in ("train", "val", "test") for what in ("images_png", "labels")
    )
    origin: ClassVar[str] = "record 7978538 of zenodo.org, the files' names without their first part"

    def pictures(self, dataset: Any, module: ModuleType, mode: str) -> list[tuple[str, Picture]]:
        pairs = zip(dataset.images, dataset.labels, strict=True)
        return [(f"{mode}/class{int(y):03d}", np.asarray(png, np.uint8).tobytes()) for png, y in pairs]


@dataclass(frozen=True)
class CUB200(Learn2learnSource):
    """CUB-200-2011: 200 birds; split of Triantafillou et al., ICLR 2020 (140/30/30 classes), without the 43 pictures
    that are also in ImageNet.
    """

    table_name: ClassVar[str] = "cub200"
    class_name: ClassVar[str] = "CUBirds200"
    picture_folder: ClassVar[str | None] = "cubirds200/CUB_200_2011/images"
    files: ClassVar[tuple[str, ...]] = ("cubirds200/CUB_200_2011/images",)
    origin: ClassVar[str] = "CUB_200_2011.tgz of record 8000562 of zenodo.org, unpacked into cubirds200"

    def pictures(self, dataset: Any, module: ModuleType, mode: str) -> list[tuple[str, Picture]]:
        return [(module.SPLITS[mode][y], Path(path)) for path, y in sorted(dataset.data)]


@dataclass(frozen=True)
class VGGFlowers(Learn2learnSource):
    """VGG Flowers: 102 flowers; split of Triantafillou et al., ICLR 2020 (71/15/16 classes)."""

    table_name: ClassVar[str] = "vgg_flowers"
    class_name: ClassVar[str] = "VGGFlower102"
    picture_folder: ClassVar[str | None] = "vgg_flower102/jpg"
    files: ClassVar[tuple[str, ...]] = ("vgg_flower102/jpg", "vgg_flower102/imagelabels.mat")
    origin: ClassVar[str] = "102flowers.tgz and imagelabels.mat of www.robots.ox.ac.uk/~vgg/data/flowers/102"

    def _find(self) -> list[Path]:
        paths = super()._find()
        if (size := paths[1].stat().st_size) > _LARGEST_LABELS:
            raise UserError(f"{paths[1]}: has {size} bytes, and the published one 502; expected {self.origin}")
        return paths

    def pictures(self, dataset: Any, module: ModuleType, mode: str) -> list[tuple[str, Picture]]:
        return [(f"flower{module.SPLITS[mode][y]:03d}", Path(path)) for path, y in sorted(dataset.data)]


@dataclass(frozen=True)
class FGVCAircraft(Learn2learnSource):
    """FGVC Aircraft: 100 aircraft; split of Triantafillou et al., ICLR 2020 (70/15/15 classes), whole pictures."""

    table_name: ClassVar[str] = "fgvc_aircraft"
    class_name: ClassVar[str] = "FGVCAircraft"
    picture_folder: ClassVar[str | None] = "fgvc_aircraft/fgvc-aircraft-2013b/data/images"
    files: ClassVar[tuple[str, ...]] = tuple(
        f"fgvc_aircraft/fgvc-aircraft-2013b/data/{name}"
        for name in ("images", *(f"images_variant_{part}.txt" for part in ("train", "val", "test")))
    )
    origin: ClassVar[str] = (
        "fgvc-aircraft-2013b.tar.gz of www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft, unpacked into fgvc_aircraft"
    )

    def _find(self) -> list[Path]:
        """Return the files. Also write the list of labels that learn2learn would make after its own download."""
        images, *lists = paths = super()._find()
        labels = images.with_name("labels.pkl")
        if not labels.exists():
            lines = [line for path in lists for line in path.read_text(errors="replace").splitlines() if " " in line]
            part = labels.with_name(".labels.pkl.part")
            part.write_bytes(pickle.dumps([tuple(text.strip() for text in line.split(" ", 1)) for line in lines]))
            part.replace(labels)
        return paths

    def pictures(self, dataset: Any, module: ModuleType, mode: str) -> list[tuple[str, Picture]]:
        names: Sequence[str] = module.SPLITS["valid" if mode == "validation" else mode]
        return [(names[y], Path(path)) for path, y in sorted(dataset.data)]


@dataclass(frozen=True)
class DTD(Learn2learnSource):
    """Describable Textures: 47 textures of 120 pictures; split of Triantafillou et al., ICLR 2020 (33/7/7 classes)."""

    table_name: ClassVar[str] = "dtd"
    class_name: ClassVar[str] = "DescribableTextures"
    picture_folder: ClassVar[str | None] = "describable_textures/dtd/images"
    files: ClassVar[tuple[str, ...]] = ("describable_textures/dtd/images",)
    origin: ClassVar[str] = "dtd-r1.0.1.tar.gz of www.robots.ox.ac.uk/~vgg/data/dtd, unpacked into describable_textures"

    def pictures(self, dataset: Any, module: ModuleType, mode: str) -> list[tuple[str, Picture]]:
        return [(module.SPLITS[mode][y], path) for path, y in sorted(dataset.data)]
