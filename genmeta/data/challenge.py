"""The runs of the Omniglot Challenge: 20-way one-shot classification within an alphabet.

Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program induction", Science 2015.
The files are those of `all_runs.zip` in python/one-shot-classification of github.com/brendenlake/omniglot: for each run
`run01/training/class01.png` …, `run01/test/item01.png` … and `run01/class_labels.txt` with one line a test item,
`run01/test/item01.png run01/training/class08.png`.
"""

import hashlib
import re
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genmeta.data.seen import Seen, hash_images
from genmeta.errors import UserError

SOURCE = "all_runs.zip of python/one-shot-classification of github.com/brendenlake/omniglot"
LABELS = "class_labels.txt"
_LARGEST = 2**20  # bytes of one file; the official ones have less than a thousand
_LARGEST_OF_ALL = 2**26  # bytes of all files of a zip; the official ones have less than a million
# Omniglot's evaluation set; the runs are of ten of these, and their files do not say which
EVALUATION_ALPHABETS = (
    *("Angelic", "Atemayar_Qelisayer", "Atlantean", "Aurek-Besh", "Avesta", "Ge_ez", "Glagolitic", "Gurmukhi"),
    *("Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya", "Sylheti"),
    *("Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG"),
)


@dataclass(frozen=True)
class ChallengeRun:
    """One run.

    Attributes:
        name: `run01` ….
        training: uint8 `[n, H, W]`, one image of each class, ink = 255, in the order of the file names.
        test: uint8 `[n, H, W]`, as many images to classify.
        answers: int64 `[n]`, for each test image the index of its class in `training`.
    """

    name: str
    training: Tensor
    test: Tensor
    answers: Tensor


def read_runs(path: str | Path) -> tuple[ChallengeRun, ...]:
    """Read the runs from a folder or a zip file; nothing is unpacked to disk.

    Raises:
        UserError: there is no such file, or it is damaged, incomplete or has another form.
    """
    path = Path(path)
    files = _zip_files(path) if path.is_file() else _folder_files(path)
    names = sorted({name.split("/")[0] for name in files if name.endswith(LABELS)}, key=lambda name: int(name[3:]))
    if not names:
        raise UserError(f"{path}: holds no run01/{LABELS}; expected the folders run01 … run20 of {SOURCE}")
    if [int(name[3:]) for name in names] != list(range(1, len(names) + 1)):
        raise UserError(
            f"{path}: a run is missing: found {len(names)}, the last is {names[-1]}; each needs a {LABELS} ({SOURCE})"
        )
    runs = tuple(_read_run(path, name, files) for name in names)
    shapes = {image.shape[1:]: run.name for run in runs for image in (run.training, run.test)}
    if len(shapes) > 1:
        found = ", ".join(f"{list(shape)} in {name}" for shape, name in shapes.items())
        raise UserError(f"{path}: all images must be of one size, found {found}")
    return runs


def _folder_files(path: Path) -> dict[str, bytes]:
    for root in (path, *sorted(p for p in path.glob("*") if p.is_dir())):
        if found := sorted(root.glob(f"run*/{LABELS}")):
            folders = [file.parent for file in found if re.fullmatch(r"run\d{1,4}", file.parent.name)]
            members = [f for folder in folders for f in (folder / LABELS, *folder.glob("t*/*.png"))]
            return {f.relative_to(root).as_posix(): _bytes(f) for f in members if f.is_file()}
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder; expected {SOURCE}, or the folder in it")
    return {}


def _bytes(file: Path) -> bytes:
    try:
        if file.stat().st_size > _LARGEST:
            raise UserError(f"{file}: larger than any file of the challenge; expected {SOURCE}")
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error


