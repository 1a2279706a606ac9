"""The runs of an experiment: generators, trainings and tests of all arms and seeds."""

import argparse
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from genmeta.errors import UserError
from genmeta.experiments.checks import Check, check_role, needed_roles
from genmeta.experiments.default_episodes import beside_support, episodes_of, lay_over
from genmeta.experiments.run import Run
from genmeta.experiments.run_folder import comparable
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.shipped import find_config
from genmeta.tasks.evaluated import Episodes

MIXED = "mixed"
TRAINED = {
    MIXED: "with the generator",
    "real_only": "real only, with rotations",
    "elastic_quarter": "real only, a quarter deformed",
    "elastic": "real only, all deformed",
}
"""Arms that are trained; the second quarter is that of the default generated tasks: it is their matched control."""

_CONTROLS = {"real_only": "arm", "elastic_quarter": "policy", "elastic": "arm"}  # folders of their YAMLs
_UNTRAINED = {"from_scratch": "from scratch on each task", "pixels": "nearest neighbour on pixels"}
TITLES = TRAINED | _UNTRAINED

# seconds of a core, of the defaults, while the other core of two works too: what the first estimate of the time is made
# of. Proportions were measured alone, their common size follows from a whole experiment, which took 11 min 22 s
_START = 2.0
_STEP = {"generator": 0.13, "fit": 0.075}
_EPISODE = {"test": 0.009, "test_redrawn": 0.06, "pixels": 0.009, "from_scratch": 0.36}
_VALIDATION_IMAGE = 1e-4
_AT_ONCE = 10  # episodes of a batch, by default


@dataclass(frozen=True)
class Settings:
    """What an experiment is of, checked.

    Attributes:
        options: of the command.
        roles: kinds of generators that the tasks need, and the YAML of each.
        configs: options of each arm's runs, and of each generator's, by arm and role, but for seeds and checkpoints.
        resolved: whole configurations of all kinds of runs with the first seed.
        with_support: arms that are tested with generated support images too, and the episodes of these tests.
        beside: options of these tests.
        account: one line of what was used of the files that the data were read from, or "".
    """

    options: argparse.Namespace
    roles: Mapping[str, Path]
    configs: Mapping[str, list[str]]
    resolved: Mapping[str, dict[str, Any]]
    with_support: Mapping[str, tuple[Episodes, ...]]
    beside: tuple[str, ...]
    account: str = ""

    @property
    def name(self) -> str:
        """Name of the experiment, and of its folder."""
        options = self.options
        of_tasks = [*([options.policy] if options.policy else []), *self.roles.values()]
        return "-".join(path.stem for path in (options.data, options.learner, *of_tasks))

    @property
    def seeds(self) -> list[int]:
        """All of them; generators have the first."""
        return list(range(self.options.seed, self.options.seed + self.options.n_seeds))

    @property
    def digest(self) -> str:
        """Of everything that decides what the experiment computes."""
        content = {"seeds": self.seeds, "support": tuple(self.with_support), "runs": self.resolved}
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def check_settings(options: argparse.Namespace, check: Check) -> Settings:
    """Check what can be checked before time is spent on training.

    Args:
        options: of the command.
        check: whether a run could be made.

    Raises:
        UserError: an option, a file or a size is wrong.
    """
    configs = {MIXED: _configs(options, options.learner, options.policy)}
    parts = check(["fit", *configs[MIXED]], set_up=False)
    data = parts.datamodule
    if not isinstance(data, EpisodicDataModule):
        raise UserError(f"--learner: {options.learner} has no episodes")
    parts.check_ends_with_best()
    of_learner = yaml.safe_load(parts.resolved())["data"]["init_args"]
    account = check(["test", *configs[MIXED]]).account  # sizes, and that the learner can be tested
    needed = needed_roles(data, "fit", "test")
    roles: dict[str, Path] = {r: getattr(options, r) for r in ("generator", "redrawer") if r in needed}
    for arm, kind in _CONTROLS.items():
        configs[arm] = [*_configs(options, options.learner), f"--config={find_config(kind, arm)}"]
    for arm in _untrained(options):  # tested on the learner's episodes, whatever its own YAML says
        configs[arm] = [*_configs(options, find_config("baseline", arm)), *episodes_of(of_learner, arm)]
    configs |= {role: _configs(options, config, of_generator=True) for role, config in roles.items()}

    seed = f"--seed_everything={options.seed}"
    resolved = {}
    for kind, of_kind in configs.items():
        command = "test" if kind in _UNTRAINED else "fit"
        parts = check([command, *of_kind, seed], set_up=kind in _CONTROLS | _UNTRAINED)
        resolved[kind] = comparable(yaml.safe_load(parts.resolved()))
    for role, config in roles.items():
        check_role(check, role, config, configs[role])
    with_support: dict[str, tuple[Episodes, ...]] = {}
    beside = beside_support(find_config("test", "redrawn_support"), of_learner) if "redrawer" in needed else []
    if beside:
        parts = check(["test", *configs[MIXED], *beside, seed], set_up=False)
        with_support = dict.fromkeys(TRAINED if options.full else (MIXED,), parts.datamodule.test)
        resolved["test_redrawn"] = comparable(yaml.safe_load(parts.resolved()))
    return Settings(options, roles, configs, resolved, with_support, tuple(beside), account)


