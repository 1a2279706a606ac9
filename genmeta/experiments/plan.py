"""The runs of a comparison: generators, trainings and tests of all arms and seeds."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from genmeta.errors import UserError
from genmeta.experiments.checks import Check, check_role, needed_roles
from genmeta.experiments.run import Run
from genmeta.experiments.settings import ROLES, ArmSettings, CompareSettings, Value, references, referring
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.meta_module import MetaModule


@dataclass(frozen=True)
class Plan:
    """All runs of a comparison.

    Attributes:
        fits, tests: by value of the axis, arm and seed; arms that are not trained have no fits.
        account: one line of what was used of the files that the data were read from, or "".
    """

    fits: Mapping[tuple[Value, str, int], Run]
    tests: Mapping[tuple[Value, str, int], Run]
    account: str = ""

    @property
    def runs(self) -> list[Run]:
        """All of them once: generators first, then trainings, then tests."""
        fits = set(self.fits.values())
        some = (*self.fits.values(), *self.tests.values())
        trained = [run for one in some for run in one.after if run not in fits]
        return list(dict.fromkeys([*trained, *self.fits.values(), *self.tests.values()]))


def make_plan(settings: CompareSettings, folder: Path, check: Check) -> Plan:
    """Check every arm as far as can be without training, and return the runs of the comparison.

    Args:
        settings: of the comparison.
        folder: of its runs.
        check: whether a run could be made.

    Raises:
        UserError: an arm cannot be trained, or tested on these episodes.
    """
    fits: dict[tuple[Value, str, int], Run] = {}
    tests: dict[tuple[Value, str, int], Run] = {}
    account = ""
    axis = settings.over
    of_test = _test_roles(settings, check)
    roles = {name: _check_arm(settings, name, check) | of_test for name in settings.arms}
    of_others = {name: sorted(references(arm.options)) for name, arm in settings.arms.items()}
    trained_alone = [name for name in settings.arms if not roles[name] and not of_others[name]]
    named = {reference.partition("@")[0] for of_arm in of_others.values() for reference in of_arm}
    for role in sorted(named.union(*roles.values()) & set(ROLES)):
        config = Path(getattr(settings, role))
        check_role(check, role, config, _generator_options(settings, role, []), set_up=False)
    for value in settings.values:
        at = [f"--{axis.option}={value:g}"] if axis and value is not None else []
        # data and sizes of tasks by all arms whose generators need no training first, once; at other values by one
        some = trained_alone if value == settings.values[0] else trained_alone[:1]
        account = _check_data(settings, some, at, check) or account
        if value == settings.values[0] and not of_test:  # arms that are trained with a generator are tested without
            for name in (name for name in settings.arms if name not in trained_alone and not of_others[name]):
                try:
                    account = _check_test(settings, name, at, check)
                except UserError as error:
                    raise UserError(f"arms.{name}: {error}") from error
        label = f"-at-{value:g}" if value is not None else ""
        trained = {
            (role, seed): _generator(settings, role, seed, at, label, folder)
            for role in ROLES
            for seed in settings.seeds
        }
        # arm by arm, as one may use all seeds of an earlier one
        for name, seed in product(settings.arms, settings.seeds):
            used = {role: trained[role, seed] for role in sorted(roles[name])}
            needed = {reference: trained[_of_seed(reference, seed)] for reference in of_others[name]}
            arm = settings.arms[name]
            checkpoints = {reference: run.checkpoint for reference, run in needed.items()}
            arm = replace(arm, options=referring(arm.options, checkpoints))
            options = [
                *_options(settings, arm),
                *(f"--data.{role}={run.checkpoint}" for role, run in used.items()),
                *at,
                *_last(seed),
            ]
            label_of_run, after = f"{name}{label}-seed{seed}", (*used.values(), *needed.values())
            test = ("test", *options, *_test(settings))
            if arm.train:
                fit = Run(label_of_run, ("fit", *options), str(folder), after)
                trained[name, seed] = fits[value, name, seed] = fit
                test, after = (*test, f"--ckpt_path={fit.checkpoint}"), (fit,)
            of_all_seeds = not arm.train and all("@" in reference for reference in of_others[name]) and not used
            first = tests.get((value, name, settings.seeds[0]))
            # what is not trained, and uses no training of its own seed, is tested once for all
            tests[value, name, seed] = (of_all_seeds and first) or Run(f"{label_of_run}-test", test, str(folder), after)
    order = list(product(settings.values, settings.seeds, settings.arms))  # all arms of a seed first
    return Plan(
        {(v, name, seed): fits[v, name, seed] for v, seed, name in order if (v, name, seed) in fits},
        {(v, name, seed): tests[v, name, seed] for v, seed, name in order},
        account,
    )


def _of_seed(reference: str, seed: int) -> tuple[str, int]:
    """Return name and seed of what a reference of an arm of this seed means."""
    name, _, other = reference.partition("@")
    return name, int(other) if other else seed


def _options(settings: CompareSettings, arm: ArmSettings) -> list[str]:
    """Return the options of an arm's trainings, the same for all seeds."""
    configs = [arm.learner, settings.data, *settings.budget, *arm.policy]
    return [*(f"--config={path}" for path in configs), *_as_options(arm.options)]


