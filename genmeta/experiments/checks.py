"""Checks of a comparison before anything runs: can each run be made, and which generators does it need?"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from genmeta.errors import UserError
from genmeta.experiments.run_options import options_of_arm, options_of_generator, options_of_step, options_of_test
from genmeta.experiments.settings import ROLES, ArmSettings, CompareSettings, StepSettings, parts_of, references
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.generative_module import CodesModule, RedrawingModule
from genmeta.modules.meta_module import MetaModule


class Parts(Protocol):
    """What a command would run with."""

    model: Any
    datamodule: Any

    @property
    def account(self) -> str:
        """One line: how many files of the data were used; "" before the data are set up."""

    def check_ends_with_best(self) -> None:
        """Raise UserError if a training would end without a best checkpoint."""

    def resolved(self) -> str:
        """Return the whole configuration as YAML."""


class Check(Protocol):
    """Returns the parts of a command without running it; raises UserError if an option is wrong."""

    def __call__(self, args: Sequence[str], *, set_up: bool = True) -> Parts:
        """Without `set_up` no data are loaded, and sizes are not compared."""


def needed_roles(data: EpisodicDataModule, *stages: str) -> set[str]:
    """Return what the tasks of stages need: `generator` (draws from codes), `redrawer` (draws given images again).

    Args:
        data: before or after its setup.
        stages: `fit`, `test`; `fit` by default.
    """
    samplers = [sampler for stage in stages or ("fit",) for sampler in data.samplers(stage)]
    needs = {need for sampler in samplers for need in sampler.needs}
    roles = {"generator"} if needs & {"decoder", "encoder"} else set()
    return roles | ({"redrawer"} if "redrawer" in needs else set())


_LAST = ("--seed_everything=0", "--run.wandb=off", "--trainer.devices=1")


@dataclass(frozen=True)
class Checked:
    """A comparison that has passed all checks that need no training.

    Attributes:
        settings: of the comparison, with its test episodes.
        roles: for each arm, the kinds of generators that it needs.
        names: for each arm with generated support images, what the table calls its test episodes.
        parts: what the runs of each arm, step and needed generator are made of.
        account: one line: how many files of the data were used, or "".
    """

    settings: CompareSettings
    roles: Mapping[str, set[str]]
    names: Mapping[str, Mapping[str, str]]
    parts: Mapping[str, Parts]
    account: str = ""


def check_comparison(settings: CompareSettings, check: Check) -> Checked:
    """Check every arm, without training.

    Args:
        settings: of the comparison.
        check: makes the parts of a run, or says why it cannot.

    Raises:
        UserError: an arm cannot be trained, or tested on these episodes.
    """
    settings, roles_of_tests = _with_tests(settings, check)
    parts: dict[str, Parts] = {}
    for name, step in settings.steps.items():
        with _told_of(f"steps.{name}"):
            parts[name] = _check_step(settings, step, check)
    roles: dict[str, set[str]] = {}
    names: dict[str, dict[str, str]] = {}
    for name, arm in settings.arms.items():
        with _told_of(f"arms.{name}"):
            parts[name] = _check_arm(settings, arm, check)
            roles[name] = needed_roles(parts[name].datamodule) if arm.train else set()
            if arm.support:
                data = parts[name].datamodule if not arm.train else _check_made(settings, arm, check, "test").datamodule
                roles[name] |= needed_roles(data, "test")
                names[name] = {episodes.name: episodes.base_name for episodes in data.test}
            else:
                roles[name] |= roles_of_tests
            roles[name] = {role for role in roles[name] if f"data.{role}" not in arm.options}
    account = _check_data(settings, roles, bool(roles_of_tests), check)
    some = (*settings.steps.values(), *settings.arms.values())
    named = {parts_of(one)[0] for step_or_arm in some for one in references(step_or_arm.options)}
    for role in sorted(named.union(*roles.values()) & set(ROLES)):
        parts[role] = _check_generator(settings, role, check)
    return Checked(settings, roles, names, parts, account)


def _with_tests(settings: CompareSettings, check: Check) -> tuple[CompareSettings, set[str]]:
    """Return the settings with their test episodes, and the kinds of generators that these need."""
    arm = _without_references(settings.arms[settings.control])
    given = options_of_test(settings, replace(arm, support=None)) if settings.tests else []
    data = check(["test", *options_of_arm(settings, arm), *_LAST, *given], set_up=False).datamodule
    if not isinstance(data, EpisodicDataModule):
        raise UserError(f"learner: {settings.learner} has no episodes; expected a YAML of configs/learner")
    tests = settings.tests or [asdict(episodes) for episodes in data.test]
    return replace(settings, tests=tests), needed_roles(data, "test")


def _check_arm(settings: CompareSettings, arm: ArmSettings, check: Check) -> Parts:
    """Check an arm's options, except those that name a checkpoint that is still to be trained."""
    if arm.support and all(one.get("n_shot", 1) != 1 for one in settings.tests):
        raise UserError("support: there are no one-shot tests, which generated images would be beside")
    parts = _check_made(settings, arm, check, "fit" if arm.train else "test")
    if arm.train:
        parts.check_ends_with_best()
    if not isinstance(parts.model, MetaModule) or not isinstance(parts.datamodule, EpisodicDataModule):
        raise UserError(f"{arm.learner} has no episodes; expected a YAML of configs/learner")
    return parts


