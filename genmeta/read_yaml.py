"""Reads a YAML as a dataclass. Keys and types are checked, and an error is one line."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from genmeta.errors import UserError, nearest
from genmeta.messages import one_line

_MOST_VALUES = 100_000  # in a YAML, with aliases expanded; our largest has less than a thousand


def check_extent(path: Path) -> None:
    """Raise UserError if a YAML is nested too deep, or if its aliases expand to so much that it would fill the memory.

    A file that is no YAML passes: its reader tells the error.
    """
    try:
        extent = _extent(yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader), {})
    except RecursionError as error:
        raise UserError(f"{path}: nested too deep for a YAML of options, or in itself") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return  # its reader tells the error
    if extent > _MOST_VALUES:
        raise UserError(f"{path}: its aliases stand for {extent} values; expected at most {_MOST_VALUES}")


def _extent(node: Any, done: dict[int, int]) -> int:
    """Return the number of values of a YAML node, with aliases expanded."""
    if id(node) not in done:
        inside = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = (part for item in inside for part in (item if isinstance(item, tuple) else (item,)))
        done[id(node)] = 1 + sum(_extent(part, done) for part in parts)
    return done[id(node)]


def read_typed(kind: type, path: Path, option: str) -> Any:
    """Return a dataclass filled from a YAML.

    Args:
        kind: the dataclass.
        path: of the YAML.
        option: the option that named it, for messages.

    Raises:
        UserError: it cannot be read, has an unknown key, lacks a key, or has a value of a wrong type.
    """
    check_extent(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{option}: cannot read {path} ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{option}: {path} is no YAML ({' '.join(str(error).split())})") from error
    try:
        return typed(kind, content, "")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def typed(kind: type, content: Any, where: str) -> Any:
    """Return a dataclass filled from a mapping; keys and types are checked. A null value counts as not given."""
    if not isinstance(content, Mapping):
        raise UserError(f"{where.rstrip('.') or 'the file'}: expected a mapping, found {content!r}")
    known = {f.name: f for f in dataclasses.fields(kind)}
    for key in content:
        if key not in known:
            raise UserError(f"unknown key '{where}{key}'{nearest(str(key), known)}; there are {', '.join(known)}")
    content = {key: value for key, value in content.items() if value is not None}
    for key, field in known.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if key not in content and not optional:
            raise UserError(f"'{where}{key}' is not given")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        values = parser.parse_object(content)
    except Exception as error:  # jsonargparse raises argparse.ArgumentError or TypeError
        raise UserError(f"{where}{one_line(str(error), parser)}") from error
    return kind(**values.as_dict())
