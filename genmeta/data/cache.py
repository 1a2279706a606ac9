"""Tables that take time to make, kept in the user's cache folder under a key of their recipe."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from genmeta.data.table import ImageTable
from genmeta.errors import UserError


def cache_folder() -> Path:
    """Return `$GENMETA_CACHE`, or `genmeta` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`)."""
    if folder := os.environ.get("GENMETA_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genmeta"


def cached_table(name: str, recipe: Mapping[str, object], make: Callable[[], ImageTable]) -> ImageTable:
    """Return the table of a recipe from the cache, or make it and put it there.

    The file is written beside its place and renamed, so that a killed run leaves no half-written table. A file that
    cannot be read is made anew.

    Raises:
        UserError: the cache folder cannot be written.
    """
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / f"{name}-{key}.pt"
    if path.exists():
        try:
            return ImageTable(**torch.load(path, weights_only=True))
        except Exception:  # torch raises half a dozen types for a damaged file; each means: make it again
            path.unlink(missing_ok=True)
    table = make()
    content = {field: getattr(table, field) for field in ("name", "images", "class_ids", "class_names", "groups")}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            part = Path(file.name)
            try:
                torch.save(content, file)
                file.close()
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cache folder {path.parent}: cannot write {name} ({error}); set GENMETA_CACHE to a folder you can write"
        ) from error
    return table