def _check_step(settings: CompareSettings, step: StepSettings, check: Check) -> Parts:
    """Check a step's options, except those that name a checkpoint that is still to be trained."""
    step = replace(step, options=_unreferring(step.options))
    parts = check(["fit", *options_of_step(settings, step), *_LAST], set_up=False)
    parts.check_ends_with_best()
    if not step.generator and not isinstance(parts.model, MetaModule):
        raise UserError(f"{step.learner} has no episodes; expected a YAML of configs/learner, or generator")
    return parts


def _check_made(settings: CompareSettings, arm: ArmSettings, check: Check, stage: str) -> Parts:
    options = [*options_of_arm(settings, _without_references(arm)), *_LAST]
    return check([stage, *options, *(options_of_test(settings, arm) if stage == "test" else [])], set_up=False)


def _check_data(settings: CompareSettings, roles: Mapping[str, set[str]], tests_need: bool, check: Check) -> str:
    """Check that the data are there and have enough classes, and that each arm's learner can be tested.

    Checks all arms that need no trained generator; at values of the axis after the first, only one of them.

    Returns:
        The account of the data, or "".
    """
    account = ""
    alone = [name for name, arm in settings.arms.items() if not (roles[name] or references(arm.options) or arm.of)]
    with_generator = [  # trained with one, tested without
        name
        for name, arm in settings.arms.items()
        if roles[name] and not (tests_need or references(arm.options) or arm.of or arm.support)
    ]
    for value in settings.values:
        first = value == settings.values[0]
        at = [f"--{settings.over.option}={value:g}"] if value is not None else []
        for name in [*(alone if first else alone[:1]), *(with_generator if first else [])]:
            arm = settings.arms[name]
            with _told_of(f"arms.{name}"):
                options = [*options_of_arm(settings, arm), *at, *_LAST]
                if arm.train and name in alone:
                    check(["fit", *options])
                account = check(["test", *options, *options_of_test(settings, arm)]).account or account
    return account


def _check_generator(settings: CompareSettings, role: str, check: Check) -> Parts:
    """Check a generator's training before time is spent on it."""
    config = getattr(settings, role)
    seed = settings.seeds[0] if settings.generator_seed is None else settings.generator_seed
    parts = check(["fit", *options_of_generator(settings, role, []), *_LAST, f"--seed_everything={seed}"])
    try:
        parts.check_ends_with_best()
    except UserError as error:
        raise UserError(f"--{role}: {error}") from error
    model = parts.model
    if role == "generator" and not isinstance(model, CodesModule):
        raise UserError(
            f"--generator: {config} is a {type(model).__name__}, which draws given images again, not new classes "
            f"from codes; choose a GAN or a VAE of codes, or name it as --redrawer"
        )
    if role == "redrawer" and not isinstance(model, RedrawingModule):
        raise UserError(
            f"--redrawer: {config} is a {type(model).__name__}, which draws from codes; choose a model that draws "
            f"given images again, such as vae_deformation"
        )
    return parts


def _without_references(arm: ArmSettings) -> ArmSettings:
    return replace(arm, options=_unreferring(arm.options))


def _unreferring(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if not references(value)}


@contextmanager
def _told_of(option: str) -> Iterator[None]:
    """Put the name of the arm or step before the message of an error."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{option}: {error}") from error
