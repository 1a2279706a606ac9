"""Line charts as SVG: the places of all parts. `macros.html` writes them, `charts.js` shows values at the pointer."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, floor, isfinite, log10
from typing import Any

N_COLOURS = 8  # in style.css; further lines are dashed
WIDTH, HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 8, 34
_MOST_POINTS = 400  # a line has about as many pixels
_SMOOTHED_FROM = 40  # a line of so many values is drawn as a running mean

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        name: of the line.
        points: x and y; points that are not finite are left out.
        colour: its number; the lines of one arm share it.
        halves: half widths of an interval around each point, drawn as a band; or empty.
        group: name in the legend, for lines that belong together; its name by default.
    """

    name: str
    points: Sequence[Point]
    colour: int = 0
    halves: Sequence[float] = ()
    group: str = ""


@dataclass(frozen=True)
class Line:
    """A series as SVG paths, and the points for the pointer."""

    name: str
    group: str
    colour: int
    dashed: bool
    path: str
    raw: str
    band: str
    points: list[Point]
    ends: Point  # where the first point lies: a line of one point is a dot
    single: bool


@dataclass(frozen=True)
class Chart:
    """A chart of one quantity over the steps.

    Attributes:
        title: the quantity.
        lines: drawn series.
        x_ticks, y_ticks: places in pixels of the viewBox, with labels.
        data: for the script: the scale and the values.
        alt: a sentence on what it shows.
        smoothed: whether a line is a running mean.
    """

    title: str
    lines: Sequence[Line]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    data: dict[str, Any]
    alt: str
    smoothed: bool
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM
    x_label: str = "step"

    @property
    def legend(self) -> list[Line]:
        """The first line of each group."""
        return list({line.group: line for line in reversed(self.lines)}.values())[::-1]


def chart(title: str, series: Sequence[Series], x_label: str = "step") -> Chart | None:
    """Return a chart of lines over steps (or over `x_label`), or None if there is no finite point."""
    kept = [(s, _finite(s)) for s in series]
    kept = [(s, points) for s, points in kept if points]
    if not kept:
        return None
    xs = [x for _, points in kept for x, _, _ in points]
    ys = [edge for _, points in kept for _, y, half in points for edge in (y - half, y + half)]
    (x0, x1), (y0, y1) = _room(min(xs), max(xs), 0), _room(min(ys), max(ys), 0.04)

    def place(x: float, y: float) -> Point:
        return (
            round(_LEFT + (x - x0) / (x1 - x0) * (WIDTH - _LEFT - _RIGHT), 1),
            round(HEIGHT - _BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - _TOP - _BOTTOM), 1),
        )

    lines, smoothed = [], False
    for one, points in kept:
        raw = [(x, y) for x, y, _ in points]
        mean = running_mean(raw) if len(raw) >= _SMOOTHED_FROM else raw
        smoothed |= mean is not raw
        shown = _thinned(mean)
        upper = [place(x, y + half) for x, y, half in points if half]
        lower = [place(x, y - half) for x, y, half in points if half]
        lines.append(
            Line(
                name=one.name,
                group=one.group or one.name,
                colour=one.colour % N_COLOURS,
                dashed=one.colour >= N_COLOURS,
                path=_path([place(*p) for p in shown]),
                raw=_path([place(*p) for p in _thinned(raw)]) if mean is not raw else "",
                band=_path([*upper, *reversed(lower)]) + "Z" if len(upper) > 1 else "",
                points=[(x, float(f"{y:.4g}")) for x, y in shown],
                ends=place(*shown[0]),
                single=len(shown) == 1,
            )
        )
    names = ", ".join(dict.fromkeys(line.group for line in lines))
    return Chart(
        title=title,
        lines=lines,
        x_ticks=[(place(x, y0)[0], label) for x, label in ticks(x0, x1)],
        y_ticks=[(place(x0, y)[1], label) for y, label in ticks(y0, y1)],
        data={
            "label": x_label,
            "x": [x0, x1],
            "y": [y0, y1],
            "lines": [{"group": line.group, "colour": line.colour, "points": line.points} for line in lines],
        },
        alt=f"{title} over {x_label}, {x0:g} to {x1:g}, values from {min(ys):.3g} to {max(ys):.3g}; lines: {names}",
        smoothed=smoothed,
        x_label=x_label,
    )


def running_mean(points: Sequence[Point]) -> list[Point]:
    """Return the mean of each value and its neighbours, a twentieth of all values; fewer at the ends."""
    reach = max(1, len(points) // 40)
    sums = [0.0, *accumulate(y for _, y in points)]  # cumulative sums: runs log a hundred thousand values
    means = []
    for i, (x, _) in enumerate(points):
        near = min(reach, i, len(points) - 1 - i)
        means.append((x, (sums[i + near + 1] - sums[i - near]) / (2 * near + 1)))
    return means


def ticks(low: float, high: float, about: int = 5) -> list[tuple[float, str]]:
    """Return round values between two numbers, with their labels: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    digits = max(0, -floor(log10(step) + 1e-9))
    values = [number * step for number in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]
    largest = max(abs(low), abs(high))
    short = largest >= 1e6 or (largest < 1e-3 and largest > 0)
    return [(value, f"{value:.3g}" if short else f"{value:,.{digits}f}") for value in (v + 0.0 for v in values)]


def _finite(series: Series) -> list[tuple[float, float, float]]:
    halves = [*series.halves, *[0.0] * (len(series.points) - len(series.halves))]
    return [
        (x, y, half if isfinite(half) else 0.0)
        for (x, y), half in zip(series.points, halves, strict=True)
        if isfinite(x) and isfinite(y) and abs(y) < 1e30
    ]


def _room(low: float, high: float, margin: float) -> tuple[float, float]:
    if low == high:
        extra = abs(low) * 0.1 or 1.0
        return low - extra, high + extra
    return low - margin * (high - low), high + margin * (high - low)


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    if len(points) <= _MOST_POINTS:
        return points
    chosen = sorted({round(i * (len(points) - 1) / (_MOST_POINTS - 1)) for i in range(_MOST_POINTS)})
    return [points[i] for i in chosen]


def _path(places: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in places)
