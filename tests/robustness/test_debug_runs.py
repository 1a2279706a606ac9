"""Runs with settings for a check: they lie apart, and whoever shows their numbers says that these mean nothing."""

import json
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from test_compare import PROGRAM
from tracked_runs import Recorded

from genmeta.cli.main import main
from genmeta.experiments import execute
from genmeta.experiments.run_folder import DEBUG_NOTE, RunSettings, lays_debug

DEBUG = str(ROOT / "configs/trainer/debug.yaml")
PROTONET = [
    "--config",
    str(ROOT / "configs/learner/protonet.yaml"),
    "--config",
    str(ROOT / "configs/policy/real_only.yaml"),
]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder as the current one, with the project's configs."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_debug_run_does_not_take_the_number_that_documents_name(elsewhere, monkeypatch, capsys):
    """`runs/…/001` was the run of three steps that the quick start makes first."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["fit", *PROTONET, "--config", DEBUG]) == 0
    said = capsys.readouterr().out
    run = Path("runs/debug/protonet-glyphs/001")
    assert sorted(path.name for path in Path("runs").iterdir()) == ["debug"]
    assert DEBUG_NOTE in said
    assert json.loads((run / "run.json").read_text())["debug"] is True
    recorded = Recorded(run)
    assert "debug" in recorded.run["tags"]
    assert recorded.run["notes"] == DEBUG_NOTE
    assert main(["report", str(run)]) == 0
    assert DEBUG_NOTE in Path("report.html").read_text(encoding="utf-8")
    # tested again by its own configuration, it is still one
    monkeypatch.delenv("GENMETA_RUN_FOLDER")
    args = ["test", f"--config={run}/config.yaml", f"--ckpt_path={run}/checkpoints/best.ckpt", "--run.version=again"]
    assert main([*args, "--run.wandb=off"]) == 0
    assert (run.parent / "again" / "run.json").is_file()


def test_a_folder_that_is_asked_for_is_taken_whatever_the_order(elsewhere):
    assert main(["fit", *PROTONET, "--run.folder=mine", "--config", DEBUG, "--run.wandb=off"]) == 0
    assert Path("mine/protonet-glyphs/001/run.json").is_file()
    assert not Path("runs").exists()


def test_runs_that_are_none_say_nothing(tmp_path):
    assert RunSettings().root == Path("runs")
    assert RunSettings(debug=True).root == Path("runs/debug")
    (tmp_path / "bad.yaml").write_text("run: [")
    assert not lays_debug([ROOT / "configs/trainer/cpu.yaml", tmp_path / "bad.yaml", tmp_path / "none.yaml"])
    assert lays_debug([ROOT / "configs/trainer/cpu.yaml", DEBUG])


def test_a_comparison_of_debug_runs_says_so(elsewhere, monkeypatch, capsys):
    (elsewhere / "program.py").write_text(PROGRAM.replace('"seconds": 2.0', '"seconds": 2.0, "debug": True'))
    monkeypatch.setattr(execute, "GENMETA", (sys.executable, str(elsewhere / "program.py")))
    content = {
        "data": "glyphs",
        "learner": "protonet",
        "seeds": [0],
        "control": "real",
        "budget": [DEBUG],
        "tests": [{"n_way": 5, "n_shot": 1, "n_query": 5, "n_episodes": 20}],
        "arms": {"real": {"policy": ["rotations"]}, "elastic": {"policy": ["elastic"]}},
    }
    Path("small.yaml").write_text(json.dumps(content))
    assert main(["compare", "--config", "small.yaml", "--workers", "1"]) == 0
    assert DEBUG_NOTE in capsys.readouterr().out
    folder = Path("runs/debug/compare/small")
    assert (folder / "results.md").read_text().startswith(f"**{DEBUG_NOTE}**")
    assert json.loads((folder / "results.json").read_text())["debug"] is True
    assert main(["report", str(folder)]) == 0
    assert DEBUG_NOTE in Path("report.html").read_text(encoding="utf-8")
