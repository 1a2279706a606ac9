"""The episodes of an experiment: said once, by the learner's YAML or what is laid over it, and used by all arms."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from genmeta.errors import UserError
from genmeta.read_yaml import check_extent

_OF_EPISODES = {"train", "val", "test", "train_tasks", "tasks_per_step", "tasks_per_eval_batch", "test_part"}
_OF_ALL = {"source", "split", "low_data"}  # options of data that a generator's run must share


def lay_over(configs: Iterable[str], of_generator: bool) -> list[str]:
    """Return the YAMLs that are laid over a run: those that say episodes (`data.val`, `data.test`) not over a
    generator's, which has none.

    Raises:
        UserError: one says episodes and what generators must share as well.
    """
    return [config for config in configs if not (_says_episodes(config) and of_generator)]


def _says_episodes(config: str) -> bool:
    check_extent(Path(config))
    try:
        content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
        data = content.get("data") or {}
        options = set(data.get("init_args", data))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, TypeError, RecursionError):
        return False  # which is told when it is laid over a run
    if not options & _OF_EPISODES:
        return False
    shared = sorted((set(content) - {"data", "model"}) | {f"data.{name}" for name in options & _OF_ALL})
    if shared:
        raise UserError(
            f"--config: {config} says episodes (data.{min(options & _OF_EPISODES)}), which the generator's run has "
            f"not, and {', '.join(shared)}, which all runs share; put these into a YAML of their own"
        )
    return True


def episodes_of(of_learner: Mapping[str, Any], arm: str) -> list[str]:
    """Return the options by which an arm that is not trained is tested on the episodes of the learner.

    Args:
        of_learner: its resolved options of `data`.
        arm: `from_scratch`, whose network has as many outputs as the episodes have classes, or another.

    Raises:
        UserError: it cannot be tested on all of them.
    """
    options = [f"--data.test={json.dumps(of_learner['test'])}"]
    if arm != "from_scratch":
        return options
    ways = sorted({episodes["n_way"] for episodes in of_learner["test"]})
    if len(ways) > 1:
        raise UserError(
            f"--full: a network from scratch has as many outputs as episodes have classes, but those of "
            f"data.test have n_way {', '.join(map(str, ways))}; make them equal, or leave --full out"
        )
    return [*options, f"--model.learner.init_args.n_way={ways[0]}"]


def beside_support(beside: Path, of_learner: Mapping[str, Any]) -> list[str]:
    """Return the options of the tests with generated support images: the one-shot tests of the learner, each with what
    a YAML of `configs/test` puts beside the support image; none if the learner has no such test.
    """
    wanted = yaml.safe_load(beside.read_text(encoding="utf-8"))["data"]["init_args"]["test"]
    one_shot = [episodes for episodes in of_learner["test"] if episodes["n_shot"] == 1]
    tests = [{**episodes, "support": entry["support"]} for episodes in one_shot for entry in wanted]
    return [f"--data.test={json.dumps(tests)}"] if tests else []
