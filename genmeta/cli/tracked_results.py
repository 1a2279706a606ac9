"""The W&B run of a comparison or an experiment itself: its sentence, its table of arms, its paired differences."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from math import isfinite
from pathlib import Path
from typing import Any

from genmeta.cli.labels import LONGEST_TAG
from genmeta.cli.lineage import describe_inputs, log_inputs, log_results
from genmeta.cli.tracking import tracking
from genmeta.experiments.results import Arm, Difference, arm_of_json
from genmeta.experiments.run_folder import RunSettings

ARMS = ("arm", "title", "value", "episodes", "accuracy", "ci95_episodes", "ci95_seeds", "seeds", "is_control")
DIFFERENCES = ("arm", "title", "value", "control", "control_title", "episodes", "difference")
_MORE = [one.name for one in fields(Difference) if one.name not in (*DIFFERENCES, "shape", "of_seeds")]


def track_results(run: RunSettings, folder: Path, learners: Mapping[str, Path], artifacts: bool = True) -> None:
    """Send `results.json` to W&B as `tables/arms`, `tables/differences` and the picture, with the answer first in the
    run's notes. Sent again, they go to the same W&B run.

    Args:
        run: how it is tracked; its `experiment` is the name and the version.
        folder: of the comparison.
        learners: the compared checkpoints, by name; those that were removed are left out.
        artifacts: register the learners as artifacts too, not only in the configuration.
    """
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    name, _, version = str(run.experiment).partition("/")
    tags = [f"{key}:{value}"[:LONGEST_TAG] for key, value in (("experiment", name), ("version", version))]
    with tracking(run, folder, "compare", tags) as experiment:
        if experiment is None:
            return
        import wandb

        learners = {label: path for label, path in learners.items() if path.is_file()}
        known = {key: results.get(key) for key in ("data", "learner", "control", "seeds", "part", "split", "commit")}
        inputs = {"inputs": describe_inputs(learners)}
        experiment.config.update({"experiment": name, "experiment_version": version, **known, **inputs})
        if artifacts:
            log_inputs(experiment, learners)
        notes = (experiment.notes, results.get("answer"), results.get("sentence"))
        experiment.notes = "\n".join(text for text in notes if text) or None
        experiment.summary["answer"] = results.get("answer")
        tables = {
            "tables/arms": wandb.Table(columns=list(ARMS), data=list(arm_rows(results))),
            "tables/differences": wandb.Table(columns=[*DIFFERENCES, *_MORE], data=list(difference_rows(results))),
        }
        picture = folder / "results.png"
        experiment.log(tables | ({"pictures/results": wandb.Image(str(picture))} if picture.is_file() else {}))
        files = [folder / f"results.{ending}" for ending in ("md", "json")]
        log_results(experiment, name, *files)


def arm_rows(results: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Yield a row of `ARMS` for each arm, value of the axis and kind of episodes of a results.json."""
    for value, arms in _points(results):
        for name, arm in arms.items():
            for shape in arm.shapes:
                middle, over_episodes = arm.over_episodes(shape)
                halves = [half if isfinite(half) else None for half in (over_episodes, arm.over_seeds(shape)[1])]
                n_seeds = 1 if arm.once else len(arm.accuracies[shape])
                yield [name, arm.title, value, shape, middle, *halves, n_seeds, name == results.get("control")]


def difference_rows(results: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Yield a row of `DIFFERENCES` and the other fields of `Difference` for each comparison of a results.json."""
    titles = {name: arm.title for _, arms in _points(results) for name, arm in arms.items()}
    for one in results["comparisons"]:
        names = [one["arm"], titles[one["arm"]], one.get("value"), one["control"], titles[one["control"]]]
        yield [*names, one["shape"], one["difference"], *(one[name] for name in _MORE)]


def _points(results: Mapping[str, Any]) -> list[tuple[float | None, dict[str, Arm]]]:
    points = results.get("points") or [{"value": None, "arms": results["arms"]}]
    return [(at["value"], {name: arm_of_json(arm) for name, arm in at["arms"].items()}) for at in points]
