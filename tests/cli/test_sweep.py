"""Sweeps without an account, sending of offline runs, and dashboards: scripts/sweep.py, sync.py, dashboard.py."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, slow_but

from genmeta.cli.training import TrainingCLI
from genmeta.errors import UserError

SWEEPS = sorted((ROOT / "configs" / "sweep").glob("*.yaml"))

# stands in for genmeta: a score with its best at x = 0.3, and a line in a log
PROGRAM = """
import pathlib, sys
from genmeta.experiments.run_folder import write_run_file
args = dict(a.removeprefix("--").split("=", 1) for a in sys.argv[2:])
folder = pathlib.Path(args["run.folder"], args["run.name"], args["run.version"])
with pathlib.Path(args["run.folder"], "log").open("a") as file:
    file.write("x\\n")
if args.get("x") == args.get("fail", "none"):
    sys.exit("genmeta: error: a reason")
folder.mkdir(parents=True)
score = 1 - (float(args["x"]) - 0.3) ** 2
write_run_file(folder, {"seconds": 1, "metrics": {"val/acc": 0}, "best": {"val/acc": score}})
"""


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its dataclasses look for what they name
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


@pytest.fixture(scope="module")
def sweep():
    sys.path.insert(0, str(ROOT / "scripts"))
    yield load("sweep")
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture
def run_sweep(sweep, tmp_path, monkeypatch):
    """Runs a sweep over x with the program above; returns the exit code and the rows of its table."""
    (tmp_path / "program.py").write_text(PROGRAM)
    run_all = sweep.run_all
    program = [sys.executable, str(tmp_path / "program.py")]
    monkeypatch.setattr(sweep, "run_all", lambda runs, workers: run_all(runs, workers, program))

    def run(content: dict, *more: str):
        command = ["${interpreter}", "-m", "${program}", "fit", "${args}"]
        metric = {"name": "val/acc", "goal": "maximize"}
        (tmp_path / "try.yaml").write_text(yaml.safe_dump({"metric": metric, "command": command, **content}))
        code = sweep.main([str(tmp_path / "try.yaml"), f"--runs={tmp_path}", *more])
        rows = json.loads((tmp_path / "try" / "trials.json").read_text())["trials"] if code < 2 else []
        n_run = len((tmp_path / "log").read_text().splitlines()) if (tmp_path / "log").exists() else 0
        return code, rows, n_run

    return run


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_sweeps_that_ship_name_options_that_exist(sweep, path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("GENMETA_GENERATOR", "some.ckpt")
    content = sweep.read_sweep(path)
    if content["method"] != "grid":
        pytest.importorskip("optuna")
    first = next(sweep.suggestions(path, content))
    chosen = first[1]
    args = sweep.expand(content["command"], [f"--{name}={value}" for name, value in chosen.items()], [])
    config = TrainingCLI(list(args), check_only=True, set_up=False).config
    for name, value in chosen.items():
        if name.endswith(("share", "alpha", "sigma", "inner_lr")):
            assert str(value) in str(config), f"{name} did not arrive"


def test_a_grid_runs_all_names_the_best_and_runs_nothing_twice(run_sweep, capsys):
    content = {"method": "grid", "parameters": {"x": {"values": [0.1, 0.3, 0.5]}, "y": {"value": "a"}}}
    code, rows, n_run = run_sweep(content, "--workers=2")
    assert (code, n_run) == (0, 3)
    assert rows[0]["parameters"] == {"x": 0.3, "y": "a"}
    assert "Best val/acc 1.0000: --x=0.3 --y=a" in capsys.readouterr().out
    assert run_sweep(content)[2] == 3, "finished trials were run again"


@pytest.mark.parametrize("method", slow_but(["bayes"], ["random", "bayes"]))
def test_a_stopped_search_goes_on_the_same_with_any_number_of_workers(run_sweep, method):
    pytest.importorskip("optuna")
    content = {"method": method, "parameters": {"x": {"min": 0.0, "max": 1.0}}}
    _, first, n_run = run_sweep({**content, "run_cap": 5}, "--workers=2")
    assert n_run == 5
    _, rows, n_run = run_sweep({**content, "run_cap": 8}, "--workers=1")
    assert n_run == 8, "trials of before were run again, or others suggested"
    tried = [row["parameters"]["x"] for row in rows]
    assert {row["parameters"]["x"] for row in first} <= set(tried)
    assert len(set(tried)) == 8


def test_a_failed_trial_is_in_the_table_and_the_others_go_on(run_sweep):
    code, rows, _ = run_sweep({"method": "grid", "parameters": {"x": {"values": [0.1, 0.5]}}}, "--", "--fail=0.1")
    assert code == 1
    assert [row["score"] is None for row in rows] == [False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": {"name": "test/acc_5w1s", "goal": "maximize"}}, "never on test classes"),
        ({"method": "bayes"}, "set run_cap"),
        ({"method": "guess"}, "grid, random, bayes"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate cannot be done here"),
        ({"parameters": {"x": {"min": 0, "max": 1}}}, r"parameters\.x: a grid needs values"),
        ({"parameters": {"x": {"mu": 0}}}, r"parameters\.x"),
        ({"command": ["python", "train.py"]}, "command must begin with"),
        ({"command": ["${interpreter}", "-m", "${program}", "${args}", "${envvar:GENMETA_GENERATOR}"]}, "CKPT="),
    ],
)
def test_wrong_sweeps_are_told_before_anything_runs(run_sweep, monkeypatch, capsys, change, message):
    monkeypatch.delenv("GENMETA_GENERATOR", raising=False)
    code, _, n_run = run_sweep({"method": "grid", "parameters": {"x": {"values": [1]}}, **change})
    assert (code, n_run) == (2, 0)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(UserError, match=message):
        raise UserError(error)


@pytest.fixture
def without_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def test_online_needs_an_account(sweep, without_account, capsys):
    assert sweep.main([str(ROOT / "configs" / "sweep" / "inner_lr.yaml"), "--online"]) == 2
    assert "no W&B account" in capsys.readouterr().err


def offline_run(runs: Path, number: int, *, sent: bool) -> Path:
    folder = runs / "name" / "001" / "wandb" / f"offline-run-2026010{number}_000000-abc{number}"
    folder.mkdir(parents=True)
    (folder / f"run-abc{number}.wandb").touch()
    if sent:
        (folder / f"run-abc{number}.wandb.synced").touch()
    return folder


def test_sync_sends_what_was_not_sent_and_says_what_it_would_do(tmp_path, without_account, monkeypatch, capsys):
    sync = load("sync")
    assert sync.main([f"--runs={tmp_path}"]) == 0
    assert "nothing to send" in capsys.readouterr().out
    offline_run(tmp_path, 1, sent=True)
    waiting = offline_run(tmp_path, 2, sent=False)
    assert sync.main([f"--runs={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "1 offline runs" in error
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    commands = []

    class Done:
        returncode = 0

    monkeypatch.setattr(sync.subprocess, "run", lambda command: commands.append(command) or Done)
    assert sync.main([f"--runs={tmp_path}"]) == 0
    (command,) = commands
    assert command[-1] == str(waiting)
    assert not any("abc1" in word for word in command)


def test_the_dashboard_is_written_where_it_cannot_be_saved(tmp_path, without_account, capsys):
    pytest.importorskip("wandb_workspaces")
    dashboard = load("dashboard")
    assert dashboard.main([f"--out={tmp_path}"]) == 0
    assert "make dashboard saves both" in capsys.readouterr().out
    workspace, report = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("workspace", "report"))
    sections = workspace["spec"]["section"]["panelBankConfig"]["sections"]
    assert list(dashboard.SECTIONS) == [section["name"] for section in sections][: len(dashboard.SECTIONS)]
    written = json.dumps(workspace)
    for panels in dashboard.SECTIONS.values():
        for panel in panels:
            assert all(json.dumps(key) in written or key in written for key in panel.keys), panel
    assert set(dashboard.IN_REPORT) <= set(dashboard.SECTIONS)
    assert "val/acc" in json.dumps(report)
