"""The options of the runs of a comparison, without seeds and checkpoints."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from genmeta.experiments.settings import ArmSettings, CompareSettings, StepSettings


def options_of_arm(settings: CompareSettings, arm: ArmSettings) -> list[str]:
    """Return the options of an arm's trainings, the same for all seeds."""
    configs = [arm.learner, settings.data, *settings.budget, *arm.policy]
    return [*(f"--config={path}" for path in configs), *_as_options(arm.options)]


def options_of_step(settings: CompareSettings, step: StepSettings) -> list[str]:
    """Return the options of a step's training, the same for all seeds."""
    if not step.generator:
        return options_of_arm(settings, ArmSettings(learner=step.learner, policy=step.policy, options=step.options))
    configs = [step.generator, settings.data, *settings.generator_budget, *step.policy]
    return [*(f"--config={path}" for path in configs), *_as_options(step.options)]


def _as_options(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        yield f"--{name}={value if isinstance(value, str) else json.dumps(value)}"


def options_of_test(settings: CompareSettings, arm: ArmSettings) -> list[str]:
    """Return the options that an arm's tests have and its trainings have not."""
    tests = settings.tests
    if arm.support:
        tests = [{**one, "support": arm.support} for one in tests if one.get("n_shot", 1) == 1]
    return [f"--data.test={json.dumps(tests)}", f"--data.test_part={settings.part}"]


def options_of_generator(settings: CompareSettings, role: str, at: list[str]) -> list[str]:
    """Return the options of a generator's training, the same for all seeds.

    Args:
        settings: of the comparison.
        role: `generator` or `redrawer`.
        at: options of a value of the axis; generators get those of `data.low_data`.
    """
    configs = [getattr(settings, role), settings.data, *settings.generator_budget]
    low_data = [option for option in at if option.startswith("--data.low_data.")]
    return [*(f"--config={path}" for path in configs), *low_data]
