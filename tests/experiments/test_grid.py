"""The runner of tables: what is finished is not run again, and what failed is told and stops only what needs it."""

import fcntl
import os
import sys

import pytest
from conftest import ROOT

from genmeta.errors import UserError
from genmeta.experiments import execute, warm
from genmeta.experiments.labels import labelled, version_of
from genmeta.experiments.run import Run

# stands in for genmeta: writes its run file, unless it is told to fail, and records that it ran
PROGRAM = """
import os, pathlib, sys, time
from genmeta.experiments.run_folder import write_run_file
args = dict(a.removeprefix("--").split("=", 1) for a in sys.argv[2:])
folder = pathlib.Path(args["run.folder"], args["run.name"], args["run.version"])
folder.mkdir(parents=True)
assert os.environ["OMP_NUM_THREADS"] == "1"
log = pathlib.Path(args["run.folder"], "log")
with log.open("a") as file:
    file.write(args["run.name"] + "\\n")
if "meet" in args:  # wait for another one that runs at the same time
    end = time.monotonic() + 600
    while log.read_text().count("meet") < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
if "fail" in args:
    sys.exit("genmeta: error: a reason")
write_run_file(folder, {"seconds": 60, "metrics": args})
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return [sys.executable, str(tmp_path / "program.py")]


def names(tmp_path):
    return (tmp_path / "log").read_text().split() if (tmp_path / "log").exists() else []


def test_runs_wait_for_those_they_need_and_are_not_repeated(program, tmp_path, capsys):
    fit = Run("fit", ("fit", "--a=1"), str(tmp_path))
    test = Run("test", ("test", f"--ckpt_path={fit.checkpoint}"), str(tmp_path), after=(fit,))
    other = Run("other", ("fit", "--a=2"), str(tmp_path))
    assert execute.run_all([test, other, fit], 1, program) == []
    assert names(tmp_path) == ["other", "fit", "test"]
    assert test.summary["metrics"]["ckpt_path"] == str(fit.folder / "checkpoints" / "best.ckpt")
    out = capsys.readouterr().out
    # one run of 60 s done: the others are expected to take as long
    assert "other: done (1 of 3, about 2 min left)" in out
    assert "test: done (3 of 3)" in out
    (other.folder / "run.json").unlink()  # as if stopped in the middle: the folder is there
    assert execute.run_all([test, other, fit], 1, program) == []
    assert names(tmp_path) == ["other", "fit", "test", "other"]
    assert "3 runs, 2 finished before" in capsys.readouterr().out


def test_labels_reach_the_command_and_do_not_make_it_another_run(program, tmp_path):
    plain = Run("fit", ("fit", "--a=1"), str(tmp_path))
    test = Run("test", ("test",), str(tmp_path), after=(plain,))
    runs = labelled([plain, test], "mine/1", {plain: "real"}, {"real": "real only"}, "--run.group=mine")
    assert runs == [plain, test]
    assert [run.folder for run in runs] == [plain.folder, test.folder]
    assert version_of(runs) == version_of([test, plain]) != version_of([plain])
    assert execute.run_all(runs, 1, program) == []
    assert plain.finished, "it waits for the same run, and is found by it"
    told = {"run.experiment": "mine/1", "run.group": "mine"}
    of_arm = {"run.arm": "real", "run.arm_title": "real only"}
    assert (told | of_arm).items() <= plain.summary["metrics"].items()
    assert told.items() <= test.summary["metrics"].items()
    assert not of_arm.keys() & test.summary["metrics"].keys()


def test_a_failed_run_is_told_and_stops_only_what_needs_it(program, tmp_path, capsys):
    bad = Run("bad", ("fit", "--fail=1"), str(tmp_path))
    after = Run("after", ("test",), str(tmp_path), after=(bad,))
    good = Run("good", ("fit",), str(tmp_path))
    assert execute.run_all([bad, after, good], 2, program) == [bad, after]
    assert sorted(names(tmp_path)) == ["bad", "good"]
    captured = capsys.readouterr()
    assert "bad: FAILED" in captured.out
    assert captured.err.strip() == "genmeta: error: a reason"


def test_runs_share_the_time(program, tmp_path):
    runs = [Run(f"meet{i}", ("fit", "--meet=1"), str(tmp_path)) for i in range(2)]  # each waits for the other
    assert execute.run_all(runs, 2, program) == []


def test_another_option_or_another_value_in_a_yaml_is_another_run_and_another_comment_is_not(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: 1")
    first = Run("x", ("fit", f"--config={path}"), str(tmp_path)).folder
    path.write_text("# a comment\na:   1  # and another\n")
    assert Run("x", ("fit", f"--config={path}"), str(tmp_path)).folder == first
    path.write_text("a: 2")
    folders = {first, *(Run("x", args, "").folder for args in (("fit", f"--config={path}"), ("fit", "--b=1")))}
    assert len(folders) == 3


def test_a_summary_that_is_half_written_is_of_a_run_that_is_not_finished(tmp_path, capsys):
    """Bug: a grid that looked at such a run, of another grid's, ended with an error; a damaged one is told still."""
    half, whole = (Run(name, ("fit",), str(tmp_path)) for name in ("half", "whole"))
    for run, text in ((half, '{"seconds": 1'), (whole, '{"seconds": 1}')):
        run.folder.mkdir(parents=True)
        (run.folder / "run.json").write_text(text)
        with run.lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert run.running
            assert run.finished == (run is whole)
        assert not run.running
        assert run.finished
    with pytest.raises(UserError, match=r"run\.json: cannot be read .* run it again"):
        execute.run_all([half, whole], 1, ["no-such-program"])


