"""The blocks of a page. They hold text and numbers only, and `render` escapes them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from markupsafe import Markup

from genmeta.pages.charts import Chart

_NUMBER = re.compile(r"[+\-−<]? ?\d[\d.,]*(e[+-]?\d+)?( (±|to|\(step) .*)?")


@dataclass(frozen=True)
class Strip:
    """A small picture of a number and its interval; places are in [0, 1] from the left end of the scale to the right.

    Attributes:
        at: the number.
        low, high: ends of the interval.
        dots: single values, for example of seeds.
        zero: where a line marks zero, or None.
    """

    at: float
    low: float
    high: float
    dots: tuple[float, ...] = ()
    zero: float | None = None

    @property
    def beyond(self) -> str:
        """The end, `left` or `right`, beyond which the number is: an arrow is drawn there; "" within the scale."""
        return "left" if self.at < 0 else "right" if self.at > 1 else ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a text, and a strip under it."""

    text: str
    strip: Strip | None = None

    @property
    def is_number(self) -> bool:
        """Whether it is aligned like a number."""
        return bool(_NUMBER.fullmatch(self.text))


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row is its heading.

    Attributes:
        columns: headings.
        rows: cells; a plain text is a cell too.
        caption: what the table shows, and what its intervals are over.
        names: whether first cells are dotted names of options, where a line may break at the dots.
        folded: a title under which the table is folded away, or "".
        scales: by heading, the scale of the strips in that column.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    caption: str = ""
    names: bool = False
    folded: str = ""
    scales: Mapping[str, str] = field(default_factory=dict)
    kind: ClassVar[str] = "table"

    def is_number_column(self, number: int) -> bool:
        """Whether the cells of a column are aligned as numbers."""
        aligned = number > 0 and bool(self.columns[number]) and not self.names
        return aligned and any(row[number].is_number for row in self.cells)

    @cached_property
    def cells(self) -> list[list[Cell]]:
        """The rows with every cell a `Cell`."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        uri: `data:` address, from `data_uri`.
        width, height: in pixels of the page.
        alt: what it shows, for those who do not see it.
        caption: sentence under it.
    """

    uri: Markup
    width: int
    height: int
    alt: str
    caption: str


@dataclass(frozen=True)
class Figures:
    """Pictures, side by side where there is room."""

    figures: Sequence[Figure]
    kind: ClassVar[str] = "figures"


@dataclass(frozen=True)
class Charts:
    """Line charts, side by side where there is room."""

    charts: Sequence[Chart]
    caption: str = ""
    kind: ClassVar[str] = "charts"


@dataclass(frozen=True)
class DotRow:
    """A row of a plot of dots; places are shares of the width, in [0, 1].

    Attributes:
        title: text before the plot.
        value: text after the plot.
        at, low, high: place of the dot, and of the ends of its interval.
        hollow: whether the dot is a ring, which marks a control.
        beyond: the side on which the dot is beyond the scale, `left` or `right`; "" within the scale.
        small: places of small dots, for example one for each seed.
    """

    title: str
    value: str
    at: float
    low: float
    high: float
    hollow: bool = False
    beyond: str = ""
    small: Sequence[float] = ()


@dataclass(frozen=True)
class Dots:
    """A plot of dots: a row for each, one scale, and one line to compare with."""

    title: str
    rows: Sequence[DotRow]
    ticks: Sequence[tuple[float, str]]
    line: float
    caption: str = ""
    kind: ClassVar[str] = "dots"

    @property
    def alt(self) -> str:
        """What it shows, in words."""
        return f"{self.title}: {'; '.join(f'{row.title} {row.value}' for row in self.rows)}"


@dataclass(frozen=True)
class Text:
    """A paragraph; `strong` for the most important one of its part."""

    text: str
    strong: bool = False
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Node:
    """A node of a tree, with its children."""

    text: str
    note: str = ""
    children: tuple["Node", ...] = ()


@dataclass(frozen=True)
class Tree:
    """A tree of nodes."""

    roots: Sequence[Node]
    caption: str = ""
    kind: ClassVar[str] = "tree"


Block = Table | Figures | Charts | Dots | Text | Tree


@dataclass(frozen=True)
class Part:
    """A part of a section: a heading and its blocks."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    """A section of a page: a heading, a subtitle, parts.

    Attributes:
        title: heading.
        subtitle: under the heading.
        parts: those without blocks are left out.
        warning: for example that a run is not finished.
    """

    title: str
    subtitle: str
    parts: Sequence[Part]
    warning: str = ""
