"""Configurations as dotted options, and the differences between several of them."""

from collections.abc import Iterator, Mapping
from typing import Any

from genmeta.pages.secrets import HIDDEN, is_secret_name

ABSENT = "–"


def flat(config: Any) -> dict[str, str]:
    """Return a configuration as dotted options, named as on the command line, with their values as text.

    For a class, the option's value is the class's path, and its arguments are options below it, without `class_path`
    and `init_args` in their names. The options of `run` (folder, tracking) are left out. Values of keys and passwords
    are hidden.
    """
    return {name: HIDDEN if is_secret_name(name) and value != "null" else value for name, value in _flat(config, "")}


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            if not prefix and key in ("run", "config"):
                continue
            if key == "class_path" and prefix:
                yield prefix, str(item)
            elif key == "init_args":
                yield from _flat(item or {}, prefix) if item else ()
            else:
                yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, item in enumerate(value):
            yield from _flat(item, f"{prefix}.{number}")
    else:
        yield prefix, _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_text(item) for item in value)}]"
    return str(value)


def differences(configs: list[dict[str, str]]) -> list[list[str]]:
    """Return a row for each option that differs between flat configurations: its name, then the value in each.

    The options are in their order; `ABSENT` stands for a configuration without the option.
    """
    names = dict.fromkeys(name for config in configs for name in config)
    rows = [[name, *(config.get(name, ABSENT) for config in configs)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]