@pytest.mark.slow  # test_experiment.py has a run by a process of its own that goes on in its folder
def test_runs_of_genmeta_land_where_they_are_looked_for(tmp_path, monkeypatch, capsys):
    """Two begin by forks of a process that has loaded the libraries, one by a process of its own, with one result."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)  # which is not where the tests were begun
    args = ("test", "--config=configs/baseline/pixels.yaml", "--config=configs/trainer/debug.yaml", "--run.wandb=off")
    forked, alone = (Run("pixels", args, name) for name in ("forked", "alone"))
    bad = Run("bad", ("test", "--config=configs/baseline/pixels.yaml", "--data.nothing=1"), "forked")
    assert execute.run_all([forked, bad], 1) == [bad]
    captured = capsys.readouterr()
    assert captured.err.startswith("genmeta: error: unknown option 'data.nothing'")
    assert "test/acc" not in captured.out
    assert not forked.running
    assert not bad.running
    assert execute.run_all([alone], 1) == []
    assert forked.summary["metrics"] == alone.summary["metrics"]
    assert forked.summary["episode_accuracies"] == alone.summary["episode_accuracies"]


def test_what_has_not_begun_when_a_grid_is_interrupted_does_not_begin(tmp_path):
    """Else a run that waits for the libraries to be loaded would begin after Ctrl-C, with nobody to stop it."""
    with warm.Warm() as forks, (tmp_path / "lock").open("w") as file:
        with forks.begin(["test", f"--run.folder={tmp_path}"], {}, file.fileno()) as run:
            forks.stop()
            run.terminate()
            assert run.communicate() == ("", "genmeta: error: the process that begins the runs has ended\n")
        with forks.begin([], {}, file.fileno()) as later:
            assert later.communicate()[1].startswith("genmeta: error: the process")


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs Linux")
def test_a_run_can_be_told_to_stop(tmp_path):
    """By the grid that is interrupted. What it is a fork of has no threads, which may hold locks for ever."""
    args = ["fit", f"--config={ROOT}/configs/learner/protonet.yaml", f"--config={ROOT}/configs/policy/real_only.yaml"]
    args += [f"--run.folder={tmp_path}", "--run.name=a", "--run.wandb=off", "--trainer.max_epochs=1000"]
    with warm.Warm() as forks, (tmp_path / "lock").open("w") as file:
        with forks.begin(args, {**os.environ}, file.fileno()) as run:
            parent = forks._process.pid
            assert run._pid() != parent
            assert len(os.listdir(f"/proc/{parent}/task")) == 1
            run.terminate()
            run.communicate()
        assert not (tmp_path / "a" / "001" / "run.json").exists()
