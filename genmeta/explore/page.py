"""The interactive page: one file that works from disk, with no script or picture from elsewhere."""

from collections.abc import Sequence
from typing import Any

from genmeta.explore.drawing import atlas
from genmeta.explore.exploration import ExploredImages, Findings
from genmeta.pages.blocks import Block, Figure, Figures, Table
from genmeta.pages.render import data_uri, render
from genmeta.pages.titles import title_of

_COLUMNS = 64  # thumbnails in a row of the atlas


def page(
    title: str, facts: Sequence[str], explored: ExploredImages, findings: Findings, tables: dict[str, list[list[str]]]
) -> str:
    """Return the page's HTML.

    Args:
        title: of the page.
        facts: sentences at its top.
        explored: the images of the map's points.
        findings: maps, clusters and pictures.
        tables: by name, rows of cells, the first with the names of the columns.
    """
    blocks: list[tuple[str, Block]] = []
    for name, (picture, caption) in findings.pictures.items():
        if not name.startswith("map-"):  # the page draws these itself
            figure = Figure(data_uri(picture), *picture.size, alt=f"{title_of(name)}: {caption}", caption=caption)
            blocks.append((title_of(name), Figures([figure])))
    blocks += [(title_of(name), Table(rows[0], rows[1:])) for name, rows in tables.items()]
    thumbnails: dict[str, Any] = {}
    if findings.maps:
        picture, height, width = atlas(explored.images, _COLUMNS)
        thumbnails = {"uri": data_uri(picture), "width": width, "height": height, "columns": _COLUMNS}
    return render(
        "explore.html",
        ("map.js",),
        title=title,
        generator="genmeta explore",
        facts=facts,
        map=_map(explored, findings) if findings.maps else None,
        n_points=len(explored.images),
        atlas=thumbnails,
        blocks=blocks,
    )


def _map(explored: ExploredImages, findings: Findings) -> dict[str, Any]:
    """Return the data of the page's script: coordinates, and the kind of each point for each way of colouring."""
    kinds = {title: {"names": names, "of": of.tolist()} for title, (names, of) in explored.kinds().items()}
    for name, clusters in findings.clusters.items():
        numbers = [f"cluster {number}" for number in range(int(clusters.max()) + 1)]
        kinds[name] = {"names": numbers, "of": clusters.tolist()}
    return {"maps": {name: _points(points.tolist()) for name, points in findings.maps.items()}, "kinds": kinds}


def _points(points: list[list[float]]) -> dict[str, list[float]]:
    return {axis: [float(f"{point[i]:.4g}") for point in points] for i, axis in enumerate("xy")}
