"""A first estimate of how long the runs of a comparison take; finished runs correct it."""

import math
from collections.abc import Mapping
from typing import Any

import yaml

from genmeta.experiments.checks import Checked
from genmeta.experiments.settings import ROLES, ArmSettings
from genmeta.learners.maml import MAML

# seconds of a core for configs/compare/default.yaml, on two busy cores. Each was measured alone; all were then scaled
# so that they add up to a whole experiment, which took 11 min 22 s
_START = 2.0
_STEP = {"generator": 0.13, "learner": 0.075}
_EPISODE, _EPISODE_WITH_SUPPORT, _EPISODE_ADAPTED = 0.009, 0.06, 0.36
_VALIDATION_IMAGE = 1e-4
_AT_ONCE = 10  # episodes of a batch, by default


def expected_seconds(checked: Checked) -> dict[tuple[str, str], float]:
    """Return the expected seconds of all trainings (`fit`) and tests (`test`), by arm, step or generator."""
    seconds = {}
    for name, parts in checked.parts.items():
        config = yaml.safe_load(parts.resolved())
        step = checked.settings.steps.get(name)
        if name in ROLES or step:
            seconds[name, "fit"] = _fit_seconds(
                config, _STEP["learner" if step and not step.generator else "generator"]
            )
            continue
        arm = checked.settings.arms[name]
        if arm.train:
            seconds[name, "fit"] = _fit_seconds(config, _STEP["learner"])
        adapts = isinstance(getattr(parts.model, "learner", None), MAML)
        seconds[name, "test"] = _test_seconds(config, arm, checked.settings.tests, adapts)
    return seconds


def _fit_seconds(config: Mapping[str, Any], step: float) -> float:
    data, trainer = config["data"]["init_args"], config["trainer"]
    epoch = _limited(trainer, "limit_train_batches", data.get("steps_per_epoch") or 100) * step
    if val := data.get("val"):  # episodes
        n_batches = _limited(trainer, "limit_val_batches", math.ceil(val["n_episodes"] / _AT_ONCE))
        n_images = val["n_way"] * (val["n_shot"] + val["n_query"])
        epoch += min(n_batches * _AT_ONCE, val["n_episodes"]) * n_images * _VALIDATION_IMAGE
    return _START + (trainer.get("max_epochs") or 1) * epoch


def _test_seconds(config: Mapping[str, Any], arm: ArmSettings, tests: list[dict[str, Any]], adapts: bool) -> float:
    n = sum(one.get("n_episodes", 600) for one in tests if not arm.support or one.get("n_shot", 1) == 1)
    n_batches = _limited(config["trainer"], "limit_test_batches", n)  # of each shape, but close enough
    each = _EPISODE_WITH_SUPPORT if arm.support else _EPISODE_ADAPTED if adapts else _EPISODE
    return _START + min(n, n_batches * _AT_ONCE) * each


def _limited(trainer: Mapping[str, Any], option: str, n: int) -> int:
    limit = trainer.get(option)
    if limit is None:
        return n
    return min(n, int(limit)) if limit > 1 else int(n * limit)  # a number or a share
