"""Reads the folders of a report. Writes nothing and opens no checkpoint."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from genmeta.errors import UserError
from genmeta.evaluation.confusion import PER_CLASS
from genmeta.experiments.results import Arm, arm_of_json
from genmeta.experiments.run_folder import CONFIG_FILE, RUN_FILE
from genmeta.experiments.settings import Value
from genmeta.modules.class_files import PER_CLASS_FILE
from genmeta.read_yaml import check_extent

RESULTS_FILE, EXPLORE_FILE = "results.json", "report.json"
_PICTURES = ("*.png", "*.jpg", "*.jpeg")


@dataclass(frozen=True)
class Run:
    """A folder of `genmeta fit`, `validate` or `test`.

    Attributes:
        path: of the folder.
        label: its name on the page.
        config: the resolved configuration.
        summary: `run.json`; empty if the run is not finished.
        lightning: version of Lightning, if the configuration names it.
        arm: of the run, in a comparison.
        column: heading where one seed stands for all: the arm, with the value of the axis.
    """

    path: Path
    label: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    lightning: str = ""
    arm: str = ""
    column: str = ""

    @property
    def finished(self) -> bool:
        """Whether it ran to its end."""
        return bool(self.summary)

    @property
    def recorded(self) -> Path:
        """Its folder when it ran, by which other runs name it."""
        run = self.config.get("run") or {}
        return Path(str(run.get("folder")), str(run.get("name")), str(run.get("version") or self.path.name))

    @cached_property
    def metrics(self) -> dict[str, list[tuple[float, float]]]:
        """Steps and values of each column of `metrics.csv`. In an unfinished run the last line may be cut off."""
        columns: dict[str, list[tuple[float, float]]] = {}
        path = self.path / "metrics.csv"
        if not path.is_file():
            return columns
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    step, value = _number(row.get("step")), _number(text)
                    if name not in (None, "epoch", "step") and step is not None and value is not None:
                        columns.setdefault(name, []).append((step, value))
        return columns

    @cached_property
    def classes(self) -> dict[str, list[dict[str, str]]]:
        """Rows of `per_class.csv`, by kind of test episodes; none if the file is missing or has another form."""
        rows: dict[str, list[dict[str, str]]] = {}
        path = self.path / PER_CLASS_FILE
        if path.is_file():
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                for row in csv.DictReader(file):
                    if set(PER_CLASS) <= row.keys() and _number(row["accuracy"]) is not None:
                        rows.setdefault(row["episodes"], []).append(row)
        return rows

    @property
    def pictures(self) -> list[Path]:
        """Its pictures, without the curves, which the page draws itself."""
        return [path for path in pictures_in(self.path / "pictures") if path.stem != "curves"]


@dataclass(frozen=True)
class Experiment:
    """A folder of `genmeta experiment` or `genmeta compare`.

    Attributes:
        path: of the folder.
        results: `results.json`; empty if it is not finished.
        points: arms by name, by value of the axis (None without an axis); empty if it is not finished.
        fits, tests: the runs that still exist, by label (`mixed-seed0`, or `mixed, seed 0`).
    """

    path: Path
    results: Mapping[str, Any]
    points: Mapping[Value, Mapping[str, Arm]] = field(default_factory=dict)
    fits: Mapping[str, Run] = field(default_factory=dict)
    tests: Mapping[str, Run] = field(default_factory=dict)

    @property
    def is_comparison(self) -> bool:
        """Whether there are results of arms by seeds, or only single runs."""
        return bool(self.results)

    @property
    def runs(self) -> list[Run]:
        """All runs."""
        return [*self.fits.values(), *self.tests.values()]


@dataclass(frozen=True)
class Exploration:
    """A folder of `genmeta explore`; `content` is its `report.json`."""

    path: Path
    content: Mapping[str, Any]


Folder = Run | Experiment | Exploration


def read_folder(path: Path) -> Folder:
    """Return the content of a folder.

    Raises:
        UserError: it is no folder of a run, or a file in it cannot be read.
    """
    if not path.is_dir():
        raise UserError(f"RUN: {path} is {'no folder' if path.exists() else 'not there'}; give a run folder")
    if (path / CONFIG_FILE).is_file():
        return read_run(path, path.resolve().name)
    if (path / RESULTS_FILE).is_file():
        return _finished(path, read_json(path / RESULTS_FILE))
    if (path / EXPLORE_FILE).is_file():
        return Exploration(path, read_json(path / EXPLORE_FILE))
    unfinished = _unfinished(path)
    if unfinished.runs:
        return unfinished
    raise UserError(
        f"RUN: {path} has none of {CONFIG_FILE} (a run), {RESULTS_FILE} (an experiment) and {EXPLORE_FILE} "
        "(an exploration); give a folder such as runs/<name>/<version>"
    )


def read_run(path: Path, label: str) -> Run:
    """Return a run.

    Raises:
        UserError: its configuration or summary cannot be read.
    """
    config_path = path / CONFIG_FILE
    check_extent(config_path)
    try:
        text = config_path.read_text(encoding="utf-8")
        config = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"RUN: {config_path} cannot be read ({_first_line(error)})") from error
    if not isinstance(config, dict):
        raise UserError(f"RUN: {config_path} is no configuration: it has no options")
    summary = read_json(path / RUN_FILE) if (path / RUN_FILE).is_file() else {}
    first = text.split("\n", 1)[0]
    return Run(path, label, config, summary, first.partition("lightning.pytorch==")[2].strip())


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's content.

    Raises:
        UserError: it cannot be read, or is no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"RUN: {path} cannot be read ({_first_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"RUN: {path} is no object of JSON")
    return content


def explorations_in(path: Path) -> Iterator[Exploration]:
    """Yield the explorations in a folder (`genmeta explore --out RUN/explore`)."""
    for file in sorted(path.glob(f"*/{EXPLORE_FILE}")):
        yield Exploration(file.parent, read_json(file))


def pictures_in(path: Path) -> list[Path]:
    """Return the pictures of a folder, by name."""
    return sorted(file for pattern in _PICTURES for file in path.glob(pattern) if file.is_file())


def _finished(path: Path, results: dict[str, Any]) -> Experiment:
    """Return a finished experiment or comparison, with those of its runs that still exist."""
    entries = results.get("points") if results.get("kind") == "curves" else [results]
    if not isinstance(entries, list) or not all(_has_arms(entry) for entry in entries):
        raise UserError(f"RUN: {path / RESULTS_FILE} has no arms with accuracies; is it of another program?")
    points: dict[Value, dict[str, Arm]] = {}
    runs_of: dict[str, dict[str, Run]] = {"fits": {}, "tests": {}}
    for entry in entries:
        value = entry.get("value")
        arms = points[value] = {name: arm_of_json(content) for name, content in entry["arms"].items()}
        for name, arm in arms.items():
            column = name if value is None else f"{name} at {value}"
            for kind, runs in runs_of.items():
                folders = getattr(arm, kind)
                if not _is_texts(folders):
                    raise UserError(f"RUN: {path / RESULTS_FILE} does not name the runs of arm {name} by their seeds")
                for seed, folder in folders.items():
                    if not (path / folder).resolve().is_relative_to(path.resolve()):
                        raise UserError(f"RUN: {path / RESULTS_FILE} names a run outside of its folder: {folder}")
                    if (path / folder / CONFIG_FILE).is_file():  # runs may have been removed to save space
                        label = f"{column}, seed {seed}"
                        runs[label] = replace(read_run(path / folder, label), arm=name, column=column)
    return Experiment(path, results, points, **runs_of)


def _has_arms(point: Any) -> bool:
    arms = point.get("arms") if isinstance(point, dict) else None
    return isinstance(arms, dict) and all(
        isinstance(a, dict) and isinstance(a.get("accuracies"), dict) for a in arms.values()
    )


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _unfinished(path: Path) -> Experiment:
    """Return the runs two folders down, where experiments and comparisons have them."""
    fits: dict[str, Run] = {}
    tests: dict[str, Run] = {}
    for arm in sorted(file for file in path.iterdir() if file.is_dir()):
        for config in sorted(arm.glob(f"*/{CONFIG_FILE}")):
            folder, version = config.parent, config.parent.name
            # in an experiment the version is `fit` or `test`, in a comparison a hash
            runs = tests if version == "test" or arm.name.endswith("-test") else fits
            label = arm.name
            runs[label if label not in runs else f"{label} {version}"] = read_run(folder, label)
    return Experiment(path, {}, {}, fits, tests)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except (TypeError, ValueError):
        return None
    return value if isfinite(value) else None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
