"""What the commands that compare things write, from runs that a stub has finished.

A change of the engine that changes a table is seen here. `GOLDEN=write pytest tests/test_golden.py` writes them anew.
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
from genmeta.experiments import default_plan, plan
from genmeta.experiments.run import Run
from genmeta.experiments.run_folder import write_run_file
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.meta_module import MetaModule
from genmeta.tasks.elastic import Elastic
from genmeta.tasks.evaluated import Episodes, Support
from genmeta.tasks.redrawn import Redraw

GOLDEN = ROOT / "tests" / "golden"
ARMS = {
    "plain": {"title": "rotations & 100 % real", "policy": ["rotations"]},
    "upright": {"policy": ["real"]},
    "redrawn": {"policy": ["redrawn_quarter"], "options": {"data.train_tasks.share": 0.5}},
    "pixels": {"learner": "configs/baseline/pixels.yaml", "train": False},
}


RESOLVED = """
data:
  init_args:
    test: [{n_way: 5, n_shot: 1, n_episodes: 600}]
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
    found = [{"n_way": 5, "n_shot": 1}, {"n_way": 5, "n_shot": 5}]
    for option in run.args:
        if option.startswith("--data.test="):
            found = yaml.safe_load(option.partition("=")[2])
    return [name_of(**episodes) for episodes in found]


def name_of(n_way: int, n_shot: int, groups: str = "any", support: dict | None = None, **_: object) -> str:
    name = f"{n_way}w{n_shot}s" + ("" if groups == "any" else f"_{groups}")
    return name + (f"+{support['n']}{'redrawn' if support['redraw']['learned'] else 'elastic'}" if support else "")


def checked(needing: str) -> Callable[..., Mock]:
    """Return what stands in for `TrainingCLI`, which takes seconds: only runs with this word need a generator."""

    def check(args: Iterable[str], *_: object, **__: object) -> Mock:
        needs = {"redrawer"} if needing in " ".join(args) else set()
        beside = [Episodes(support=Support(redraw)) for redraw in (Redraw(), Redraw(learned=0.0, elastic=Elastic()))]
        data = Mock(spec=EpisodicDataModule, test=beside, train_shape=EpisodeShape(5, 1, 3), tasks_per_step=4)
        data.samplers = lambda stage: [Mock(needs=needs if stage == "fit" else set())]
        return Mock(datamodule=data, model=Mock(spec=MetaModule), resolved=lambda: RESOLVED, account="")

    return check


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
    monkeypatch.setattr(plan, "check_role", Mock())
    over = {"option": "data.low_data.classes", "values": [30, 100], "title": "real classes"}
    arms = {name: ARMS[name] for name in ("plain", "upright")}
    path = written(tmp_path, **({"over": over, "arms": arms} if kind == "curve" else {}))
    assert compare.compare(["--config", str(path), "--runs", str(tmp_path)]) == 0
    for ending in ("md", "csv", "tex"):
        check(f"compare-{kind}.{ending}", (tmp_path / "four" / f"results.{ending}").read_text(), tmp_path)


def test_experiment(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment, "run_all", finish)
    monkeypatch.setattr(experiment, "checked", checked("protonet.yaml"))
    monkeypatch.setattr(default_plan, "check_role", Mock())
    assert experiment.experiment(["--wandb=off", "--runs", str(tmp_path)]) == 0
    told = re.sub(r"\(\d+ s\)", "(SECONDS)", capsys.readouterr().out)
    check("experiment-told.txt", told, tmp_path)
    (results,) = tmp_path.glob("glyphs-*/001/results.md")
    check("experiment.md", results.read_text(), tmp_path)


@pytest.fixture
def script(monkeypatch) -> Callable[..., ModuleType]:
    """Return what loads a script whose runs are finished by the stub."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))

    def load(name: str, *args: object) -> ModuleType:
        module = importlib.import_module(name)
        monkeypatch.setattr(module, "run_all", finish, raising=False)
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
        found = Mock(datamodule=checked("nothing")(args).datamodule, config={args[0]: Mock(model=model)})
        found.model.learner = any("batch" in option for option in args)
        return found

    monkeypatch.setattr(module, "checked", parts)
    monkeypatch.setattr(module, "roomy_split", lambda *_: [])
    monkeypatch.setattr(module, "depends_on_other_queries", lambda learner, *_: learner)
    module.main()
    check("compare_learners.md", out.read_text(), tmp_path)


def test_compare_generators(script, tmp_path, monkeypatch):
    out = tmp_path / "table.md"
    args = ["--generators", "gan", "vae", "vae_deformation", "--workers", 2, "--runs", tmp_path, "--out", out]
    module = script("compare_generators", *args)
    monkeypatch.setattr(module, "real_images", lambda options: {"fid": 1.5, "recognisability": 0.75})
    monkeypatch.setattr(module, "count_weights", lambda run: 0 if "untrained" in run.name else 1234)
    module.main()
    check("compare_generators.md", out.read_text(), tmp_path)


def test_generator_ages(script, tmp_path):
    out = tmp_path / "table.md"
    args = ["--ages", 0, 200, "--seeds", 0, 1, "--runs", tmp_path, "--out", out, "--", "--data.train_tasks.share=1"]
    script("generator_ages", *args).main()
    check("generator_ages.md", out.read_text(), tmp_path)