@dataclass(frozen=True)
class Grid:
    """All runs of an experiment.

    Attributes:
        generators: by role.
        fits: by arm and seed.
        tests: by arm, seed and version (`test`, `test_redrawn`).
    """

    generators: Mapping[str, Run]
    fits: Mapping[tuple[str, int], Run]
    tests: Mapping[tuple[str, int, str], Run]

    @property
    def runs(self) -> list[Run]:
        """All of them: what others wait for first."""
        return [*self.generators.values(), *self.fits.values(), *self.tests.values()]


def make_grid(settings: Settings, folder: Path, generators: Mapping[str, str]) -> Grid:
    """Return the runs of an experiment.

    Args:
        settings: of the experiment.
        folder: of the experiment.
        generators: version of each generator's run, by role.
    """
    options = settings.options
    common = (f"--run.wandb={options.wandb}", f"--run.group={settings.name}")

    def make(kind: str, command: str, name: str, seed: int, version: str, *more: str, after: tuple[Run, ...]) -> Run:
        args = (command, *settings.configs[kind], *more, f"--seed_everything={seed}", *common)
        return Run(name, args, str(folder), after, version, _seconds(settings.resolved, kind, version))

    made = {}
    for role, version in generators.items():
        run = make(role, "fit", f"{settings.roles[role].stem}-{options.data.stem}", options.seed, version, after=())
        made[role] = replace(run, runs=str(options.runs))
    of_role = {role: f"--data.{role}={run.checkpoint}" for role, run in made.items()}
    fits, tests = {}, {}
    for arm in TRAINED:
        for seed in settings.seeds:
            needed = tuple(made.values()) if arm == MIXED else ()
            given = of_role.values() if arm == MIXED else ()
            fit = make(arm, "fit", f"{arm}-seed{seed}", seed, "fit", *given, after=needed)
            fits[arm, seed] = fit
            weights = (*given, f"--ckpt_path={fit.checkpoint}")
            tests[arm, seed, "test"] = make(arm, "test", fit.name, seed, "test", *weights, after=(fit,))
            if arm in settings.with_support:
                beside = (*settings.beside, *of_role.values(), f"--ckpt_path={fit.checkpoint}")
                after = (fit, *made.values())
                tests[arm, seed, "test_redrawn"] = make(
                    arm, "test", fit.name, seed, "test_redrawn", *beside, after=after
                )
    for arm in _untrained(options):
        for seed in settings.seeds if arm != "pixels" else settings.seeds[:1]:  # which has no seed
            name = arm if arm == "pixels" else f"{arm}-seed{seed}"
            tests[arm, seed, "test"] = make(arm, "test", name, seed, "test", after=())
    return Grid(made, fits, tests)


def _untrained(options: argparse.Namespace) -> list[str]:
    return list(_UNTRAINED) if options.full else ["pixels"]


def _configs(
    options: argparse.Namespace, first: Path, policy: Path | None = None, of_generator: bool = False
) -> list[str]:
    """Return the options of a run: its YAML, the data's, the policy's, one device, then what is laid over them."""
    configs = [first, options.data, *([policy] if policy else [])]
    laid_over = [f"--config={path}" for path in lay_over(options.config, of_generator)]
    return [*(f"--config={path}" for path in configs), "--trainer.devices=1", *laid_over]


def _seconds(resolved: Mapping[str, dict[str, Any]], kind: str, version: str) -> float:
    """Return how long a run may take, for a first estimate."""
    if version.startswith("test"):
        kind = "test_redrawn" if version == "test_redrawn" else kind
        config = resolved[kind]
        n = sum(episodes["n_episodes"] for episodes in config["data"]["init_args"]["test"])
        n_batches = _limit(config, "limit_test_batches", n)  # of each shape, but close enough
        n = min(n, n_batches * _AT_ONCE)
        return _START + n * _EPISODE.get(kind, _EPISODE["test"])
    config = resolved[kind]
    per_epoch = config["data"]["init_args"].get("steps_per_epoch") or 100
    epochs = config["trainer"].get("max_epochs") or 1
    epoch = _limit(config, "limit_train_batches", per_epoch) * _STEP["fit" if kind in TRAINED else "generator"]
    if val := config["data"]["init_args"].get("val"):  # episodes
        n_batches = _limit(config, "limit_val_batches", math.ceil(val["n_episodes"] / _AT_ONCE))
        n_images = val["n_way"] * (val["n_shot"] + val["n_query"])
        epoch += min(n_batches * _AT_ONCE, val["n_episodes"]) * n_images * _VALIDATION_IMAGE
    return _START + epochs * epoch


def _limit(config: Mapping[str, Any], option: str, n: int) -> int:
    limit = config["trainer"].get(option)
    if limit is None:
        return n
    return min(n, int(limit)) if limit > 1 else int(n * limit)  # a number or a share
