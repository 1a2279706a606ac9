"""The settings of a comparison, `configs/compare/*.yaml`: read and checked before anything runs."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from genmeta.errors import UserError, nearest
from genmeta.read_yaml import read_typed, typed
from genmeta.shipped import config_file, find_config

ROLES = ("generator", "redrawer")
Value = float | None
"""A value of the axis; None without an axis."""

_REFERENCE = re.compile(r"\{([A-Za-z][\w-]*(?:@\d+)?(?:/[\w-]+)?)\}")  # a checkpoint, in an arm's options


def references(value: Any) -> set[str]:
    """Return the references in the options of an arm: `name`, `name@seed`, `name/checkpoint`."""
    if isinstance(value, Mapping):
        return set().union(*map(references, value.values()))
    if isinstance(value, list):
        return set().union(*map(references, value))
    return set(_REFERENCE.findall(value)) if isinstance(value, str) else set()


def parts_of(reference: str) -> tuple[str, int | None, str]:
    """Return name, seed (None: the arm's own) and checkpoint (`best` by default) of a reference."""
    run, _, checkpoint = reference.partition("/")
    name, _, seed = run.partition("@")
    return name, int(seed) if seed else None, checkpoint or "best"


def referring(value: Any, checkpoints: Mapping[str, Path]) -> Any:
    """Return options with each reference replaced by the path of its checkpoint."""
    if isinstance(value, Mapping):
        return {key: referring(item, checkpoints) for key, item in value.items()}
    if isinstance(value, list):
        return [referring(item, checkpoints) for item in value]
    return _REFERENCE.sub(lambda match: str(checkpoints[match[1]]), value) if isinstance(value, str) else value


@dataclass(frozen=True)
class ArmSettings:
    """One way to train.

    Attributes:
        title: in tables and pictures; the arm's name by default.
        learner: name of a YAML in `configs/learner`, or its path; the comparison's by default.
        policy: YAMLs of `configs/policy`, or paths, laid over the learner's one after the other.
        options: dotted options of `genmeta fit` and their values, laid over the YAMLs. A value can refer to
            checkpoints. `{proto}` is the best checkpoint of the earlier arm or step `proto`, with the same seed;
            `{redrawer}` and `{generator}` are those of the generators. `{proto@1}` is the checkpoint of seed 1 for
            every seed, for an ensemble of all seeds. `{generator/age-200}` is the file age-200.ckpt of the same run.
        train: whether it is trained. If not, its learner is tested as the options make it, for example from trained
            parts: once, with the first seed, unless it uses checkpoints of its own seed.
        of: an earlier arm, or a step. This arm tests its trained learners in another way and trains nothing. This
            arm's policy and options are laid over those of the other.
        support: generated images beside each support image at its tests, as in an entry of `data.test`. The arm is
            then tested on one-shot episodes only.
    """

    title: str = ""
    learner: str = ""
    policy: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    train: bool = True
    of: str = ""
    support: dict[str, Any] | None = None


@dataclass(frozen=True)
class StepSettings:
    """A training that arms need and that is not tested itself, such as that of an embedding.

    Attributes:
        learner: name of a YAML in `configs/learner`, or its path; the comparison's by default. The comparison's budget
            is laid over it.
        generator: name of a YAML in `configs/generator`, or its path, instead of a learner. The generators' budget is
            laid over it.
        policy: as an arm's.
        options: as an arm's; `{name}` in a value is the best checkpoint of an earlier step, with the same seed.
    """

    learner: str = ""
    generator: str = ""
    policy: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Axis:
    """An option that takes several values: a curve instead of a table.

    Attributes:
        option: dotted option of `genmeta fit`. An option of `data.low_data` is for the generators too, which must not
            see more than the learners.
        values: ascending.
        title: of the picture's axis; the option by default.
    """

    option: str
    values: list[float]
    title: str = ""


@dataclass(frozen=True)
class CompareSettings:
    """Arms × seeds on one data set and learner. Once it is read, names of YAMLs are replaced by their paths.

    Attributes:
        data, learner: names of YAMLs in `configs/data` and `configs/learner`, or paths.
        seeds: each is the seed of a whole pipeline, of generators and learners.
        control: name of the arm that all others are compared with.
        arms: by name; `ArmSettings` once they are read.
        steps: by name, trainings that arms need and that are in no table, each once a seed; `StepSettings` once they
            are read.
        controls: names of arms. The answer compares the best of the other arms with the best of these. By default the
            control alone; with a subject, all arms that neither test its learners nor use a generator at their tests.
        tests: test episodes, entries of `data.test`; by default those of the control's YAMLs.
        subject: name of an arm that is compared with every other trained arm, and must be better than each. By default
            there is none, and all arms are compared with the control.
        name: of the comparison and its folder; the YAML's name by default.
        budget: YAMLs laid over learner and data in all learners' runs: sizes, steps, validation.
        generator, redrawer: YAMLs of `configs/generator`, or paths, trained for the arms that need them.
        generator_budget: YAMLs laid over those.
        generator_seed: one seed of the generators for all seeds of learners; by default each seed has its own.
        part: of the split that is tested on: `test`, or `val` to choose settings by.
        over: an axis; none by default; `Axis` once it is read.
    """

    data: str
    learner: str
    seeds: list[int]
    control: str
    arms: dict[str, Any]
    steps: dict[str, Any] = field(default_factory=dict)
    controls: list[str] = field(default_factory=list)
    tests: list[dict[str, Any]] = field(default_factory=list)
    subject: str = ""
    name: str = ""
    budget: list[str] = field(default_factory=list)
    generator: str = "vae"
    redrawer: str = "vae_deformation"
    generator_budget: list[str] = field(default_factory=list)
    generator_seed: int | None = None
    part: Literal["test", "val"] = "test"
    over: Any = None

    @property
    def titles(self) -> dict[str, str]:
        """The title of each arm."""
        return {name: arm.title for name, arm in self.arms.items()}

    @property
    def values(self) -> list[Value]:
        """Values of the axis; without an axis, None alone."""
        return list(self.over.values) if self.over else [None]


def read_settings(
    path: Path, change: Callable[[CompareSettings], CompareSettings] = lambda settings: settings
) -> CompareSettings:
    """Read the YAML of a comparison.

    Args:
        path: of the YAML.
        change: replaces values of the YAML by options of a command, before the check.

    Raises:
        UserError: it cannot be read, has an unknown key or a value of a wrong type, names a missing file, or an arm, a
            seed or a control is wrong.
    """
    settings = read_typed(CompareSettings, path, "--config")
    try:
        return _parsed(change(replace(settings, name=settings.name or path.stem)))
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix('--')}") from error


