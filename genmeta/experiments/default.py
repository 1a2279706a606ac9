"""The settings of `genmeta experiment`: its options laid over `configs/compare/default.yaml`."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from genmeta.errors import UserError
from genmeta.experiments.checks import Check, needed_roles
from genmeta.experiments.run_options import options_of_arm
from genmeta.experiments.settings import ROLES, CompareSettings, read_settings
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.read_yaml import check_extent
from genmeta.shipped import config_file

_OF_EPISODES = {"train", "val", "test", "train_tasks", "tasks_per_step", "tasks_per_eval_batch", "test_part"}
_OF_ALL = {"source", "split", "low_data"}  # options of the data that all runs share
_WAYS = "model.learner.n_way"  # outputs of an arm's network: one for each class of an episode


def default_settings(options: argparse.Namespace, check: Check) -> CompareSettings:
    """Return the default comparison, with the data, learner, policy, … that a command names.

    Its test episodes are those of the learner's YAML, or of what is laid over it.

    Args:
        options: `data`, `learner`, `policy`, `generator`, `redrawer` (paths), `seed`, `n_seeds`, `full`, `config`.
        check: makes the parts of a run, or says why it cannot.

    Raises:
        UserError: an option is wrong.
    """
    for_generators = [config for config in options.config if not _says_episodes(config)]

    def laid_over(settings: CompareSettings) -> CompareSettings:
        subject: dict[str, Any] = dict(settings.arms[settings.subject])
        if options.policy:  # `config` is laid over the policy too
            subject["policy"] = [str(options.policy), *options.config]
        return replace(
            settings,
            data=str(options.data),
            learner=str(options.learner),
            generator=str(options.generator),
            redrawer=str(options.redrawer),
            arms={**settings.arms, settings.subject: subject},
            seeds=list(range(options.seed, options.seed + options.n_seeds)),
            generator_seed=options.seed,
            budget=[*settings.budget, *options.config],
            generator_budget=[*settings.generator_budget, *for_generators],
        )

    path = config_file(Path("configs", "compare", "default_full.yaml" if options.full else "default.yaml"))
    settings = read_settings(path, laid_over)
    parts = check(["fit", *options_of_arm(settings, settings.arms[settings.subject])], set_up=False)
    data = parts.datamodule
    if not isinstance(data, EpisodicDataModule):
        raise UserError(f"--learner: {options.learner} has no episodes")
    needed = needed_roles(data, "fit", "test")
    parts_of_tasks = [options.policy] if options.policy else []
    parts_of_tasks += [getattr(options, role) for role in ROLES if role in needed]
    name = "-".join(config.stem for config in (options.data, options.learner, *parts_of_tasks))
    settings = replace(settings, name=name, tests=[asdict(episodes) for episodes in data.test])
    one_shot = any(episodes.n_shot == 1 for episodes in data.test)
    arms = {
        name: replace(arm, options={**arm.options, _WAYS: _ways(data)}) if _WAYS in arm.options else arm
        for name, arm in settings.arms.items()
        if not arm.support or ("redrawer" in needed and one_shot)  # else there is nothing to draw, or no such test
    }
    return replace(settings, arms=arms)


def _ways(data: EpisodicDataModule) -> int:
    ways = sorted({episodes.n_way for episodes in data.test})
    if len(ways) > 1:
        raise UserError(
            f"--full: a network from scratch has as many outputs as episodes have classes, but those of "
            f"data.test have n_way {', '.join(map(str, ways))}; make them equal, or leave --full out"
        )
    return ways[0]


def _says_episodes(config: str) -> bool:
    """Whether a YAML sets episodes (`data.val`, `data.test`). If so, it is not laid over a generator's run.

    Raises:
        UserError: it also sets what generators must share.
    """
    check_extent(Path(config))
    try:
        content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        data = content.get("data") or {}
        options = set(data.get("init_args", data))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, TypeError, RecursionError):
        return False  # the error is told when it is laid over a run
    if not options & _OF_EPISODES:
        return False
    shared = sorted((set(content) - {"data", "model"}) | {f"data.{name}" for name in options & _OF_ALL})
    if shared:
        raise UserError(
            f"--config: {config} sets episodes (data.{min(options & _OF_EPISODES)}), which a generator's run does "
            f"not have, and {', '.join(shared)}, which all runs share; put these into a YAML of their own"
        )
    return True
