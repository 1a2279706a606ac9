"""From the image of a character to its strokes: thin lines, and the paths along them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pixel = tuple[int, int]  # row and column
_CLOCKWISE = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # from the pixel above
_BACK = 6  # pixels of a path that say where it is heading
_AHEAD = 4  # pixels of a branch that say where it leads
_SHARPEST = -0.3  # cosine of the sharpest turn that a stroke takes where lines meet


def thin(ink: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return images `[n, H, W]` of lines one pixel wide, connected as the ink was.

    Zhang and Suen, "A Fast Parallel Algorithm for Thinning Digital Patterns", Communications of the ACM 1984, on all
    images at once.
    """
    x = np.pad(ink, ((0, 0), (1, 1), (1, 1))).astype(np.uint8)
    while True:
        changed = False
        for first_half in (True, False):
            around = [np.roll(x, (-row, -column), (1, 2)) for row, column in _CLOCKWISE]
            following = [*around[1:], around[0]]
            n_ink = np.sum(around, 0)
            n_edges = np.sum([(a == 0) & (b == 1) for a, b in zip(around, following, strict=True)], 0)
            up, right, down, left = around[::2]
            corner = (right & down) & (up | left) if first_half else (up & left) & (right | down)
            gone = (x == 1) & (n_ink >= 2) & (n_ink <= 6) & (n_edges == 1) & (corner == 0)
            if gone.any():
                x, changed = np.where(gone, np.uint8(0), x), True
        if not changed:
            return x[:, 1:-1, 1:-1].astype(bool)


def trace(lines: NDArray[np.bool_], shortest: float) -> list[NDArray[np.float64]]:
    """Return the strokes of an image of thin lines `[H, W]`, the longest first: each `[k, 2]`, x before y, in pixels.

    A stroke starts at an end of a line and goes straight on where lines meet. It stops where it would have to turn
    sharply, or where two others go on straighter. Closed lines start anywhere. No line is walked twice.

    Args:
        lines: as `thin` returns them.
        shortest: length of the shortest stroke that is kept, in pixels: thinning leaves spurs.
    """
    links = _links({(int(row), int(column)) for row, column in np.argwhere(lines)})
    walked: set[frozenset[Pixel]] = set()
    ends_first = sorted(links, key=lambda pixel: (len(links[pixel]) != 1, -len(links[pixel]), pixel))
    paths = []
    for start in ends_first:
        while len(path := _walk(start, links, walked)) > 1:
            paths.append(np.array([(column, row) for row, column in path], float))
    paths = [path for path in paths if length(path) >= shortest]
    return sorted(paths, key=length, reverse=True)


def _links(pixels: set[Pixel]) -> dict[Pixel, list[Pixel]]:
    """Return the neighbours of each pixel; diagonal ones only where no straight one links the two already."""
    links: dict[Pixel, list[Pixel]] = {pixel: [] for pixel in pixels}
    for row, column in pixels:
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            other = (row + down, column + right)
            linked = down and right and ((row + down, column) in pixels or (row, column + right) in pixels)
            if other in pixels and not linked:
                links[row, column].append(other)
                links[other].append((row, column))
    return links


def _walk(start: Pixel, links: dict[Pixel, list[Pixel]], walked: set[frozenset[Pixel]]) -> list[Pixel]:
    path = [start]
    while True:
        here = path[-1]
        open_ = [pixel for pixel in links[here] if frozenset((here, pixel)) not in walked]
        if not open_:
            return path
        following = open_[0]
        if len(path) > 1 and len(links[here]) > 2:
            heading = _direction(path[max(0, len(path) - _BACK)], here)
            branches = np.stack([_direction(here, _ahead(here, pixel, links)) for pixel in open_])
            straightness = branches @ heading
            best = int(np.argmax(straightness))
            others = np.delete(branches, best, 0) @ branches[best]
            if straightness[best] < max([_SHARPEST, *(-others)]):  # a branch goes on straighter into another one
                return path
            following = open_[best]
        walked.add(frozenset((here, following)))
        path.append(following)


def _ahead(here: Pixel, following: Pixel, links: dict[Pixel, list[Pixel]]) -> Pixel:
    """Return where a branch is a few pixels on."""
    seen = [here, following]
    for _ in range(_AHEAD - 1):
        further = [pixel for pixel in links[seen[-1]] if pixel not in seen]
        if not further:
            break
        seen.append(further[0])
    return seen[-1]


def _direction(start: Pixel, end: Pixel) -> NDArray[np.float64]:
    step = np.array(end, float) - np.array(start, float)
    return step / max(float(np.linalg.norm(step)), 1e-9)


def length(path: NDArray[np.float64]) -> float:
    """Return the length of a path `[k, 2]`."""
    return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())


def resample(path: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Return `n` points at equal distances along a path `[k, 2]`, its ends among them."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    places = np.linspace(0, along[-1], n)
    return np.stack([np.interp(places, along, path[:, axis]) for axis in (0, 1)], 1)


def strokes(ink: NDArray[np.bool_], n_points: int, shortest: float) -> Sequence[list[NDArray[np.float64]]]:
    """Return the strokes of images `[n, H, W]`, each `[n_points, 2]`, x before y, in half widths from the centre.

    Args:
        ink: where there is ink; square images.
        n_points: of each stroke.
        shortest: length of the shortest stroke that is kept, in half widths.
    """
    side = ink.shape[-1]
    found = [trace(lines, shortest * side / 2) for lines in thin(ink)]
    return [[(2 * resample(path, n_points) + 1) / side - 1 for path in paths] for paths in found]
