"""Decodes a picture file of any kind to pixels of one size, and refuses files that are no single picture."""

import warnings
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

# Formats with pixels, a signature, and a decoder inside this process. Not read: a format whose decoder starts a program
# (EPS), that holds several pictures (icons), or has no signature (TGA, PCX). The content decides, not the name: a JPEG
# that is named .png is read.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "SGI", "QOI")


@cache
def formats() -> tuple[str, ...]:
    """Return the formats of `FORMATS` that the installed Pillow can read."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@cache
def picture_suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that are read, in lower case, with their dot."""
    known = (*formats(), "MPO")  # a camera's JPEG, which the decoder of JPEG reads
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


class BadImageError(Exception):
    """A picture that cannot be used; the message says why, in a few words."""


def decode(
    source: Path | bytes, size: int, channels: int, resample: Image.Resampling = Image.Resampling.BILINEAR
) -> Tensor:
    """Return a picture of one of `FORMATS` as uint8 `[channels, size, size]`.

    - rotated by its EXIF orientation, as viewers show it
    - 16-bit grey keeps its upper 8 bits; CMYK, palettes and others become RGB (or grey, by ITU-R 601 weights)
    - transparent pixels lie on white
    - the largest centred square is cut out and scaled (by default averaging when shrinking, bilinear when enlarging)

    Args:
        source: file, or its content.
        size: side of the result in pixels.
        channels: 1 (grey) or 3 (RGB).
        resample: Pillow's method of scaling.

    Raises:
        BadImageError: empty, damaged, no picture, animated or of several pages, of more than 89 million pixels (a
            decompression bomb), or of a kind without a defined range of values.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # odd metadata beside sound pixels
            with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=formats()) as image:
                return to_tensor(image, size, channels, resample)
    except BadImageError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadImageError("too many pixels, maybe a decompression bomb") from error
    except Exception as error:  # damaged files make PIL raise a dozen types: OSError, SyntaxError, zlib.error, …
        raise BadImageError(f"damaged, or no picture that can be read: {type(error).__name__}") from error


def to_tensor(
    image: Image.Image, size: int, channels: int, resample: Image.Resampling = Image.Resampling.BILINEAR
) -> Tensor:
    """Return an open picture as uint8 `[channels, size, size]`; rules as in `decode`.

    Raises:
        BadImageError: animated, of several pages, or of a kind without a defined range of values.
    """
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # MPO: a camera's JPEG with more views of one shot
        raise BadImageError(f"animated or of several pages, {image.n_frames} frames; expected one still picture")  # type: ignore[attr-defined]
    if image.mode == "I" and image.format == "TIFF":  # 32 bits: the value of white is not defined
        raise BadImageError("pixels of 32 bits; expected 8 or 16 bits")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey; PIL's own conversion would make all values above 255 white
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 65535:
            raise BadImageError(f"values from {deep.min()} to {deep.max()}; expected 8 or 16 bits")
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise BadImageError("floating-point pixels; expected 8 or 16 bits")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(opaque, image.convert("RGBA"))
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), resample)
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1)
