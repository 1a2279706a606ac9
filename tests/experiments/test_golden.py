"""What the commands that compare things write, from runs that a stub has finished.

A change of the engine that changes a table is seen here. `GOLDEN=write pytest tests/experiments/test_golden.py`
writes them anew.
"""

import importlib
import os
import random
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import pytest
import yaml
from conftest import ROOT

from genmeta.cli import compare, experiment
from genmeta.episode import EpisodeShape
from genmeta.experiments import checks
from genmeta.experiments.run import Run
from genmeta.experiments.run_folder import write_run_file
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.meta_module import MetaModule
from genmeta.tasks.elastic import Elastic
from genmeta.tasks.evaluated import Episodes, Support
from genmeta.tasks.redrawn import Redraw

GOLDEN = ROOT / "tests" / "experiments" / "golden"
ARMS = {
    "plain": {"title": "rotations & 100 % real", "policy": ["rotations"]},
    "upright": {"policy": ["real"]},
    "redrawn": {"policy": ["redrawn_quarter"], "options": {"data.train_tasks.share": 0.5}},
    "pixels": {"learner": "configs/baseline/pixels.yaml", "train": False},
}


BY_DEFAULT = (Episodes(5, 1), Episodes(5, 5))

RESOLVED = """
data:
  init_args:
    val: {n_way: 5, n_shot: 1, n_query: 15, n_episodes: 9}
trainer: {max_epochs: 2}
"""


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.chdir(ROOT)


def finish(runs: Iterable[Run], *_: object, **__: object) -> list[Run]:
    """Stand in for `run_all`: what a run finds follows from its name; it takes 1,000 s for each letter of that."""
    for run in runs:
        label = f"{run.name} {run.version}"
        content = {"seconds": 1000.0 * len(run.name), "commit": "c0ffee", "steps": 700, "episodes": {}}
        content["split"] = {"name": "toy", "hash": "0123"}
        content |= generator_report(label)
        if run.args[0] == "fit":
            content["best"] = {"val/acc": random.Random(label).randrange(76) / 75}
        if run.args[0] == "test":
            names = episodes_of(run)
            content["episodes"] = {f"test/{name.partition('+')[0]}": name[:2] * 4 for name in names}
            rng = random.Random(label)
            content["episode_accuracies"] = {name: [rng.randrange(76) / 75 for _ in range(40)] for name in names}
        run.folder.mkdir(parents=True, exist_ok=True)
        write_run_file(run.folder, content)
    return []


def generator_report(label: str) -> dict:
    rng = random.Random(f"report of {label}")
    names = ("fid", "kid", "coverage", "recognisability", "spread", "collapsed")
    return {"report": {name: round(10 * rng.random(), 4) for name in names}, "features": "a network"}


def episodes_of(run: Run) -> list[str]:
    """Return the names of the test episodes that a run's options ask for; those of ProtoNet's YAML by default."""
    given = [option.partition("=")[2] for option in run.args if option.startswith("--data.test=")]
    return [e.name for e in ([episodes_of_entry(**one) for one in yaml.safe_load(given[0])] if given else BY_DEFAULT)]


def checked(needing: str, need: str = "redrawer") -> Callable[..., Mock]:
    """Return what stands in for `TrainingCLI`, which takes seconds: only trainings with this word in their options, and
    not as real tasks only, need a generator.
    """

    def check(args: Iterable[str], *_: object, **__: object) -> Mock:
        given = " ".join(map(str, args))
        trained = needing in given and "configs/policy/real_only" not in given and "configs/policy/elastic" not in given
        tests = [option.partition("=")[2] for option in given.split(" --") if option.startswith("data.test=")]
        episodes = [episodes_of_entry(**one) for one in yaml.safe_load(tests[0])] if tests else list(BY_DEFAULT)
        tested = {"redrawer"} if any(e.support and e.support.redraw.learned for e in episodes) else set()
        data = Mock(spec=EpisodicDataModule, test=episodes, train_shape=EpisodeShape(5, 1, 3), tasks_per_step=4)
        data.samplers = lambda stage: [Mock(needs={need} if stage == "fit" and trained else tested)]
        return Mock(datamodule=data, model=Mock(spec=MetaModule), resolved=lambda: RESOLVED, account="")

    return check


def episodes_of_entry(support: dict | None = None, **entry: object) -> Episodes:
    if support is None:
        return Episodes(**entry)
    redraw = support["redraw"]
    elastic = Elastic() if "elastic" in redraw else None
    return Episodes(**entry, support=Support(Redraw(learned=redraw["learned"], elastic=elastic)))


