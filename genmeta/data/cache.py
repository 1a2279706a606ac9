"""Tables that take time to make, kept in the user's cache folder under a key of their recipe.

A file has the images as raw bytes, then their description (JSON), then the SHA-256 of both. So a table larger than
memory is written class by class and read by mapping the file. Nothing in it is ever executed.
"""

import fcntl
import hashlib
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from genmeta.data.account import Account
from genmeta.data.table import RESIDENT_LIMIT, ContentHash, ImageTable
from genmeta.errors import UserError

_MAGIC = b"genmeta table 1\n"
_DIGEST = hashlib.sha256().digest_size
_CHUNK = 2**24  # bytes read at a time


@dataclass(frozen=True)
class Block:
    """Images of one class, uint8 `[n, C, H, W]`, with its name, group and part (see `ImageTable`)."""

    class_name: str
    group: str
    images: Tensor
    part: str | None = None


@dataclass(frozen=True)
class TableStream:
    """A table that is made piece by piece, so that it need not fit into memory.

    Attributes:
        name: the data set's name.
        image_shape: `(C, H, W)`.
        blocks: in the order of the rows; a class may come in several blocks, one after the other.
        n_images: of all blocks, for the progress bar; None if not known.
        account: called after the last block; returns the reader's account.
    """

    name: str
    image_shape: tuple[int, int, int]
    blocks: Iterable[Block]
    n_images: int | None = None
    account: Callable[[], Account | None] = lambda: None

    @classmethod
    def of(cls, table: ImageTable) -> "TableStream":
        """Return the stream of a table in memory."""
        parts = table.parts or [None] * len(table.class_names)
        images = table.images.split(table.counts.tolist())
        blocks = (Block(*block) for block in zip(table.class_names, table.groups, images, parts, strict=True))
        return cls(table.name, table.image_shape, blocks, len(table.images), lambda: table.account)


