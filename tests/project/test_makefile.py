"""What make does with variables."""

import os
import subprocess

import pytest
from conftest import ROOT


def make(*args: str) -> subprocess.CompletedProcess[str]:
    # as from a shell, also where `make test` runs this: MAKELEVEL alone has make say which directory it enters
    of_make = ("ARGS", "MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS")
    env = {name: value for name, value in os.environ.items() if name not in of_make}
    return subprocess.run(["make", "-n", *args], cwd=ROOT, capture_output=True, text=True, check=False, env=env)


@pytest.mark.parametrize(
    ("given", "near"),
    [("LERNER=maml", "LEARNER"), ("seed=1", "SEED"), ("CHKPT=x", "CKPT"), ("GEN=gan", "GENERATOR")],
)
def test_an_unknown_variable_is_an_error_with_the_nearest_name(given, near):
    """LERNER=maml trained a ProtoNet."""
    done = make("meta-train", given)
    assert done.returncode == 2
    assert f"unknown variable {given.split('=')[0]} (did you mean {near}?); there are PYTHON, " in done.stderr
    assert done.stdout == ""


def test_where_there_is_no_python_the_variable_is_still_refused():
    done = make("setup", "PYTHON=no-such-python", "LERNER=maml")
    assert done.returncode == 2
    assert "unknown variable LERNER; there are PYTHON" in done.stderr


def test_known_variables_arrive():
    done = make("meta-train", "LEARNER=maml", "SEED=3", "TORCH_INDEX=x", "PYTHON=python3", "ARGS=--wandb off")
    assert done.returncode == 0, done.stderr
    assert "experiment --data glyphs --learner maml" in done.stdout
    assert "--seed 3 --wandb off" in done.stdout


def test_the_variable_of_a_single_target_is_known():
    """RUNS has no default."""
    assert make("challenge", "RUNS=all_runs.zip", "RUN=runs/a/001").returncode == 0


def test_explore_and_audit_leave_the_default_to_the_command():
    for target in ("explore", "audit"):
        assert "--ckpt" not in make(target).stdout
        assert "--ckpt some.ckpt" in make(target, "CKPT=some.ckpt").stdout