def check(name: str, text: str, tmp_path: Path) -> None:
    text = re.sub(r"/[0-9a-f]{10}\b", "/HASH", text.replace(str(tmp_path), "TMP"))
    text = re.sub(r"\d+\.\d{8,}", lambda found: f"{float(found[0]):.8f}", text)  # last digits are the machine's
    path = GOLDEN / name
    if os.environ.get("GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


def written(folder: Path, **changes: object) -> Path:
    content = {"data": "glyphs", "learner": "protonet", "seeds": [0, 1], "control": "plain", "arms": ARMS}
    content["tests"] = [
        {"n_way": 5, "n_shot": 1, "n_query": 15, "n_episodes": 40},
        {"n_way": 20, "n_shot": 1, "n_query": 5, "n_episodes": 40, "groups": "within"},
    ]
    path = folder / "four.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
    return path


@pytest.mark.parametrize("kind", ["table", "curve"])
def test_compare(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "run_all", finish)
    monkeypatch.setattr(compare, "checked", checked("redrawn_quarter"))
    monkeypatch.setattr(checks, "_check_generator", lambda *_: Mock(resolved=lambda: RESOLVED))
    over = {"option": "data.low_data.classes", "values": [30, 100], "title": "real classes"}
    arms = {name: ARMS[name] for name in ("plain", "upright")}
    path = written(tmp_path, **({"over": over, "arms": arms} if kind == "curve" else {}))
    assert compare.compare(["--config", str(path), "--runs", str(tmp_path)]) == 0
    for ending in ("md", "csv", "tex"):
        check(f"compare-{kind}.{ending}", (tmp_path / "four" / f"results.{ending}").read_text(), tmp_path)


def test_experiment(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment, "run_all", finish)
    monkeypatch.setattr(experiment, "checked", checked("protonet.yaml"))
    monkeypatch.setattr(checks, "_check_generator", lambda *_: Mock(resolved=lambda: RESOLVED))
    assert experiment.experiment(["--wandb=off", "--runs", str(tmp_path)]) == 0
    told = re.sub(r"\(\d+ s\)", "(SECONDS)", capsys.readouterr().out)
    check("experiment-told.txt", told, tmp_path)
    (results,) = tmp_path.glob("glyphs-*/001/results.md")
    check("experiment.md", results.read_text(), tmp_path)
    assert results.with_name("results.png").is_file(), "arms with other kinds of episodes than the rest have their row"


@pytest.fixture
def script(monkeypatch) -> Callable[..., ModuleType]:
    """Return what loads a script whose runs are finished by the stub."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))

    def load(name: str, *args: object) -> ModuleType:
        monkeypatch.setattr(importlib.import_module("table_of_runs"), "run_all", finish)
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        return module

    return load


def test_compare_learners(script, tmp_path, monkeypatch):
    out = tmp_path / "table.md"
    args = ["--learners", "protonet", "maml", "--baselines", "pixels", "--shapes", "5w1s", "20w1s_within"]
    args += ["--seeds", 0, 1, "--workers", 2, "--images", 48_000]
    module = script("compare_learners", *args, "--runs", tmp_path, "--out", out)

    def parts(args: list[str], **_: object) -> Mock:
        of_maml = {"n_way": 5, "query_statistics": "batch"} if "maml" in " ".join(args) else {}
        model = Mock(init_args=Mock(learner={"init_args": of_maml}))
        found = Mock(datamodule=checked("nothing")(args).datamodule, config=Mock(model=model))
        found.model.learner = any("batch" in option for option in args)
        return found

    rows = importlib.import_module("learner_rows")
    monkeypatch.setattr(rows, "checked", parts)
    monkeypatch.setattr(module, "roomy_split", lambda *_: [])
    monkeypatch.setattr(rows, "depends_on_other_queries", lambda learner, *_: learner)
    module.main()
    check("compare_learners.md", out.read_text(), tmp_path)


def test_compare_generators(script, tmp_path, monkeypatch):
    out = tmp_path / "table.md"
    args = ["--generators", "gan", "vae", "vae_deformation", "--workers", 2, "--runs", tmp_path, "--out", out]
    module = script("compare_generators", *args)
    monkeypatch.setattr(module, "checked", Mock())
    monkeypatch.setattr(module, "metrics_of_real", lambda data: {"fid": 1.5, "recognisability": 0.75})
    monkeypatch.setattr(module, "identity", lambda options: {"fid": 0.25, "recognisability": 1.0, "spread": 0.0})
    monkeypatch.setattr(module, "drawing", lambda run: ("0", "") if "untrained" in run.name else ("1,234", "56"))
    module.main()
    check("compare_generators.md", out.read_text(), tmp_path)


def test_generator_ages(script, tmp_path, monkeypatch):
    out = tmp_path / "table.md"
    module = script("generator_ages", "--runs", tmp_path, "--out", out)
    monkeypatch.setattr(module, "checked", checked("random_other", "decoder"))
    monkeypatch.setattr(checks, "_check_generator", lambda *_: Mock(resolved=lambda: RESOLVED))
    module.main()
    check("generator_ages.md", out.read_text(), tmp_path)
