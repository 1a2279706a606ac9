"""Tables that take time to make, kept in the user's cache folder under a key of their recipe.

A file is a header (JSON), the images as raw bytes and the SHA-256 of both, so that a table larger than memory is
written image by image and read by mapping the file. Nothing in it is ever executed.
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
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from genmeta.data.table import RESIDENT_LIMIT, ImageTable
from genmeta.errors import UserError

_MAGIC = b"genmeta table 1\n"
_DIGEST = hashlib.sha256().digest_size
_CHUNK = 2**24  # bytes read at a time


@dataclass(frozen=True)
class TableStream:
    """A table that is made piece by piece, so that it need not fit into memory. Fields as in `ImageTable`.

    Attributes:
        image_shape: `(C, H, W)`.
        counts: images of each class.
        blocks: uint8 `[n, C, H, W]` in the order of the rows; all of them together have `sum(counts)` images.
    """

    name: str
    image_shape: tuple[int, int, int]
    counts: tuple[int, ...]
    class_names: tuple[str, ...]
    groups: tuple[str, ...]
    blocks: Iterable[Tensor]
    parts: tuple[str, ...] | None = None

    @classmethod
    def of(cls, table: ImageTable) -> "TableStream":
        """Return the stream of a table in memory."""
        counts = tuple(table.counts.tolist())
        return cls(table.name, table.image_shape, counts, table.class_names, table.groups, [table.images], table.parts)


def cache_folder() -> Path:
    """Return `$GENMETA_CACHE`, or `genmeta` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`)."""
    if folder := os.environ.get("GENMETA_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genmeta"


def table_path(name: str, recipe: Mapping[str, object]) -> Path:
    """Return where the table of a recipe is kept."""
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / f"{name}-{key}.table"


def cached_table(name: str, recipe: Mapping[str, object], make: Callable[[], TableStream]) -> ImageTable:
    """Return the table of a recipe from the cache, or make it and put it there, with progress.

    It is written to a file beside its place and renamed, so that a killed run leaves no half-written table; the next
    one removes what it left. Of several processes one makes it and the others wait. A damaged table is made anew.

    Raises:
        UserError: the cache folder cannot be written, or what `make` raises.
    """
    path = table_path(name, recipe)
    if (table := _read_if_whole(path)) is not None:
        return table
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
            if path.stat().st_size > RESIDENT_LIMIT:  # it was hashed while it was written
                _stamp(path)
            return read_table(path)
    except OSError as error:
        raise UserError(
            f"cache folder {path.parent}: cannot write {name} ({error}); set GENMETA_CACHE to a folder you can write"
        ) from error


def read_table(path: Path, trust_stamp: bool = True) -> ImageTable:
    """Open a table file: into memory, or mapped if it is larger than `RESIDENT_LIMIT`.

    The SHA-256 of the content is compared on every open. Of a mapped file that takes long, so it is done once and
    again whenever size, time or place of the file change.

    Args:
        trust_stamp: False: compare in any case.

    Raises:
        UserError: the file is cut off, changed, or no table.
    """
    try:
        with path.open("rb") as file:
            header, start = _read_header(file)
            n = sum(header["counts"])
            shape = (n, *header["image_shape"])
            n_bytes = prod(shape)
            if path.stat().st_size != start + n_bytes + _DIGEST:
                raise ValueError("its size is not what its header says")
            mapped = n_bytes > RESIDENT_LIMIT
            if not (mapped and trust_stamp and _is_stamped(path)):
                _compare_digest(file, start + n_bytes)
                if mapped:
                    _stamp(path)
            if mapped:
                pixels: np.ndarray = np.memmap(path, np.uint8, "r", start, shape)
            else:
                file.seek(start)
                pixels = np.frombuffer(bytearray(file.read(n_bytes)), np.uint8).reshape(shape)
        with warnings.catch_warnings():  # a mapped file is read only, and so is every use of it
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            images = torch.from_numpy(pixels)
        return ImageTable(
            name=header["name"],
            images=images,
            class_ids=torch.repeat_interleave(torch.tensor(header["counts"])),
            class_names=tuple(header["class_names"]),
            groups=tuple(header["groups"]),
            parts=None if header["parts"] is None else tuple(header["parts"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"table {path}: cut off or damaged ({error}); remove it, and it is made again") from error


def _read_if_whole(path: Path) -> ImageTable | None:
    if not path.exists():
        return None
    try:
        return read_table(path)
    except UserError as error:
        print(f"{error}: making it again", flush=True)
        return None


def _write(file: Any, stream: TableStream) -> None:
    started = time.monotonic()
    n = sum(stream.counts)
    header = {
        "name": stream.name,
        "image_shape": stream.image_shape,
        "counts": stream.counts,
        "class_names": stream.class_names,
        "groups": stream.groups,
        "parts": stream.parts,
    }
    text = json.dumps(header).encode()
    start = _MAGIC + len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(start)
    file.write(start)
    written = 0
    # disable=None: no bar where nobody looks; delay: none for what takes less than a second
    with tqdm(total=n, desc=stream.name, unit="image", delay=1, disable=None, leave=False) as bar:
        for block in stream.blocks:
            if block.dtype != torch.uint8 or tuple(block.shape[1:]) != stream.image_shape:
                raise UserError(
                    f"{stream.name}: an image is {block.dtype} {list(block.shape[1:])}, "
                    f"expected uint8 {list(stream.image_shape)} (channels, height, width)"
                )
            content = block.contiguous().numpy().data
            digest.update(content)
            file.write(content)
            written += len(block)
            bar.update(len(block))
    if written != n:
        raise UserError(f"{stream.name}: found {written} images where there were {n}; did its files change meanwhile?")
    file.write(digest.digest())
    file.flush()
    os.fsync(file.fileno())  # the name must not be there before the content is
    if (seconds := time.monotonic() - started) > 5:
        print(f"prepared {stream.name}: {n:,} images of {len(stream.counts):,} classes in {seconds:.0f} s", flush=True)


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it does not begin as a table does")
    length = int.from_bytes(file.read(8), "little")
    start = file.tell() + length
    if start > os.fstat(file.fileno()).st_size:
        raise ValueError("its header is cut off")
    return json.loads(file.read(length)), start


def _compare_digest(file: BinaryIO, end: int) -> None:
    digest = hashlib.sha256()
    file.seek(0)
    while (left := end - file.tell()) > 0:
        if not (chunk := file.read(min(_CHUNK, left))):
            break
        digest.update(chunk)
    if file.read(_DIGEST) != digest.digest():
        raise ValueError("its content is not what was written")


def _state(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ino}"


def _stamp_path(path: Path) -> Path:
    return path.with_name(f".{path.stem}.verified")


def _is_stamped(path: Path) -> bool:
    stamp = _stamp_path(path)
    return stamp.is_file() and stamp.read_text() == _state(path)


def _stamp(path: Path) -> None:
    """Note that the file was found to be what was written, if the cache can be written at all."""
    try:
        _stamp_path(path).write_text(_state(path))
    except OSError:
        return


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system takes back if the process is killed."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that prepares {path.stem.strip('.')}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
