"""Rebuilds a learner from its checkpoint alone, without running code in it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genmeta.data.seen import Origin, Seen
from genmeta.errors import UserError
from genmeta.learn2learn_import import leave_out_gym
from genmeta.learners.learner import Learner
from genmeta.models.checkpoint import KEY, class_named, read_checkpoint
from genmeta.models.transfer import PretrainedBackbone

PREFIX = "learner."  # of a learner's weights in the checkpoint of the module that trains it


@dataclass(frozen=True)
class LoadedLearner:
    """A learner in evaluation mode, the `(C, H, W)` of its images, and its training classes."""

    learner: Learner
    image_shape: tuple[int, int, int]
    seen: Seen


def load_learner(path: str) -> LoadedLearner:
    """Rebuild the learner of a checkpoint of `genmeta fit`.

    Raises:
        UserError: the file is missing or damaged, is no learner's checkpoint, or does not say how to build it.
    """
    checkpoint = read_checkpoint(path)
    entry = checkpoint.get(KEY, {})
    if not isinstance(entry, Mapping) or not isinstance(entry.get("learner"), Mapping):
        raise UserError(
            f"checkpoint {path}: does not say how to build its learner; expected a learner's checkpoint of genmeta fit"
        )
    seen = Seen.read(entry, path)
    with torch.random.fork_rng(devices=[]):  # initial weights, overwritten below, must not use up random numbers
        learner = _build(entry["learner"], Learner, path)
    assert isinstance(learner, Learner)
    try:
        channels, height, width = (int(size) for size in entry["image_shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint {path}: does not say the shape of its images") from error
    weights = {k.removeprefix(PREFIX): v for k, v in checkpoint["state_dict"].items() if k.startswith(PREFIX)}
    try:
        learner.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"checkpoint {path}: weights do not fit {entry['learner']['class_path']}") from error
    return LoadedLearner(learner.requires_grad_(False).eval(), (channels, height, width), seen)


def describe_learner(config: Mapping[str, Any] | None, learner: Learner) -> Any:
    """Return how to rebuild a learner from its own checkpoint alone.

    That is its configuration. Where a part began with a file, the network's description replaces the file
    (`without_file`), since the learner has the weights.

    Args:
        config: `{class_path, init_args}` of the learner, or None if it was made in Python.
        learner: made from it.
    """
    read: dict[tuple[Any, Any], Mapping[str, Any]] = {
        (f"{type(part).__module__}.{type(part).__qualname__}", part.checkpoint): part.without_file  # type: ignore[misc]
        for part in learner.modules()
        if getattr(part, "without_file", None)
    }

    def described(node: Any) -> Any:
        if isinstance(node, list):
            return [described(item) for item in node]
        if not isinstance(node, Mapping):
            return node
        init_args = node.get("init_args")
        key = (node.get("class_path"), init_args.get("checkpoint") if isinstance(init_args, Mapping) else None)
        if key in read:
            return {**node, "init_args": {**node["init_args"], **read[key]}}
        return {name: described(value) for name, value in node.items()}

    return described(config)


def differences(old: Any, new: Any, option: str) -> Iterator[tuple[str, Any, Any, bool]]:
    """Yield the options that differ between two descriptions of a learner: the option, the old value, the new one, and
    whether it is only a start value of learned parameters (`Learner.begins_with`).
    """
    if isinstance(old, list) and isinstance(new, list):
        for number, (one, other) in enumerate(zip(old, new, strict=False)):
            yield from differences(one, other, f"{option}.{number}")
    if not (isinstance(old, Mapping) and isinstance(new, Mapping) and old.get("class_path") == new.get("class_path")):
        return
    before, after = old.get("init_args") or {}, new.get("init_args") or {}
    begins_with: frozenset[str] = getattr(class_named(new.get("class_path"), option), "begins_with", frozenset())
    for name, value in after.items():
        if name in before and isinstance(value, list | Mapping):
            yield from differences(before[name], value, f"{option}.{name}")
        elif name in before and before[name] != value:
            yield f"{option}.{name}", before[name], value, name in begins_with


class LearnerBackbone(PretrainedBackbone):
    """The backbone of a meta-trained learner's checkpoint, e.g. of a ProtoNet."""

    def read(self, checkpoint: str) -> tuple[nn.Module, dict[str, Any], Origin]:
        loaded = load_learner(checkpoint)
        network = getattr(loaded.learner, "backbone", None)
        if not isinstance(network, nn.Module):
            raise UserError(f"checkpoint {checkpoint}: a {type(loaded.learner).__name__} has no backbone of its own")
        description = read_checkpoint(checkpoint)[KEY]["learner"]["init_args"]["backbone"]
        return network, description, loaded.seen.origin

    def features(self, x: Tensor) -> Tensor:
        return self.network(x)


def _build(config: Mapping[str, Any], expected: type[nn.Module], path: str) -> nn.Module:
    """Build `{class_path, init_args}` and all parts in it. It builds only networks, so a file can run nothing else."""
    class_path, init_args = config.get("class_path"), config.get("init_args", {})
    leave_out_gym()
    named = class_named(class_path, path)
    if not (_is_of_torchvision(named) or (isinstance(named, type) and issubclass(named, expected))):
        raise UserError(f"checkpoint {path}: {class_path} is not a {expected.__name__}")
    if not isinstance(init_args, Mapping):
        raise UserError(f"checkpoint {path}: the arguments of its {class_path} are damaged")
    args = {key: _built_parts(value, path) for key, value in init_args.items()}
    try:
        return named(**args)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:  # wrong arguments
        raise UserError(
            f"checkpoint {path}: {class_path} cannot be built ({' '.join(str(error).split())[:120]})"
        ) from error


def _built_parts(value: Any, path: str) -> Any:
    """Return an argument, with the networks in it built."""
    if isinstance(value, list):
        return [_built_parts(item, path) for item in value]
    return _build(value, nn.Module, path) if isinstance(value, Mapping) and "class_path" in value else value


def _is_of_torchvision(named: Any) -> bool:
    """Whether this is a function such as `torchvision.models.resnet18`, which returns a network."""
    if not getattr(named, "__module__", "").startswith("torchvision.models."):
        return False
    from torchvision.models import get_model_builder, list_models

    return any(named is get_model_builder(name) for name in list_models())
