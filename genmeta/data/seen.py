"""What a network was trained on, for its checkpoint: the guard against testing on seen classes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from genmeta.data.splits import Part, Split
from genmeta.data.table import ImageTable
from genmeta.errors import UserError

_NAMES = ("train", "val", "groups")
_TEXTS = ("dataset", "split_name", "split_hash")
_HASHES = ("train_images", "val_images")


@dataclass(frozen=True)
class Origin:
    """What a network was trained on: a split and its pictures.

    Attributes:
        split_name, split_hash: of the split.
        content: of the pictures (`ImageTable.content`); "" if a checkpoint does not say.
        labels: `all` if the classes of the data were used, `none` or `mined` if not; "" if a checkpoint does not say.
    """

    split_name: str
    split_hash: str
    content: str = ""
    labels: str = ""

    @classmethod
    def of(cls, split: Split, table: ImageTable, labels: str = "") -> Self:
        """Return that of a run on a split of a table."""
        return cls(split.name, split.hash, table.content, labels)

    def check(self, other: "Origin", what: str, whose: str, remedy: str) -> None:
        """Raise UserError if it is not of the same split and pictures as another: it may know classes that are tested.
        Or if it was trained with labels, and the other is to be without.

        Args:
            other: where it is to be used.
            what: the network and its checkpoint, for the message.
            whose: whose split the other is: `this run uses`.
            remedy: what would work.
        """
        if self.split_hash != other.split_hash:
            raise UserError(
                f"{what} was trained on split '{self.split_name}' ({self.split_hash}), but {whose} split "
                f"'{other.split_name}' ({other.split_hash}): it may have seen the classes that are tested; {remedy}"
            )
        if self.content and other.content and self.content != other.content:
            raise UserError(
                f"{what} was trained on other pictures of the same class names: content {self.content}, split "
                f"'{self.split_name}', but {whose} content {other.content}: it may have seen what is tested; {remedy}"
            )
        self.check_labels(other.labels, what)

    def check_labels(self, labels: str, what: str) -> None:
        """Raise UserError if it says that it was trained with the classes of the data, and a run uses none: it would
        read class ids by way of it.

        Args:
            labels: of the run.
            what: the network and its checkpoint, for the message.
        """
        if self.labels == "all" and labels in ("none", "mined"):
            raise UserError(
                f"{what} was trained with the classes of the data (data.labels all), but data.labels of this run uses "
                f"none; train it without them too"
            )


@dataclass(frozen=True)
class Seen:
    """What a learner has seen. Its generator has seen the same: it must be of the same split, by hash.

    Attributes:
        dataset, split_name, split_hash: the split that it was trained on.
        train: names of the classes that it was trained on.
        val: names of the classes that its checkpoint was chosen on.
        groups: groups of both.
        train_images, val_images: int64, sorted, hashes of the images of these classes, at the size that the learner
            sees (`hash_images`).
        content: of the pictures (`ImageTable.content`); "" if a checkpoint does not say.
        labels: as of an `Origin`.
    """

    dataset: str
    split_name: str
    split_hash: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    groups: tuple[str, ...]
    train_images: Tensor
    val_images: Tensor
    content: str = ""
    labels: str = ""

    @property
    def origin(self) -> Origin:
        """Split, pictures and whether labels were used."""
        return Origin(self.split_name, self.split_hash, self.content, self.labels)

    @classmethod
    def of(cls, split: Split, table: ImageTable, labels: str = "") -> Self:
        """Return what a run on a split sees in training and validation."""
        train, val = split.class_ids(table, "train"), split.class_ids(table, "val")
        return cls(
            dataset=table.name,
            split_name=split.name,
            split_hash=split.hash,
            train=split.train,
            val=split.val,
            groups=tuple(sorted({table.groups[number] for number in [*train.tolist(), *val.tolist()]})),
            train_images=_hash_classes(table, train),
            val_images=_hash_classes(table, val),
            content=table.content,
            labels=labels,
        )

    def state(self) -> dict[str, Any]:
        """Return plain values and tensors, for a checkpoint."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def read(cls, state: Mapping[str, Any], path: str) -> Self:
        """Return what `state` gave, from a checkpoint.

        Raises:
            UserError: the checkpoint has no such record.
        """
        complete = (
            all(isinstance(state.get(name), str) for name in _TEXTS)
            and all(isinstance(state.get(name), list) for name in _NAMES)
            and all(isinstance(state.get(name), Tensor) for name in _HASHES)
        )
        if not complete:
            raise UserError(
                f"checkpoint {path}: has no record of the classes that it was trained on, so nobody can tell whether a "
                f"test is fair; expected a learner's checkpoint of genmeta fit (train it again)"
            )
        values: dict[str, Any] = {name: state[name] for name in (*_TEXTS, *_HASHES)}
        values |= {name: str(state.get(name, "")) for name in ("content", "labels")}
        return cls(**(values | {name: tuple(state[name]) for name in _NAMES}))

    def check_unseen(self, table: ImageTable, split: Split, part: Part, path: str) -> None:
        """Raise UserError if a part of a split has classes that the learner of a checkpoint has seen.

        Names count also where the data sets differ (`omniglot_minimal` is a part of Omniglot; tiered-ImageNet shares
        classes with mini-ImageNet), and so do classes of another name if more than half of their images are the same.
        For the part `val`, which exists to choose by, only training classes count.
        """
        tested = {table.class_names[number]: number for number in split.class_ids(table, part).tolist()}
        where = f"part '{part}' of split '{split.name}' ({split.hash})"
        for what, seen in (("trained", self.train), ("chosen", self.val if part != "val" else ())):
            if both := [name for name in seen if name in tested]:
                raise UserError(
                    f"checkpoint {path} was {what} on {len(both)} of the {len(tested)} classes of {where}, e.g. "
                    f"'{both[0]}'; its split is '{self.split_name}' ({self.split_hash}): test on classes that it "
                    f"has not seen"
                )
        seen_images = self.train_images if part == "val" else torch.cat([self.train_images, self.val_images])
        for name, number in tested.items():
            count = int(table.counts[number])
            n_same = int(torch.isin(hash_images(_images(table, number)), seen_images).sum())
            if 2 * n_same > count:
                raise UserError(
                    f"checkpoint {path} has seen {n_same} of the {count} images of class '{name}' of {where}, under "
                    f"another name, in split '{self.split_name}' of data set '{self.dataset}'; test on images that it "
                    f"has not seen"
                )


def _images(table: ImageTable, class_id: int) -> Tensor:
    start = int(table.starts[class_id])
    return table.images[start : start + int(table.counts[class_id])]


def _hash_classes(table: ImageTable, class_ids: Tensor) -> Tensor:
    """Return the hashes of all images of some classes, sorted; one class at a time, so that little memory is needed."""
    return torch.cat([hash_images(_images(table, number)) for number in class_ids.tolist()]).unique()


def hash_images(images: Tensor) -> Tensor:
    """Return a 64-bit hash of each uint8 image `[n, …]`, int64 `[n]` (BLAKE2b, 8 bytes)."""
    digests = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images.contiguous().numpy()]
    return torch.from_numpy(np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64))
