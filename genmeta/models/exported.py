"""A checkpoint as others can read it: weights as safetensors, all that is no tensor as JSON."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from genmeta.errors import UserError

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_PREFIX = "genmeta."  # of tensors in a checkpoint's entry: hashes of images, a prior
_TENSOR = "tensor"  # stands in the JSON for one of these


def is_exported(path: Path) -> bool:
    """Whether a path is a folder that `write_exported` has written."""
    return (path / WEIGHTS).is_file()


def write_exported(folder: Path, weights: Mapping[str, Tensor], entry: Mapping[str, Any], about: Any) -> None:
    """Write the weights of a checkpoint and its entry.

    Args:
        folder: that there is.
        weights: its state dict.
        entry: tensors and plain values, nested.
        about: more for the JSON.
    """
    _, save = _safetensors()
    tensors = {**weights, **dict(_tensors(entry, _PREFIX))}
    whole = save({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()})
    (folder / WEIGHTS).write_bytes(whole)  # readable by whom other files are; `save_file` makes it the owner's alone
    content = {**about, "entry": _without_tensors(entry, _PREFIX)}
    (folder / CONFIG).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_exported(folder: Path) -> tuple[dict[str, Tensor], Any]:
    """Return the weights and the entry of an exported checkpoint. Neither file can run anything.

    Raises:
        UserError: safetensors is not installed.
        Exception: of many kinds, if a file is damaged.
    """
    load_file, _ = _safetensors()
    tensors = load_file(folder / WEIGHTS)
    entry = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["entry"]
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(_PREFIX)}
    return weights, _with_tensors(entry, tensors)


def _safetensors() -> tuple[Any, Any]:
    try:
        from safetensors.torch import load_file, save
    except ImportError as error:
        raise UserError("exported models need safetensors: pip install safetensors") from error
    return load_file, save


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, Tensor):
                yield f"{name}{key}", item
            else:
                yield from _tensors(item, f"{name}{key}.")


def _without_tensors(value: Any, name: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {
        key: {_TENSOR: f"{name}{key}"} if isinstance(item, Tensor) else _without_tensors(item, f"{name}{key}.")
        for key, item in value.items()
    }


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_with_tensors(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TENSOR}:
        return tensors[value[_TENSOR]]
    return {key: _with_tensors(item, tensors) for key, item in value.items()}
