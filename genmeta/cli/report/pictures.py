"""Pictures of run folders as figures of the page, shrunk to fit."""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from PIL import Image

from genmeta.pages.blocks import Figure
from genmeta.pages.render import data_uri
from genmeta.pages.titles import title_of

Shown = tuple[Path, str]
"""A picture's path and its caption."""

CAPTIONS = {
    "episodes": "the first training episodes, one a row: support images, then queries; framed blue: real images; "
    "green: real ones that a learned model drew again; orange: decoded ones",
    "samples": "samples, always from the same codes",
    "reconstructions": "held-out images, each beside its reconstruction",
    "interpolation": "from code to code on straight lines, a row each",
    "redrawn": "images of validation classes, and below each how it is drawn again",
    "stages": "decisions of the test, a row each: support image, moved onto the query after each stage, the query, "
    "what is left (red: only the moved image has ink, blue: only the query); framed green: right; red: wrong, with the "
    "right class below it in grey",
    "confusion": "answers to test queries: a row for each class, a column for each answer, dark where the answer is "
    "given often when it is offered (blue: right, red: wrong, grey: never in one episode); of many classes the most "
    "confused ones",
    "results": "accuracies with their intervals, as the comparison drew them",
}
_SIDES = (1300, 900, 600, 400)  # tried in turn until all pictures together fit
_EPOCH = re.compile(r"-epoch-(\d+)$")


def chosen(paths: Iterable[Path], label: str = "") -> list[Shown]:
    """Return the pictures to show, with captions; of pictures drawn every few epochs, the first and the last."""
    kinds: dict[str, list[Path]] = {}
    for path in paths:
        kinds.setdefault(_EPOCH.sub("", path.stem), []).append(path)
    shown = []
    for kind, same_kind in kinds.items():
        for path in dict.fromkeys((same_kind[0], same_kind[-1])):
            epoch = _EPOCH.search(path.stem)
            when = f" (epoch {int(epoch[1])})" if epoch else ""
            caption = f"{label}{title_of(kind)}{when}"
            shown.append((path, f"{caption}: {CAPTIONS[kind]}" if kind in CAPTIONS else caption))
    return shown


class Album:
    """Collects the pictures of a page; once all are known, makes figures that together fit into a budget.

    Args:
        budget: bytes for all pictures.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.paths: dict[Path, None] = {}

    def add(self, shown: Sequence[Shown]) -> None:
        """Ask for pictures."""
        self.paths |= dict.fromkeys(path for path, _ in shown)

    def figures(self) -> Callable[[Shown], Figure | str]:
        """Return a function from an added picture to its figure, or to a sentence that says why there is none."""
        made: dict[Path, Figure | str] = {}
        for side in _SIDES:
            made = {path: _figure(path, side) for path in self.paths}
            if sum(len(figure.uri) for figure in made.values() if isinstance(figure, Figure)) <= self.budget:
                break
        left = self.budget
        for path, figure in made.items():
            if isinstance(figure, Figure):
                if len(figure.uri) <= left:
                    left -= len(figure.uri)
                else:
                    made[path] = f"{path.name} is left out: the page would be too large; it lies in {path.parent}"

        def figure_of(shown: Shown) -> Figure | str:
            path, caption = shown
            figure = made[path]
            if isinstance(figure, str):
                return figure
            return Figure(figure.uri, figure.width, figure.height, alt=caption, caption=caption)

        return figure_of


def _figure(path: Path, side: int) -> Figure | str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # as in data.decode: the decoder of another format starts a program
            with Image.open(io.BytesIO(path.read_bytes()), formats=("PNG", "JPEG")) as file:
                picture = file.convert("RGB")  # drops text in the file's header
    except Exception as error:  # damaged files make PIL raise a dozen types
        return f"{path.name} cannot be shown ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    width, height = picture.size
    if max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    if _is_grey(picture):
        picture = picture.convert("L")
    # our grids have two pixels for one, which is a good size on a page
    return Figure(data_uri(picture), min(width, 1000), round(height * min(width, 1000) / width), "", "")


def _is_grey(picture: Image.Image) -> bool:
    red, green, blue = picture.split()
    return red.tobytes() == green.tobytes() == blue.tobytes()