def read_on(path: Path, data: str | None) -> CompareSettings:
    """Read the YAML of a comparison. With other data, their name becomes part of the comparison's name.

    Args:
        path: of the YAML.
        data: name of a YAML in `configs/data`, or its path.

    Raises:
        UserError: as `read_settings`.
    """
    if not data:
        return read_settings(path)
    config = find_config("data", data)
    settings = read_settings(path, lambda settings: replace(settings, data=str(config)))
    return replace(settings, name=f"{settings.name}-{config.stem}")


def _parsed(settings: CompareSettings) -> CompareSettings:
    """Return checked settings, with arms, axis and paths as objects."""
    if len(settings.arms) < 2:
        raise UserError(f"arms: a comparison needs two, found {', '.join(settings.arms) or 'none'}")
    named_arms = [("control", settings.control), ("subject", settings.subject or settings.control)]
    for option, name in [*named_arms, *(("controls", name) for name in settings.controls)]:
        if name not in settings.arms:
            raise UserError(
                f"{option}: '{name}' is none of the arms {', '.join(settings.arms)}{nearest(name, settings.arms)}"
            )
    for option, names in {"name": [settings.name], "steps": settings.steps, "arms": settings.arms}.items():
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise UserError(f"{option}: '{name}' becomes a folder; use letters, digits, _ and -")
    if not settings.seeds or len(set(settings.seeds)) < len(settings.seeds):
        raise UserError(f"seeds: expected different seeds, at least one, found {settings.seeds}")
    named = ("data", "learner", "generator", "redrawer")
    paths: dict[str, Any] = {option: str(find_config(option, getattr(settings, option))) for option in named}
    for option in ("budget", "generator_budget"):
        paths[option] = [str(config_file(path)) for path in getattr(settings, option)]
        for path in paths[option]:
            if not Path(path).is_file():
                raise UserError(f"{option}: {path}: no such file")
    if twice := [name for name in settings.steps if name in settings.arms or name in ROLES]:
        raise UserError(f"steps.{twice[0]}: an arm or a generator has that name; use another")
    steps: dict[str, StepSettings] = {}
    for name, content in settings.steps.items():
        step = typed(StepSettings, content or {}, f"steps.{name}.")
        _check_references(f"steps.{name}", step.options, list(steps), settings.seeds)
        if step.generator and step.learner:
            raise UserError(
                f"steps.{name}: a learner and a generator are given, '{step.learner}', '{step.generator}'; use one"
            )
        steps[name] = _with_paths(f"steps.{name}", step, paths["learner"])
    # an arm can test the learner of a step
    learners_of: dict[str, ArmSettings] = {
        name: ArmSettings(learner=step.learner, policy=step.policy, options=step.options)
        for name, step in steps.items()
        if not step.generator
    }
    arms: dict[str, ArmSettings] = {}
    for name, content in settings.arms.items():
        arm = typed(ArmSettings, content or {}, f"arms.{name}.")
        trained = [other for other, earlier in arms.items() if earlier.train]
        _check_references(f"arms.{name}", arm.options, [*steps, *trained], settings.seeds)
        if arm.of and arm.learner:
            raise UserError(f"arms.{name}.learner: '{arm.learner}' is given, but its learners are those of '{arm.of}'")
        arm = _with_paths(f"arms.{name}", replace(arm, title=arm.title or name), paths["learner"])
        if arm.support and not settings.subject:
            raise UserError(
                f"arms.{name}.support: these tests lack episodes that others have; expected a subject, or support in "
                f"an entry of tests"
            )
        arms[name] = _laid_over(name, arm, {**learners_of, **arms}) if arm.of else arm
    if settings.subject and settings.over is not None:
        raise UserError("over: a comparison with a subject has no axis")
    controls = settings.controls or _default_controls(settings, arms)
    if len(set(controls)) == len(arms):
        raise UserError(f"controls: all arms are controls ({', '.join(controls)}); expected one to hold to them")
    axis = None if settings.over is None else typed(Axis, settings.over, "over.")
    if axis and (not axis.values or sorted(set(axis.values)) != axis.values):
        raise UserError(f"over.values: expected ascending values, found {axis.values}")
    axis = axis and replace(axis, title=axis.title or axis.option)
    return replace(settings, **paths, steps=steps, arms=arms, controls=controls, over=axis)


