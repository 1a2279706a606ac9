"""Pictures as somebody has them at hand, files or in memory, made what a table would make of them."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genmeta.data.account import Account, Tally, is_litter_folder, suffix_reason
from genmeta.data.decode import BadImageError, decode, picture_suffixes, to_tensor
from genmeta.errors import UserError

Picture = Image.Image | np.ndarray | Tensor | str | Path
"""A PIL image; an array, or a tensor `[C, H, W]` or `[H, W]`, of uint8, uint16 (grey), bool or numbers in [0, 1]; or
the path of a file. An array may have its channels last, and has if both could be.
"""
Pictures = Sequence[Picture] | np.ndarray | Tensor
"""Several of them: a list, or an array or tensor whose first axis is that of the pictures."""
_CHANNELS = (1, 3, 4)


def as_images(pictures: Pictures, size: int, channels: int, whose: str) -> Tensor:
    """Return pictures of any sizes and modes as uint8 `[n, channels, size, size]`, by the rules of `decode`.

    Args:
        pictures: at least one.
        whose: they are, for messages.

    Raises:
        UserError: there is none, or one cannot be used; the message says which.
    """
    if isinstance(pictures, str | Path | Image.Image):
        raise UserError(f"{whose}: expected a list of pictures, found one {type(pictures).__name__}")
    if not len(pictures):
        raise UserError(f"{whose}: there is no picture")
    images = []
    for number, picture in enumerate(pictures):
        try:
            images.append(as_image(picture, size, channels))
        except BadImageError as error:
            which = picture if isinstance(picture, str | Path) else f"{whose}, picture {number}"
            raise UserError(f"{which}: {error}; remove or replace it") from error
    return torch.stack(images)


def as_image(picture: Picture, size: int, channels: int) -> Tensor:
    """Return a picture as uint8 `[channels, size, size]`, by the rules of `decode`.

    Raises:
        BadImageError: it cannot be used; the message says why, in a few words.
    """
    if isinstance(picture, str | Path):
        return decode(Path(picture).expanduser(), size, channels)
    try:
        return to_tensor(as_pil(picture), size, channels)
    except (OSError, SyntaxError, ValueError, TypeError) as error:  # a PIL image is read when it is used
        raise BadImageError(f"no picture that can be read: {type(error).__name__}") from error


def as_pil(picture: Picture) -> Image.Image:
    """Return an array or a tensor as PIL image, and such an image as it is.

    Raises:
        BadImageError: as `as_image`.
    """
    if isinstance(picture, Image.Image):
        return picture
    first = isinstance(picture, Tensor)  # its channels
    if not isinstance(picture, Tensor | np.ndarray):
        raise BadImageError(f"a {type(picture).__name__} is no picture; expected a PIL image, an array or a tensor")
    array = picture.detach().cpu().numpy() if isinstance(picture, Tensor) else picture
    shape = array.shape
    if array.ndim == 3 and shape[0] in _CHANNELS and (first or shape[2] not in _CHANNELS):
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in _CHANNELS) or not array.size:
        raise BadImageError(f"an array of shape {list(shape)}; expected [C, H, W], [H, W, C] or [H, W], C of 1, 3 or 4")
    if array.dtype == bool:
        array = array * np.uint8(255)
    elif np.issubdtype(array.dtype, np.floating):
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):
            raise BadImageError(f"numbers from {low:.4g} to {high:.4g}; expected [0, 1], or uint8")
        array = (array * 255).round().astype(np.uint8)
    elif not (array.dtype == np.uint8 or (array.dtype == np.uint16 and array.ndim == 2)):
        raise BadImageError(f"an array of {array.dtype}; expected uint8, bool, numbers in [0, 1], or grey uint16")
    return Image.fromarray(np.ascontiguousarray(array))


def pictures_below(path: Path) -> tuple[list[Path], Account]:
    """Return the pictures of a folder and of all folders in it, sorted, or of a file itself; and an account of all that
    was found. What is passed over is what `image_folder` passes over.

    Raises:
        UserError: there is no such folder, it cannot be read, or there is no picture.
    """
    if path.is_file():
        return [path], Account(1)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected one with pictures")
    tally, found = Tally(path), []
    for where, folders, names in os.walk(path, onerror=_refuse):
        hidden = [name for name in folders if name.startswith(".") or is_litter_folder(name)]
        for name in hidden:
            if is_litter_folder(name):
                tally.litter += 1
            else:
                tally.pass_over("hidden folder", Path(where) / name)
        folders[:] = sorted(set(folders) - set(hidden))
        for name in sorted(names):
            file = Path(where) / name
            if tally.set_aside([name], file):
                continue
            if not file.is_file():
                tally.pass_over("broken link" if file.is_symlink() else "no regular file", file)
            elif os.path.splitext(name)[1].lower() in picture_suffixes():
                found.append(file)
            else:
                tally.pass_over(suffix_reason(name), file)
    tally.used = len(found)
    if not found:
        raise UserError(f"{path}: holds no picture; found {tally.account()}")
    return found, tally.account()


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be listed ({error.strerror}); make it readable or remove it")