def cache_folder() -> Path:
    """Return `$GENMETA_CACHE`, or `genmeta` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`)."""
    if folder := os.environ.get("GENMETA_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genmeta"


def save_whole(value: Any, path: Path) -> None:
    """Write tensors and plain values with `torch.save`, whole or not at all; the folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        torch.save(value, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def table_path(name: str, recipe: Mapping[str, object]) -> Path:
    """Return the path of a recipe's table."""
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / f"{name}-{key}.table"


def cached_table(name: str, recipe: Mapping[str, object], make: Callable[[], TableStream]) -> ImageTable:
    """Return the table of a recipe from the cache, or make it and put it there, with progress.

    The table is written to a file beside its place and then renamed, so a killed run leaves no half-written table. The
    next run removes the file that is left. One process makes the table, and others wait. A damaged table is made again.

    Raises:
        UserError: the cache folder cannot be written, or what `make` raises.
    """
    path = table_path(name, recipe)
    if (table := _read_if_whole(path)) is not None:
        return table
    if path.exists():
        print(f"{path}: cut off or damaged; making it again", flush=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent / f".{path.stem}.lock"):
            if (table := _read_if_whole(path)) is not None:  # another process made it while we waited
                return table
            for left_over in path.parent.glob(f".{path.stem}.*.part"):
                left_over.unlink()
            with tempfile.NamedTemporaryFile(
                dir=path.parent, prefix=f".{path.stem}.", suffix=".part", delete=False
            ) as file:
                part = Path(file.name)
                try:
                    _write(file, make())
                    file.close()
                    part.replace(path)
                finally:
                    part.unlink(missing_ok=True)
            if path.stat().st_size > RESIDENT_LIMIT:  # its hash was computed while it was written
                _stamp(path)
            return read_table(path)
    except OSError as error:
        raise UserError(
            f"cache folder {path.parent}: cannot write {name} ({error}); set GENMETA_CACHE to a folder you can write"
        ) from error


def read_table(path: Path, trust_stamp: bool = True) -> ImageTable:
    """Open a table file: into memory, or mapped if it is larger than `RESIDENT_LIMIT`.

    The SHA-256 of the content is compared at every open. For a mapped file this takes long, so it is done once, and
    again when size, time or place of the file change.

    Args:
        path: of the file.
        trust_stamp: if False, always compare.

    Raises:
        UserError: the file is cut off, changed, or no table.
    """
    try:
        with path.open("rb") as file:
            about, end = _read_end(file)
            shape = (sum(about["counts"]), *about["image_shape"])
            if len(_MAGIC) + prod(shape) != end:
                raise ValueError("its size is wrong")
            mapped = prod(shape) > RESIDENT_LIMIT
            if not (mapped and trust_stamp and _is_stamped(path)):
                _compare_digest(file)
                if mapped:
                    _stamp(path)
            if mapped:
                pixels: np.ndarray = np.memmap(path, np.uint8, "r", len(_MAGIC), shape)
            else:
                file.seek(len(_MAGIC))
                pixels = np.frombuffer(bytearray(file.read(prod(shape))), np.uint8).reshape(shape)
        with warnings.catch_warnings():  # a mapped file is read only, and so is every use of it
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            images = torch.from_numpy(pixels)
        return ImageTable(
            name=about["name"],
            images=images,
            class_ids=torch.repeat_interleave(torch.tensor(about["counts"])),
            class_names=tuple(about["class_names"]),
            groups=tuple(about["groups"]),
            parts=None if about["parts"] is None else tuple(about["parts"]),
            account=None if about.get("account") is None else Account(**about["account"]),
            known_content=about.get("content"),
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"table {path}: cut off or damaged ({error}); remove it, and it is made again") from error


def _read_if_whole(path: Path) -> ImageTable | None:
    if not path.exists():
        return None
    try:
        return read_table(path)
    except UserError:
        return None


def _write(file: Any, stream: TableStream) -> None:
    started = time.monotonic()
    digest, content_hash = hashlib.sha256(), ContentHash()

    def write(content: Any) -> None:
        digest.update(content)
        file.write(content)

    write(_MAGIC)
    counts: dict[str, int] = {}
    last = None
    classes: list[Block] = []  # one for each class, without images
    # disable=None: no bar without a terminal; delay: no bar for less than a second
    with tqdm(total=stream.n_images, desc=stream.name, unit="image", delay=1, disable=None, leave=False) as bar:
        for block in stream.blocks:
            if block.images.dtype != torch.uint8 or tuple(block.images.shape[1:]) != stream.image_shape:
                raise UserError(
                    f"{stream.name}: images are {block.images.dtype} {list(block.images.shape[1:])}, "
                    f"expected uint8 {list(stream.image_shape)} (channels, height, width)"
                )
            if block.class_name != last and block.class_name in counts:
                raise UserError(f"{stream.name}: two classes have the same name, '{block.class_name}'")
            if block.class_name not in counts:
                classes.append(replace(block, images=block.images[:0]))
            last = block.class_name
            counts[last] = counts.get(last, 0) + len(block.images)
            write(block.images.contiguous().numpy().data)
            content_hash.update(block.images)
            bar.update(len(block.images))
    if not counts:
        raise UserError(f"{stream.name}: there are no images")
    account = stream.account()
    about = {
        "name": stream.name,
        "image_shape": stream.image_shape,
        "counts": list(counts.values()),
        "class_names": list(counts),
        "groups": [block.group for block in classes],
        "parts": None if not classes or classes[0].part is None else [block.part for block in classes],
        "account": None if account is None else account.state(),
        "content": content_hash.of(stream.image_shape, list(counts.values())),
    }
    text = json.dumps(about).encode()
    write(text)
    write(len(text).to_bytes(8, "little"))
    file.write(digest.digest())
    file.flush()
    os.fsync(file.fileno())  # the content must be on disk before the file has its name
    if (seconds := time.monotonic() - started) > 5:
        n, n_classes = sum(counts.values()), len(counts)
        print(f"prepared {stream.name}: {n:,} images of {n_classes:,} classes in {seconds:.0f} s", flush=True)


def _read_end(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Return the description of the table, and where it begins in the file."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it does not begin as a table does")
    file.seek(-_DIGEST - 8, os.SEEK_END)
    end = file.tell()
    length = int.from_bytes(file.read(8), "little")
    if length > end - len(_MAGIC):
        raise ValueError("it does not end as a table does")
    file.seek(end - length)
    return json.loads(file.read(length)), end - length


def _compare_digest(file: BinaryIO) -> None:
    digest = hashlib.sha256()
    end = os.fstat(file.fileno()).st_size - _DIGEST
    file.seek(0)
    while (left := end - file.tell()) > 0 and (chunk := file.read(min(_CHUNK, left))):
        digest.update(chunk)
    if file.read(_DIGEST) != digest.digest():
        raise ValueError("its content is not what was written")


def _state(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"


def _stamp_path(path: Path) -> Path:
    return path.with_name(f".{path.stem}.verified")


def _is_stamped(path: Path) -> bool:
    stamp = _stamp_path(path)
    return stamp.is_file() and stamp.read_text() == _state(path)


def _stamp(path: Path) -> None:
    """Note that the file's content is right, if the cache can be written."""
    try:
        _stamp_path(path).write_text(_state(path))
    except OSError:
        return


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock; the system releases it if the process is killed."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that prepares {path.stem.strip('.')}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
