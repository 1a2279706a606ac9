"""`genmeta experiment`: killed at any moment and begun again, what it says, and what can be done with its folders."""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import PATIENCE, ROOT
from test_compare import PROGRAM as COMPARED
from test_compare import written

from genmeta.cli.experiment import _parse
from genmeta.cli.main import main
from genmeta.cli.training import checked
from genmeta.experiments import execute
from genmeta.experiments.checks import check_comparison
from genmeta.experiments.default import default_settings
from genmeta.experiments.progress import seconds_left
from genmeta.experiments.run import Run
from genmeta.experiments.settings import read_settings
from genmeta.models.checkpoint import read_checkpoint

DEBUG = "configs/trainer/debug.yaml"

# stands in for genmeta; what a test finds follows from its options but for paths; the seventh and later wait for the
# file GO, if there is such a variable
PROGRAM = """
import json, os, pathlib, random, sys, time
command, *given = sys.argv[1:]
args = {}
for name, value in (a.removeprefix("--").split("=", 1) for a in given):
    args.setdefault(name, []).append(value)
folder = pathlib.Path(args["run.folder"][-1], args["run.name"][-1], args["run.version"][-1])
log = pathlib.Path(sys.argv[0]).with_name("log")
with log.open("a") as file:
    file.write(f"{folder}\\n")
folder.mkdir(parents=True)
go = pathlib.Path(os.environ.get("GO", sys.argv[0]))
while not go.exists() and log.read_text().count("\\n") >= 7:
    time.sleep(0.02)
time.sleep(0.05)
(folder / "checkpoints").mkdir()
(folder / "checkpoints" / "best.ckpt").touch()
content = {"seconds": time.time() % 100, "commit": "c0ffee", "split": {"name": "toy", "hash": "0123"}, "episodes": {}}
if command == "test":
    [tests] = args["data.test"]
    names = ["5w1s", "5w5s"]
    if "redraw" in tests:
        names = ["5w1s+30elastic"] if "elastic" in tests else ["5w1s+30redrawn"]
    content["episodes"] = {f"test/{name.partition('+')[0]}": name[:4] for name in names}
    rng = random.Random(str([folder.parent.name, folder.name]))
    content["episode_accuracies"] = {name: [rng.randrange(76) / 75 for _ in range(40)] for name in names}
(folder / "run.json").write_text(json.dumps(content))
"""

