"""Renders blocks as a page: one file. Text from other files cannot add scripts or requests to it."""

import base64
import hashlib
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from genmeta.pages.secrets import hide, hide_all

_HERE = Path(__file__).parent


def render(template: str, scripts: tuple[str, ...], **values: Any) -> str:
    """Return a page.

    Every text is escaped, and keys in it are hidden. The page allows no requests, and no scripts but these
    (Content-Security-Policy).

    Args:
        template: a file of this folder.
        scripts: files of this folder that run in the page.
        values: for the template.
    """
    texts = [Markup(_read(name)) for name in scripts]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes) or "'none'"
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"
    style = Markup(_read("style.css"))
    return _environment().get_template(template).render(policy=policy, style=style, scripts=texts, **values)


def data_uri(picture: Image.Image) -> Markup:
    """Return a picture as PNG in a `data:` address."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    # Markup: it holds no text of a file, and a search for keys would find chance matches
    return Markup(f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: hide(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["json"] = _json
    environment.filters["breakable"] = lambda name: Markup(str(escape(hide(name))).replace(".", ".<wbr>"))
    return environment


def _json(value: Any) -> Markup:
    """Return plain values as JSON for a `<script type="application/json">`; no text in them can end the script."""
    text = json.dumps(hide_all(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


@cache
def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
