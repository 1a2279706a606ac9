"""The runs of a comparison: generators, trainings and tests of all arms and seeds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from genmeta.experiments.checks import Checked
from genmeta.experiments.run import Run
from genmeta.experiments.run_options import options_of_arm, options_of_generator, options_of_step, options_of_test
from genmeta.experiments.settings import ROLES, CompareSettings, Value, parts_of, references, referring


@dataclass(frozen=True)
class Layout:
    """Where the runs of a comparison go.

    Attributes:
        folder: of all runs.
        options: of all runs, such as whether W&B is on.
        readable: name the folders `<arm>-seed<seed>/fit` and `/test`, for a folder of this comparison alone. Otherwise
            a hash of the command is the version, so another command is another run.
        generators: runs to use as generators, by role, in place of the comparison's own.
        expected: seconds that the trainings of arms and generators (`fit`) and the tests of arms (`test`) take.
    """

    folder: Path
    options: tuple[str, ...] = ("--run.wandb=off", "--trainer.devices=1")
    readable: bool = False
    generators: Mapping[str, Run] = field(default_factory=dict)
    expected: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def fit(self, arm: str, label: str, args: list[str], after: tuple[Run, ...] = ()) -> Run:
        """Return a training of an arm or of a generator."""
        version = "fit" if self.readable else ""
        return Run(label, ("fit", *args), str(self.folder), after, version, self.expected.get((arm, "fit"), 0.0))

    def test(self, arm: str, label: str, args: list[str], after: tuple[Run, ...]) -> Run:
        """Return a test of an arm."""
        name, version = (label, "test") if self.readable else (f"{label}-test", "")
        return Run(name, ("test", *args), str(self.folder), after, version, self.expected.get((arm, "test"), 0.0))


@dataclass(frozen=True)
class Plan:
    """All runs of a comparison.

    Attributes:
        fits, tests: by value of the axis, arm and seed; arms that are not trained have no fits.
        names: for each arm with generated support images, what the table calls its test episodes.
        generators: those that arms need, by role and seed; of the last value of the axis.
        account: one line: how many files of the data were used, or "".
    """

    fits: Mapping[tuple[Value, str, int], Run]
    tests: Mapping[tuple[Value, str, int], Run]
    names: Mapping[str, Mapping[str, str]]
    generators: Mapping[tuple[str, int], Run]
    account: str = ""

    @property
    def arm_of(self) -> dict[Run, str]:
        """The arm of each training and test; of several arms that share a run, the last."""
        return {run: arm for runs in (self.fits, self.tests) for (_, arm, _), run in runs.items()}

    @property
    def runs(self) -> list[Run]:
        """Each run once: generators and steps first, then trainings, then tests."""
        fits = set(self.fits.values())
        some = (*self.fits.values(), *self.tests.values())
        trained = [run for one in some for run in _before(one) if run not in fits]
        return list(dict.fromkeys([*trained, *self.fits.values(), *self.tests.values()]))


def _before(run: Run) -> Iterator[Run]:
    """Yield all runs that must be finished before a run, in order."""
    for needed in run.after:
        yield from _before(needed)
        yield needed


def make_plan(checked: Checked, layout: Layout) -> Plan:
    """Return the runs of a comparison.

    Args:
        checked: the comparison.
        layout: where the runs go.
    """
    settings, axis = checked.settings, checked.settings.over
    fits: dict[tuple[Value, str, int], Run] = {}
    tests: dict[tuple[Value, str, int], Run] = {}
    trained: dict[tuple[str, int], Run] = {}
    for value in settings.values:
        at = [f"--{axis.option}={value:g}"] if axis and value is not None else []
        label = f"-at-{value:g}" if value is not None else ""
        trained = {
            (role, seed): layout.generators.get(role) or _generator(settings, role, seed, at, label, layout)
            for role in ROLES
            for seed in settings.seeds
        }
        # all seeds of a step or an arm before the next one, which may use them all
        for name, seed in product(settings.steps, settings.seeds):
            step = settings.steps[name]
            step_options, needed = _resolved(step.options, seed, trained)
            args = [*options_of_step(settings, replace(step, options=step_options)), *at]
            args += [f"--seed_everything={seed}", *layout.options]
            trained[name, seed] = layout.fit(name, f"{name}{label}-seed{seed}", args, tuple(needed.values()))
        for name, seed in product(settings.arms, settings.seeds):
            arm = settings.arms[name]
            given = {role: trained[role, seed] for role in sorted(checked.roles[name])}
            arm_options, needed = _resolved(arm.options, seed, trained)
            options = [
                *options_of_arm(settings, replace(arm, options=arm_options)),
                *(f"--data.{role}={run.checkpoint}" for role, run in given.items()),
                *at,
                f"--seed_everything={seed}",
                *layout.options,
            ]
            run_name, after = f"{name}{label}-seed{seed}", (*given.values(), *needed.values())
            test = [*options, *options_of_test(settings, arm)]
            if arm.train:
                fit = layout.fit(name, run_name, options, after)
                trained[name, seed] = fits[value, name, seed] = fit
                test, after = [*test, f"--ckpt_path={fit.checkpoint}"], (fit,)
            elif arm.of:
                fit = trained[arm.of, seed]
                test, after = [*test, f"--ckpt_path={fit.checkpoint}"], (*after, fit)
            same_for_all_seeds = not (arm.train or arm.of or given) and all("@" in reference for reference in needed)
            first = tests.get((value, name, settings.seeds[0]))
            # an arm that has no training of its own seed is tested once, for all seeds
            tests[value, name, seed] = (same_for_all_seeds and first) or layout.test(name, run_name, test, after)
    order = list(product(settings.values, settings.seeds, settings.arms))  # all arms of a seed first
    used = {run for one in (*fits.values(), *tests.values()) for run in one.after}
    return Plan(
        {(v, name, seed): fits[v, name, seed] for v, seed, name in order if (v, name, seed) in fits},
        {(v, name, seed): tests[v, name, seed] for v, seed, name in order},
        checked.names,
        {(role, seed): run for (role, seed), run in trained.items() if role in ROLES and run in used},
        checked.account,
    )


def _resolved(
    options: Mapping[str, Any], seed: int, trained: Mapping[tuple[str, int], Run]
) -> tuple[dict[str, Any], dict[str, Run]]:
    """Return options with each reference replaced by a checkpoint's path, and the runs that they refer to."""
    needed: dict[str, Run] = {}
    checkpoints: dict[str, Path] = {}
    for reference in sorted(references(options)):
        other, other_seed, checkpoint = parts_of(reference)
        needed[reference] = trained[other, seed if other_seed is None else other_seed]
        checkpoints[reference] = needed[reference].checkpoint.with_name(f"{checkpoint}.ckpt")
    return {name: referring(value, checkpoints) for name, value in options.items()}, needed


def _generator(settings: CompareSettings, role: str, seed: int, at: list[str], label: str, layout: Layout) -> Run:
    """Return the training of a generator, with the learners' seed or with one seed for all."""
    if settings.generator_seed is not None:
        seed = settings.generator_seed
    options = options_of_generator(settings, role, at)
    # a generator that does not depend on the axis is the same run at all its values
    name = f"{role}{label if any(option in options for option in at) else ''}-seed{seed}"
    return layout.fit(role, name, [*options, f"--seed_everything={seed}", *layout.options])