def _with_paths(option: str, part: Any, learner: str) -> Any:
    """Return an arm or a step with paths in place of the names of YAMLs; the learner is the given one by default."""
    try:
        kind = "generator" if getattr(part, "generator", "") else "learner"
        path = str(find_config(kind, getattr(part, kind))) if getattr(part, kind) else learner
        return replace(part, **{kind: path}, policy=[str(find_config("policy", one)) for one in part.policy])
    except UserError as error:
        raise UserError(f"{option}.{str(error).removeprefix('--')}") from error


def _default_controls(settings: CompareSettings, arms: Mapping[str, ArmSettings]) -> list[str]:
    if not settings.subject:
        return [settings.control]
    return [name for name, arm in arms.items() if settings.subject not in (name, arm.of) and not _redraws(arm)]


def _redraws(arm: ArmSettings) -> bool:
    """Whether an arm is tested with images of a generator beside the support images."""
    return arm.support is not None and arm.support.get("redraw", {}).get("learned", 1.0) > 0


def _laid_over(name: str, arm: ArmSettings, earlier: Mapping[str, ArmSettings]) -> ArmSettings:
    """Return an arm that tests the learners of an earlier one, with that one's learner, policy and options."""
    trained = [other for other, settings in earlier.items() if settings.train]
    if arm.of not in trained:
        raise UserError(
            f"arms.{name}.of: '{arm.of}' is no earlier trained arm; there are {', '.join(trained) or 'none'}"
            f"{nearest(arm.of, trained)}"
        )
    base = earlier[arm.of]
    policy, options = [*base.policy, *arm.policy], {**base.options, **arm.options}
    return replace(arm, learner=base.learner, policy=policy, options=options, train=False)


def _check_references(option: str, options: Mapping[str, Any], trained: list[str], seeds: list[int]) -> None:
    """Check what the options of an arm or a step refer to.

    Args:
        option: the arm or step, for the message.
        options: of the arm or step.
        trained: names of earlier trained arms and steps.
        seeds: of the comparison.
    """
    known = [*trained, *ROLES]
    for reference in sorted(references(options)):
        other, seed, _ = parts_of(reference)
        if other not in known:
            raise UserError(
                f"{option}.options: found '{{{reference}}}', which is no earlier trained arm, no step and no "
                f"generator; there are {', '.join(known)}{nearest(other, known)}"
            )
        if seed is not None and seed not in seeds:
            raise UserError(
                f"{option}.options: found '{{{reference}}}', but the seeds are {', '.join(map(str, seeds))}"
            )