DRIVER = """
import sys
from genmeta.experiments import execute
from genmeta.cli.main import main
execute.GENMETA = (sys.executable, sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    monkeypatch.setattr(execute, "GENMETA", (sys.executable, str(path)))
    return path


def arguments(runs: Path) -> list[str]:
    return ["experiment", "--config", DEBUG, "--wandb", "off", "--workers", "2", "--runs", str(runs)]


def test_killed_and_begun_again_repeats_nothing_and_writes_the_same_table(tmp_path, program, capsys):
    """SIGKILL in the middle. Bug: all began anew, in another folder."""
    log = tmp_path / "log"
    driver = [sys.executable, "-c", DRIVER, str(program), *arguments(tmp_path / "killed")]
    with subprocess.Popen(driver, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL) as process:
        wait_for_runs(log, 7, process)
        process.send_signal(signal.SIGKILL)
    assert main(arguments(tmp_path / "killed")) == 0
    told = capsys.readouterr().out
    assert "where the same experiment was stopped" in told
    assert "22 runs, 0 finished before" not in told
    assert log.read_text().count("\n") <= 22 + 2, "only what was running may be run again"
    log.unlink()
    assert main(arguments(tmp_path / "whole")) == 0
    killed, whole = (tmp_path / which / "glyphs-protonet-vae_deformation" / "001" for which in ("killed", "whole"))
    assert (killed / "results.md").read_bytes() == (whole / "results.md").read_bytes()
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (killed, whole))
    for arm in (*ours["arms"].values(), *theirs["arms"].values()):
        arm.pop("training_seconds")  # by the clock
    assert ours["arms"] == theirs["arms"]
    assert ours["comparisons"] == theirs["comparisons"]

    # nothing is tested twice, and what takes long and tells little is left to --full
    assert len(set(log.read_text().split())) == log.read_text().count("\n") == 1 + 8 + 8 + 2 * 2 + 1
    text = (whole / "results.md").read_text()
    for row in ("real only, a quarter deformed", "real only, all deformed", "real only, with rotations"):
        assert re.search(rf"\| {row} +\| \d+\.\d\d ± \d", text)
        assert re.search(rf"5w1s: with the generator - {row} = .* seed 0 [+-]\d.*, seed 1 [+-]\d", text)
    assert "from scratch" not in text
    assert main(["report", str(whole), "--out", str(tmp_path / "report.html")]) == 0


@pytest.mark.slow
def test_a_finished_experiment_is_made_again_in_another_folder(tmp_path, program):
    for _ in range(2):
        assert main(arguments(tmp_path)) == 0
    whole = tmp_path / "glyphs-protonet-vae_deformation" / "001"
    assert (whole.with_name("002") / "results.md").is_file()


STANDING_IN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what was begun in the background ignores it
if {{"experiment", "compare"}} & set(sys.orig_argv):
    from genmeta.experiments import execute
    execute.GENMETA = (sys.executable, {program!r})
"""
"""A module that Python loads when it starts."""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["experiment", "compare"])
def test_what_ctrl_c_prints_goes_on_when_it_is_pasted(tmp_path, command):
    """Into a shell, as it is; what is finished is not run again. That of `fit`: test_machine_faults.py."""
    program, runs = tmp_path / "program.py", tmp_path / "runs with a blank"
    program.write_text(PROGRAM if command == "experiment" else COMPARED)
    args = arguments(runs)
    if command == "compare":
        args = ["compare", "--config", str(written(tmp_path)), "--workers", "2", "--runs", str(runs)]
    log = tmp_path / "log" if command == "experiment" else runs / "three" / "log"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(STANDING_IN.format(program=str(program)))
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": path, "GO": str(tmp_path / "go")}
    begin = [sys.executable, "-m", "genmeta", *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(begin, cwd=ROOT, env=env, **pipes) as process:
        wait_for_runs(log, 5, process)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130, error
    told = re.search(r"^genmeta: interrupted; go on with: (.*)$", error, flags=re.M)
    n_begun = log.read_text().count("\n")
    (tmp_path / "go").touch()
    done = subprocess.run(told[1], shell=True, cwd=ROOT, env=env, timeout=PATIENCE, check=False, **pipes)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+ runs, [1-9]\d* finished before", done.stdout, flags=re.M), done.stdout
    n_runs = int(re.search(r"^(\d+) runs, ", done.stdout, flags=re.M)[1])
    assert n_begun < n_runs <= log.read_text().count("\n") <= n_runs + 2, "only what was running may be run again"


def wait_for_runs(log: Path, n: int, process: subprocess.Popen) -> None:
    """Wait until so many have begun."""
    end = time.monotonic() + PATIENCE
    while not log.is_file() or log.read_text().count("\n") < n:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


def test_all_arms_are_trained_alike(monkeypatch):
    """What differs between arms is what their tasks are made of; else a difference is no merit of the generator."""
    monkeypatch.chdir(ROOT)
    found = check_comparison(default_settings(_parse(["--wandb=off"]), checked), checked)
    own = {"train_tasks", "generator", "redrawer"}
    alike = []
    for arm in (name for name, of_name in found.settings.arms.items() if of_name.train):
        config = yaml.safe_load(found.parts[arm].resolved())
        data = {name: value for name, value in config["data"]["init_args"].items() if name not in own}
        alike.append({**config, "config": None, "data": data})
    assert len(alike) == 4
    assert alike[0]["data"]["tasks_per_step"] > 0
    assert all(config == alike[0] for config in alike)


def test_the_full_comparison_is_the_default_one_and_more():
    """Two YAMLs that say the same must not part."""
    default, full = (
        read_settings(ROOT / "configs" / "compare" / f"{name}.yaml") for name in ("default", "default_full")
    )
    assert default.arms.items() <= full.arms.items()
    extra = full.arms.keys() - default.arms.keys()
    assert extra == {"from_scratch", *(name for name in full.arms if full.arms[name].of not in ("", "mixed"))}
    assert set(default.controls) <= set(full.controls)
    assert not any("redrawn" in name for name in full.controls), "these use the generator at their tests"
    assert replace(full, arms=default.arms, name=default.name, controls=default.controls) == default


def test_what_a_command_names_is_laid_over_the_default_comparison(monkeypatch):
    """The policy is that of the arm with the generator; without a redrawer nothing is generated beside the support."""
    monkeypatch.chdir(ROOT)
    options = ["--policy", "interpolation", "--learner", "maml", "--seed", "3", "--n_seeds", "1", "--full"]
    found = default_settings(_parse([*options, "--config", DEBUG]), checked)
    assert (found.name, found.seeds, found.generator_seed) == ("glyphs-maml-interpolation-vae", [3], 3)
    assert found.arms["mixed"].policy == ["configs/policy/interpolation.yaml", DEBUG]
    assert {Path(arm.learner).stem for arm in found.arms.values() if arm.train} == {"maml"}
    assert not [name for name, arm in found.arms.items() if arm.support]
    assert DEBUG in found.budget
    assert DEBUG in found.generator_budget
    assert found.arms["from_scratch"].options == {"model.learner.n_way": 5}


def test_other_settings_are_another_experiment(tmp_path, program, monkeypatch):
    monkeypatch.setattr("genmeta.cli.experiment.run_all", lambda runs, workers: runs)  # as if all failed
    runs = tmp_path / "glyphs-protonet-vae_deformation"
    for more in ([], ["--full"]):
        assert main([*arguments(tmp_path), *more]) == 1
    assert sorted(folder.name for folder in runs.iterdir()) == ["001", "002"]


def test_time_left_plays_the_rest_through():
    """Two at a time; what others wait for first; finished ones took twice as long as expected."""
    first = Run("first", ("fit",), "", expected=10)
    second = Run("second", ("fit",), "", after=(first,), expected=30)
    others = [Run(f"other{i}", ("fit",), "", expected=20) for i in range(2)]
    runs = [first, second, *others]
    assert seconds_left(runs, {}, {}, 2) == 40  # first, other0; then second from 10 to 40, other1 from 20 to 40
    assert seconds_left(runs, {"first": 20.0}, {}, 2) == 80
    assert seconds_left(runs, {"first": 20.0}, {"second": 50.0, "other0": 60.0}, 2) == 40
    assert seconds_left([Run("x", ("fit",), "")], {}, {}, 2) is None


def test_a_training_goes_on_in_its_folder(tmp_path, monkeypatch):
    """The grid's run of a fit that was killed: same weights and numbers, and metrics.csv has all of them."""
    monkeypatch.chdir(ROOT)
    more = ("--trainer.max_epochs=3", "--run.wandb=off", "--data.steps_per_epoch=10", "--data.val.n_episodes=20")
    more += ("--trainer.devices=1",)
    args = ("fit", "--config=configs/learner/protonet.yaml", "--config=configs/policy/real_only.yaml", *more)
    whole = Run("whole", args, str(tmp_path), version="fit")
    assert main([*args, f"--run.folder={tmp_path}", "--run.name=whole", "--run.version=fit"]) == 0
    monkeypatch.delenv("GENMETA_RUN_FOLDER")
    killed = Run("killed", args, str(tmp_path), version="fit")
    where = [f"--run.folder={tmp_path}", "--run.name=killed", "--run.version=fit"]
    begin = [sys.executable, "-m", "genmeta", *args, *where]
    with subprocess.Popen(begin, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                process.send_signal(signal.SIGKILL)
    assert not killed.finished
    assert execute.run_all([killed], 1) == []
    ours, theirs = (read_checkpoint(run.checkpoint.with_name("last.ckpt")) for run in (killed, whole))
    assert all((ours["state_dict"][name] == value).all() for name, value in theirs["state_dict"].items())
    numbers, expected = ((run.folder / "metrics.csv").read_text() for run in (killed, whole))
    rows = [line for line in expected.splitlines() if line not in numbers.splitlines()]
    assert len(rows) <= 1, "the mean of the epoch after whose validation it was killed"
    assert (killed.folder / "config.yaml").read_text().count("ckpt_path: null") == 1


@pytest.mark.slow  # a minute or two
def test_a_real_experiment_killed_at_several_moments_and_its_folders(tmp_path):
    """From nothing to the table, processes and all; then commands of docs/swap.md on its folders, as printed."""
    base = [sys.executable, "-m", "genmeta", *arguments(tmp_path / "whole"), "--n_seeds", "1"]
    done = subprocess.run(base, capture_output=True, text=True, timeout=2 * PATIENCE, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "one seed: undecided until `genmeta compare`" in done.stdout
    whole = tmp_path / "whole" / "glyphs-protonet-vae_deformation" / "001"
    for path in re.findall(r"^(?:checkpoints|redrawer|episodes)\s+(\S+?\.\w+)", done.stdout, flags=re.M):
        assert Path(path).is_file(), path
    for row in ("with the generator", "real only, with", "real only, all", "nearest neighbour"):
        assert re.search(rf"\| {row}.* \d+\.\d\d ± \d+\.\d\d +\| \d+\.\d\d ± \d+\.\d\d", done.stdout)
    again = [word.replace(str(tmp_path / "whole"), str(tmp_path / "killed")) for word in base]
    for moment in range(3):
        with subprocess.Popen(again, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True) as process:
            seen = 0
            for line in process.stdout:
                seen += ": done (" in line
                if seen > moment:
                    break
            time.sleep(random.Random(moment).uniform(0, 5))
            os.killpg(process.pid, signal.SIGKILL)
    done = subprocess.run(again, capture_output=True, text=True, timeout=2 * PATIENCE, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    killed = tmp_path / "killed" / "glyphs-protonet-vae_deformation" / "001"
    assert (killed / "results.md").read_bytes() == (whole / "results.md").read_bytes()

    generator = tmp_path / "whole" / "vae_deformation-glyphs" / "001" / "checkpoints" / "best.ckpt"
    swap = (ROOT / "docs" / "swap.md").read_text()
    for what in ("continue a run that was stopped", "more support images at meta-test"):
        [row] = [line for line in swap.splitlines() if line.startswith(f"| {what}")]
        command = re.search(r"`(genmeta [^`]*)`", row)[1]
        command = command.replace("RUN/", f"{whole}/mixed-seed0/fit/").replace("CHECKPOINT", str(generator))
        words = [sys.executable, "-m", *shlex.split(command), "--config", DEBUG]
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT)
        assert done.returncode == 0, done.stderr
    assert (whole / "mixed-seed0" / "001" / "run.json").is_file()
    assert (whole / "mixed-seed0" / "002" / "run.json").is_file()
