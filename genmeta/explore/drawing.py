"""Pictures of a latent space: sheets of images, maps, bars."""

import io
from collections.abc import Collection, Mapping, Sequence
from math import ceil

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

FRAME = (40, 110, 240)  # of marked columns
_GAP, _LINE = 3, 13  # between tiles; height of a line of text, in pixels
_SIDE = 48  # smaller images are enlarged, by a whole number, to about this


def colour(number: int) -> tuple[float, float, float]:
    """Return the RGB colour of the number-th kind, in [0, 1]; the page uses the same colours.

    Hues are a golden angle apart, so that neighbours always differ.
    """
    import colorsys

    return colorsys.hls_to_rgb(number * 137.508 % 360 / 360, (0.42, 0.58, 0.3)[number % 3], 0.65)


def sheet(
    images: Tensor, row_names: Sequence[str], column_names: Sequence[str], marked: Collection[int] = ()
) -> Image.Image:
    """Return images `[row, column, C, H, W]` in [0, 1] as a table with names; marked columns have a frame."""
    n_rows, n_columns, _, h, w = images.shape
    factor = max(1, round(_SIDE / h))
    tile_h, tile_w = h * factor, w * factor
    measure = ImageDraw.Draw(Image.new("L", (1, 1)))
    left = ceil(max(measure.textlength(plain(name)) for name in row_names)) + 8
    size = (left + n_columns * (tile_w + 2 * _GAP), _LINE + 4 + n_rows * (tile_h + 2 * _GAP))
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for column, name in enumerate(column_names):
        at = left + column * (tile_w + 2 * _GAP) + _GAP + tile_w / 2 - measure.textlength(plain(name)) / 2
        draw.text((at, 2), plain(name), fill="black")
    for row, name in enumerate(row_names):
        top = _LINE + 4 + row * (tile_h + 2 * _GAP)
        draw.text((4, top + tile_h // 2 - 4), plain(name), fill="black")
        for column in range(n_columns):
            x = left + column * (tile_w + 2 * _GAP)
            if column in marked:
                draw.rectangle((x, top, x + tile_w + 2 * _GAP - 1, top + tile_h + 2 * _GAP - 1), fill=FRAME)
            tile = as_picture(images[row, column]).resize((tile_w, tile_h), Image.Resampling.NEAREST)
            picture.paste(tile, (x + _GAP, top + _GAP))
    return picture


def as_picture(image: Tensor) -> Image.Image:
    """Return an image `[C, H, W]` in [0, 1], C of 1 or 3, as RGB picture."""
    levels = image.detach().cpu().clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(levels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())


def plain(name: str) -> str:
    """Return a name as the built-in font can draw it."""
    return name.encode("ascii", "replace").decode()


def atlas(images: Tensor, n_columns: int = 64, side: int = 32) -> tuple[Image.Image, int, int]:
    """Return all images `[n, C, H, W]` in [0, 1] in one picture, row by row, for a page's thumbnails.

    Returns:
        The picture, and height and width of a thumbnail: those of the images, at most `side`.
    """
    shrink = min(1.0, side / max(images.shape[2:]))
    if shrink < 1:
        images = F.interpolate(images, scale_factor=shrink, mode="bilinear", antialias=True)
    n, c, h, w = images.shape
    n_rows = ceil(n / n_columns)
    cells = torch.zeros(n_rows * n_columns, c, h, w)
    cells[:n] = images
    whole = cells.view(n_rows, n_columns, c, h, w).permute(2, 0, 3, 1, 4).reshape(c, n_rows * h, n_columns * w)
    picture = as_picture(whole)
    return (picture.convert("L") if c == 1 else picture), h, w


def scatter(title: str, points: Tensor, kinds: Mapping[str, tuple[Sequence[str], Tensor]]) -> Image.Image:
    """Return a map: points `[n, 2]`, a panel for each way of colouring.

    Args:
        title: of the map.
        points: coordinates.
        kinds: by title of the panel, the names of its kinds and the kind of each point, int64 `[n]`. Up to 16 names
            get a legend.
    """
    from matplotlib.figure import Figure  # here: matplotlib is slow to import

    figure = Figure(figsize=(4.6 * len(kinds), 4.8), layout="constrained")
    x, y = points.double().cpu().numpy().T
    for axes, (panel, (names, of)) in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds.items(), strict=True):
        axes.scatter(x, y, s=3, c=[colour(i) for i in of.tolist()], linewidths=0)
        axes.set(title=f"{title}: {panel}", xticks=[], yticks=[])
        if len(names) <= 16:
            for number, name in enumerate(names):
                axes.plot([], [], "o", color=colour(number), markersize=4, label=plain(name))
            axes.legend(fontsize=6, loc="best", framealpha=0.7)
    return _rendered(figure)


def bars(panels: dict[str, Tensor], lines: dict[str, float]) -> Image.Image:
    """Return values of latent dimensions as bars, a panel for each kind of value, sorted by the first panel.

    Args:
        panels: by title, one value for each dimension, `[d]`, at least 0.
        lines: by a panel's title, the height of a dashed line.
    """
    from matplotlib.figure import Figure

    order = next(iter(panels.values())).argsort(descending=True)
    figure = Figure(figsize=(max(6.0, 0.16 * len(order) + 2), 2.3 * len(panels)), layout="constrained")
    for axes, (title, values) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True):
        axes.bar(range(len(order)), values[order].tolist(), color=colour(0))
        axes.set(title=title, xticks=range(len(order)), xmargin=0.01)
        axes.set_xticklabels([str(i) for i in order.tolist()], fontsize=6)
        if title in lines:
            axes.axhline(lines[title], color="black", linestyle="--", linewidth=0.8)
    axes.set_xlabel("latent dimension")
    return _rendered(figure)


def _rendered(figure: object) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)  # type: ignore[attr-defined]
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")