def _zip_files(path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    size = 0
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                # folders before run01 do not matter, since nothing is unpacked
                match = re.search(rf"(?:^|/)(run\d{{1,4}}/(?:{LABELS}|(?:training|test)/[^/]+\.png))$", member.filename)
                if match is None or member.filename.startswith("__MACOSX"):
                    continue
                if match[1] in files:
                    raise UserError(f"{path}: has {match[1]} twice; expected {SOURCE}")
                if member.file_size > _LARGEST:
                    raise UserError(f"{path}: {match[1]} is larger than any file of the challenge; expected {SOURCE}")
                size += member.file_size
                if size > _LARGEST_OF_ALL:
                    raise UserError(f"{path}: unpacks to more than {_LARGEST_OF_ALL} bytes; expected {SOURCE}")
                files[match[1]] = archive.read(member)
    except UserError:
        raise
    except Exception as error:  # zipfile raises half a dozen types for damaged, encrypted and foreign files
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{path}: cut off, damaged, or no zip file ({reason}); fetch it again ({SOURCE})") from error
    return files


def _read_run(path: Path, name: str, files: dict[str, bytes]) -> ChallengeRun:
    where = f"{path}: {name}/{LABELS}"
    try:
        lines = files[f"{name}/{LABELS}"].decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: is no text ({error.reason} at byte {error.start})") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = re.fullmatch(rf"({name}/test/[^/\s]+\.png)\s+({name}/training/[^/\s]+\.png)", line.strip())
        if match is None:
            raise UserError(
                f"{where}: line {number} is '{line.strip()[:80]}'; "
                f"expected like '{name}/test/item01.png {name}/training/class08.png'"
            )
        pairs.append((match[1], match[2]))
    items, classes = [item for item, _ in pairs], sorted(c for _, c in pairs)
    for kind, found in (("test item", items), ("class", classes)):
        if len(found) < 2 or len(set(found)) != len(found):
            raise UserError(
                f"{where}: has {len(found)} lines with {len(set(found))} different {kind} names; expected one line for "
                f"each of the run's test items, and each class once (20 lines in the official runs)"
            )
    n_images = sum(member.startswith((f"{name}/training/", f"{name}/test/")) for member in files)
    if n_images > 2 * len(pairs):
        raise UserError(f"{where}: names {2 * len(pairs)} images, but the run has {n_images}; it is cut off")
    answer = dict(pairs)
    items = sorted(items)
    return ChallengeRun(
        name=name,
        training=_images(path, classes, files),
        test=_images(path, items, files),
        answers=torch.tensor([classes.index(answer[item]) for item in items]),
    )


def _images(path: Path, names: Sequence[str], files: dict[str, bytes]) -> Tensor:
    images: list[np.ndarray] = []
    for name in names:
        if name not in files:
            raise UserError(f"{path}: {name} is missing, but {name.split('/')[0]}/{LABELS} names it ({SOURCE})")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(BytesIO(files[name]), formats=["PNG"]) as image:
                    if max(image.size) > 2000:
                        raise ValueError(f"{image.size[0]} × {image.size[1]} pixels")
                    ink = 255 - np.asarray(image.convert("L"))
        except Exception as error:  # pillow raises half a dozen types for damaged and foreign files
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{path}: {name}: damaged, or no PNG picture ({reason[:80]})") from error
        if not (ink >= 128).any():
            raise UserError(f"{path}: {name}: has no ink; expected black strokes on white")
        if images and ink.shape != images[0].shape:
            raise UserError(f"{path}: {name}: is {ink.shape}, but {names[0]} is {images[0].shape} (height, width)")
        images.append(ink)
    return torch.from_numpy(np.stack(images))


def resized(images: Tensor, size: int) -> Tensor:
    """Return ink images `[n, H, W]` as uint8 `[n, 1, size, size]`, shrunk as the Omniglot data sources do it."""
    paper = (Image.fromarray(255 - image) for image in images.numpy())
    small = [255 - np.asarray(page.resize((size, size), Image.Resampling.BOX)) for page in paper]
    return torch.from_numpy(np.stack(small))[:, None]


def runs_hash(runs: Sequence[ChallengeRun]) -> str:
    """Return 16 hex digits of SHA-256 over images and answers, in order."""
    digest = hashlib.sha256()
    for run in runs:
        for part in (run.training, run.test, run.answers):
            digest.update(str(list(part.shape)).encode() + part.numpy().tobytes())
    return digest.hexdigest()[:16]


def check_unseen_runs(seen: Seen, runs: Sequence[ChallengeRun], size: int, path: str) -> None:
    """Raise UserError if a learner was trained or chosen on an alphabet or an image of the challenge.

    The runs do not name their alphabets. So no group of the learner's classes, in any data set, may have the name of an
    alphabet of Omniglot's evaluation set. And none of its images may be in the runs, compared at the learner's size.
    """
    forbidden = {_plain(name): name for name in EVALUATION_ALPHABETS}
    if both := [group for group in seen.groups if _plain(group) in forbidden]:
        raise UserError(
            f"checkpoint {path} has seen {len(both)} alphabets of Omniglot's evaluation set, which the challenge is "
            f"drawn from: {', '.join(both[:3])} (split '{seen.split_name}' of '{seen.dataset}'); train on the "
            f"background set"
        )
    hashes = torch.cat([seen.train_images, seen.val_images])
    for run in runs:
        n_same = int(torch.isin(hash_images(resized(torch.cat([run.training, run.test]), size)), hashes).sum())
        if n_same:
            raise UserError(
                f"checkpoint {path} has seen {n_same} of the {2 * len(run.test)} images of {run.name} (split "
                f"'{seen.split_name}' of '{seen.dataset}'); train on other alphabets"
            )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())
