"""Turns the parser's messages, trees of alternatives over many lines, into one line that says what would work."""

import contextlib
import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator

from jsonargparse import ArgumentParser

import genmeta
from genmeta.errors import nearest

_NO_PATH = r"Expected a (?:path but|dot import path string:) (\S+)"
_HEADINGS = ("Does not validate against any of the Union subtypes", "Subtypes:", "Errors:", "Given value")


def one_line(message: str, parser: ArgumentParser) -> str:
    """Return the most telling error of a message, with its dotted option and the nearest known name."""
    if message.startswith("Problems parsing config"):
        return " ".join(message.split())
    if message.startswith("Unexpected config"):
        return "--config: expected a YAML of nested options, found " + (
            " ".join(message.split()[2:6]) or "an empty file"
        )
    path: list[tuple[int, str]] = []  # indentation and name of each enclosing option
    leaves: list[tuple[str, str]] = []
    class_of: dict[tuple[str, str], str] = {}  # of a leaf: the class whose options stand there
    class_path = ""
    for line in message.splitlines():
        text = line.strip().removeprefix("- ").strip()
        indent = len(line) - len(line.lstrip())
        if not text or text.startswith(_HEADINGS):
            continue
        while path and path[-1][0] >= indent:
            path.pop()
        if key := re.match(r'Parser key "([^"]+)":\s*(.*)', text):
            path.append((indent, key[1]))
            text = key[2]
        if inside := re.match(r'.* Parser key "([^"]+)":$', text):
            path.append((indent, inside[1]))
            text = ""
        if problem := re.match(r"Problem with given class_path '([^']+)':\s*(.*)", text):
            class_path, text = problem[1], problem[2]
        if re.match(r"module '.*' has no attribute|No module named", text):
            text = f"Cannot find class '{class_path}': {text}"
        if text:
            leaves.append((".".join(name for _, name in path), text))
            class_of[leaves[-1]] = class_path
    # "or nothing" is an alternative of every optional option, but users never mean it
    leaves = [leaf for leaf in leaves if "NoneType" not in leaf[1]] or leaves
    if not leaves:
        return " ".join(message.split())
    option, text = min(leaves, key=lambda leaf: _rank(leaf[1]))
    alternatives = [t for where, t in leaves if where == option and re.match("Expected a (<class|typing.Literal)", t)]
    if text in alternatives:
        text = " ".join(alternatives)
        given = re.search(r"Given value: ([^{\n.]+)", message)
        text += f". Got value: {given[1]}" if given and "Got value" not in text else ""
    return _explained(option, text, parser, class_of.get((option, text), ""))


def _rank(text: str) -> int:
    for rank, pattern in enumerate(("not accept", "Cannot find class", "does not correspond to a subclass")):
        if pattern in text:
            return rank
    return 4 if re.match(_NO_PATH, text) else 3


def _explained(option: str, text: str, parser: ArgumentParser, class_path: str = "") -> str:
    if unknown := re.search(r"(?:Option|does not accept option) '([^']+)'", text):
        name = unknown[1]
        if group := re.match(r"Group '([^']+)' does not accept", text):
            name = f"{group[1]}.{name}"
        if option:
            return f"unknown option '{option}.{name}'{_nearest_of(class_path, name)}"
        return f"unknown option '{name}'{nearest(name, _options(parser))}"
    if unknown := re.search(r"unrecognized arguments: --(\S+)", text):
        return f"unknown option '--{unknown[1]}'{nearest(unknown[1].split('=')[0], _options(parser))}"
    if wrong := re.search(r"Cannot find class '([^']+)': (.*)", text):
        return f"{option}: cannot find class '{wrong[1]}' ({wrong[2]}){_class(wrong[1])}"
    if wrong := re.search(r"Import path (\S+) does not correspond to a subclass of (\S+)", text):
        return f"{option}: '{wrong[1]}' is not a {wrong[2].rstrip('.')}"
    if wrong := re.search(r"Expected '(\S+)' to be a subclass of <class '(\w+)'>", text):
        return f"{option}: '{wrong[1]}' is not a subclass of {wrong[2]}"
    if wrong := re.search(_NO_PATH, text):
        return f"{option}: cannot find class '{wrong[1]}'{_class(wrong[1])}"
    if kinds := re.findall(r"Expected a (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])", text):
        value = re.search(r"Got value: (.*?)(?: Expected a |$)", text)
        expected = " or ".join(dict.fromkeys(a or f"one of {b}" for a, b in kinds))
        return f"{option}: expected {expected}" + (f", found '{value[1]}'" if value else "")
    if missing := re.search(r"following arguments are required: (.*)", text):
        return f"{missing[1]} not given; pass a YAML with --config, e.g. configs/generator/gan.yaml"
    return f"{option}: {text}" if option else text


def _nearest_of(class_path: str, name: str) -> str:
    """Return the nearest option, first among those of the class that does not accept the name."""
    of_class: set[str] = set()
    if class_path:
        with contextlib.suppress(ImportError, AttributeError, TypeError, ValueError):
            module, _, its_name = class_path.rpartition(".")
            of_class = set(inspect.signature(getattr(importlib.import_module(module), its_name)).parameters)
    return nearest(name, of_class) or nearest(name, _parameter_names())


def _class(path: str) -> str:
    known = {c.__qualname__.lower(): f"{c.__module__}.{c.__qualname__}" for c in _classes()}
    match = difflib.get_close_matches(path.rsplit(".", 1)[-1].lower(), known, n=1, cutoff=0.75)
    return f"; did you mean '{known[match[0]]}'?" if match else nearest(path, known.values())


def _options(parser: ArgumentParser) -> set[str]:
    """Dotted options of a parser, and the groups that they stand in."""
    options = {action.dest for action in parser._actions}
    return options | {option.split(".")[0] for option in options}


def _parameter_names() -> set[str]:
    return {name for c in _classes() for name in inspect.signature(c).parameters}


def _classes() -> Iterator[type]:
    for info in pkgutil.walk_packages(genmeta.__path__, "genmeta."):
        if info.name.startswith(("genmeta.cli", "genmeta.__main__")):
            continue
        module = importlib.import_module(info.name)
        for _, c in inspect.getmembers(module, inspect.isclass):
            if c.__module__ == info.name and not issubclass(c, Exception):
                yield c
