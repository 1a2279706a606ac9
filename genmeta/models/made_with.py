"""Parts that remember what they were made with, so that a checkpoint of a training in Python says how to build them."""

import inspect
from collections.abc import Mapping
from typing import Any, Self

from torch import nn


class MadeWith:
    """A base of networks: keeps the arguments of the constructor. They must not be changed afterwards."""

    _made_with: Mapping[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind(made, *args, **kwargs)
        except TypeError:  # of a copy, which gets all that the original has; or the constructor tells what is wrong
            return made
        arguments: dict[str, Any] = {}
        for name, value in list(bound.arguments.items())[1:]:
            kind = bound.signature.parameters[name].kind
            arguments.update(value if kind is inspect.Parameter.VAR_KEYWORD else {name: value})
        made.__dict__["_made_with"] = arguments
        return made


def made_of(part: Any) -> dict[str, Any] | None:
    """Return `{class_path, init_args}` of a network and of the networks in its arguments: plain values.

    None: it, or one of them, does not remember, or was made with what is neither a plain value nor a network.
    """
    if not isinstance(part, nn.Module) or (arguments := part.__dict__.get("_made_with")) is None:
        return None
    described = {name: _described(value) for name, value in arguments.items()}
    if any(value is _UNKNOWN for value in described.values()):
        return None
    return {"class_path": f"{type(part).__module__}.{type(part).__qualname__}", "init_args": described}


_UNKNOWN = object()


def _described(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return made_of(value) or _UNKNOWN
    if isinstance(value, list | tuple):
        items = [_described(item) for item in value]
        return _UNKNOWN if any(item is _UNKNOWN for item in items) else items
    return value if value is None or isinstance(value, bool | int | float | str) else _UNKNOWN
