"""The interactive page: one file that works from disk, with no script or picture from elsewhere."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from genmeta.explore.drawing import atlas
from genmeta.explore.exploration import Findings, Looked

_TEMPLATE = Path(__file__).with_name("page.html")
_COLUMNS = 64  # thumbnails in a row of the atlas


def page(title: str, facts: Sequence[str], looked: Looked, found: Findings, tables: dict[str, list[list[str]]]) -> str:
    """Return the page's HTML.

    Args:
        title: of the page.
        facts: sentences at its top.
        looked: the images of the map's points.
        found: maps, clusters and pictures.
        tables: by name, rows of cells, the first with the names of the columns.
    """
    content: dict[str, Any] = {
        "title": title,
        "facts": list(facts),
        "maps": {name: _map(points.tolist()) for name, points in found.maps.items()},
        "pictures": [
            {"name": name, "caption": caption, "uri": _uri(picture)}
            for name, (picture, caption) in found.pictures.items()
            if not name.startswith("map-")  # the page draws these itself
        ],
        "tables": [{"name": name, "columns": rows[0], "rows": rows[1:]} for name, rows in tables.items()],
    }
    if found.maps:
        picture, height, width = atlas(looked.images, _COLUMNS)
        content["atlas"] = {"uri": _uri(picture), "width": width, "height": height, "columns": _COLUMNS}
        kinds = {title: {"names": names, "of": of.tolist()} for title, (names, of) in looked.kinds().items()}
        for name, clusters in found.clusters.items():
            numbers = [f"cluster {number}" for number in range(int(clusters.max()) + 1)]
            kinds[name] = {"names": numbers, "of": clusters.tolist()}
        content["kinds"] = kinds
    # class names are the user's: nothing in them may end the element that they stand in
    text = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
    return _TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", text)


def _map(points: list[list[float]]) -> dict[str, list[float]]:
    return {axis: [float(f"{point[i]:.4g}") for point in points] for i, axis in enumerate("xy")}


def _uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
