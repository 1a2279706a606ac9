"""The parser of `genmeta fit`, `validate`, `test`: it prints errors in one line and calls only what makes a network."""

import pkgutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from genmeta.data.source import DataSource
from genmeta.errors import UserError
from genmeta.messages import one_line
from genmeta.read_yaml import check_extent


class Parser(LightningArgumentParser):
    """Raises UserError with one line instead of a page of usage; options must be spelt out."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> Any:  # type: ignore[override]
        if not self.exit_on_error:  # a parser inside the parser: its message becomes part of ours
            super().error(message, ex)
        raise UserError(one_line(message, self)) from ex


def parse(parser: ArgumentParser, options: Sequence[str]) -> Namespace:
    """Return the configuration from options and their YAMLs.

    Raises:
        UserError: a YAML is too large, too deep or no text, an option is wrong, or a `class_path` names something that
            may not be called.
    """
    for before, option in zip(["", *options], options, strict=False):
        if before == "--config" or option.startswith("--config="):
            check_extent(Path(option.removeprefix("--config=")))
    printing = [option for option in options if option.startswith("--print_config")]
    try:
        # --print_config must come last: jsonargparse prints the configuration that it has read until then
        config = parser.parse_args([*(option for option in options if option not in printing), *printing])
    except UnicodeDecodeError as error:
        raise UserError(f"--config: not a text file ({error.reason} at byte {error.start})") from error
    except RecursionError as error:
        raise UserError("--config: nested too deep for a configuration") from error
    _check_classes(config)
    return config


def why_not_made(error: ValueError) -> UserError:
    """Return the error that a constructor raised, from the parser's error around it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        missing = cause.__cause__
        if isinstance(missing, ModuleNotFoundError):  # of Lightning's loggers, which says what to install
            return UserError(f"the configured parts cannot be made: {' '.join(str(missing).split())}")
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return cause
    reasons = [line.strip("- ") for line in str(error).splitlines() if line.startswith("  - ")]
    return UserError(f"the configured parts cannot be made: {' '.join(reasons) or error}")


def fill_sizes(config: Namespace) -> None:
    """Fill in the sizes that are null in the model's YAML, from the data."""
    places = list(_open_sizes(config.get("model")))
    source = config.data.get("init_args", Namespace()).get("source")
    if not places or not source:
        return
    channels, height, width = _make_source(source).image_shape
    for place, key in places:
        place[key] = {"in_channels": channels, "image_size": height, "image_shape": [channels, height, width]}[key]


def returns_network(function: Any) -> bool:
    """Whether a function, such as `torchvision.models.resnet18`, is annotated to return a network."""
    try:
        returned = get_type_hints(function).get("return")
    except Exception:  # whatever its annotations name
        return False
    return isinstance(returned, type) and issubclass(returned, torch.nn.Module)


def _check_classes(part: Any, option: str = "") -> None:
    """Raise UserError if a `class_path` names neither a class nor a function that is annotated to return a network.

    The parser checks classes. But it would call any function that is named, even `os.system`.
    """
    if isinstance(part, list):
        for item in part:
            _check_classes(item, option)
    if isinstance(part, Namespace):
        for key, value in vars(part).items():
            _check_classes(value, f"{option}.{key}" if option and key != "init_args" else option or key)
        path = getattr(part, "class_path", None)
        if isinstance(path, str):
            found = pkgutil.resolve_name(path)
            if not (isinstance(found, type) or returns_network(found)):
                raise UserError(f"{option}: '{path}' is not a class")


def _open_sizes(part: Any) -> Iterator[tuple[Namespace, str]]:
    """Yield the places in a configuration, at any depth, where a size of the images is null."""
    if isinstance(part, list):
        for item in part:
            yield from _open_sizes(item)
    if isinstance(part, Namespace):
        for key, value in vars(part).items():
            if value is None and key in ("in_channels", "image_size", "image_shape"):
                yield part, key
            yield from _open_sizes(value)


def _make_source(config: Namespace) -> DataSource:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--source", type=DataSource)
    return parser.instantiate_classes(Namespace(source=config)).source