def _as_options(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        yield f"--{name}={value if isinstance(value, str) else json.dumps(value)}"


def _test(settings: CompareSettings) -> list[str]:
    return [f"--data.test={json.dumps(settings.tests)}", f"--data.test_part={settings.part}"]


def _last(seed: int) -> list[str]:
    return [f"--seed_everything={seed}", "--run.wandb=off", "--trainer.devices=1"]


def _generator_options(settings: CompareSettings, role: str, at: list[str]) -> list[str]:
    configs = [getattr(settings, role), settings.data, *settings.generator_budget]
    low_data = [option for option in at if option.startswith("--data.low_data.")]
    return [*(f"--config={path}" for path in configs), *low_data]


def _generator(settings: CompareSettings, role: str, seed: int, at: list[str], label: str, folder: Path) -> Run:
    """Return the training of a generator: of a seed of its own, or one for all."""
    if settings.generator_seed is not None:
        seed = settings.generator_seed
    options = _generator_options(settings, role, at)
    # a generator that does not depend on the axis is the same run at all its values
    name = f"{role}{label if any(option in options for option in at) else ''}-seed{seed}"
    return Run(name, ("fit", *options, *_last(seed)), str(folder))


def _check_arm(settings: CompareSettings, name: str, check: Check) -> set[str]:
    """Check an arm's options, but for those with a checkpoint that is not there yet; return which kinds of generators
    its training needs.
    """
    arm = settings.arms[name]
    arm = replace(arm, options={key: value for key, value in arm.options.items() if not references(value)})
    stage = "fit" if arm.train else "test"
    try:
        parts = check([stage, *_options(settings, arm), *_last(0)], set_up=False)
        if arm.train:
            parts.check_ends_with_best()
    except UserError as error:
        raise UserError(f"arms.{name}: {error}") from error
    if not isinstance(parts.model, MetaModule) or not isinstance(parts.datamodule, EpisodicDataModule):
        raise UserError(f"learner: {settings.learner} has no episodes; expected a YAML of configs/learner")
    return needed_roles(parts.datamodule) if arm.train else set()


def _test_roles(settings: CompareSettings, check: Check) -> set[str]:
    """Check the options of the test episodes; return which kinds of generators these need."""
    options = [*_options(settings, settings.arms[settings.control]), *_last(0), *_test(settings)]
    data = check(["test", *options], set_up=False).datamodule
    return needed_roles(data, "test") if isinstance(data, EpisodicDataModule) else set()


def _check_test(settings: CompareSettings, name: str, at: list[str], check: Check) -> str:
    """Check an arm's test; return the account of the data."""
    return check(["test", *_options(settings, settings.arms[name]), *at, *_last(0), *_test(settings)]).account


def _check_data(settings: CompareSettings, arms: list[str], at: list[str], check: Check) -> str:
    """Check that the data are there and have the classes that training and tests ask for, and that the learner of each
    arm can be tested; return the account of the data, or "" without arms.
    """
    account = ""
    for name in arms:
        try:
            if settings.arms[name].train:
                check(["fit", *_options(settings, settings.arms[name]), *at, *_last(0)])
            account = _check_test(settings, name, at, check)
        except UserError as error:
            raise UserError(f"arms.{name}: {error}") from error
    return account
