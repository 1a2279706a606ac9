"""More faults of machines, as real ones: killed with a bank and an adaptive schedule, trackers, disks, clocks."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from test_faults import SMALL_LEARNER, begin, fit, metrics

from genmeta.models.checkpoint import read_checkpoint

BANK = """
data:
  init_args:
    train_tasks:
      class_path: genmeta.tasks.mixed.MixedTasks
      init_args:
        real: {class_path: genmeta.tasks.real.RealTasks}
        latent:
          class_path: genmeta.tasks.bank.BankedTasks
          init_args:
            tasks:
              class_path: genmeta.tasks.latent.LatentTasks
              init_args:
                policy: {class_path: genmeta.tasks.policies.RandomOther, init_args: {alpha: 0.3}}
                separation: 0.1
            episodes: 8
            refresh: 25
        share: {class_path: genmeta.tasks.share.Adaptive, init_args: {start: 0.4, change: 0.1}}
        per: class
"""
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mount"), reason="mounting a small disk needs root"
)


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = (read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@contextmanager
def small_disk(folder: Path, size: str):
    """A disk of its own; skips the test without the right to make one."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_killed_with_a_bank_and_an_adaptive_schedule(tmp_path, generator, seed):
    """The bank's period and the share go on as in a run that nothing disturbed."""
    (tmp_path / "bank.yaml").write_text(BANK)
    small = [arg for arg in SMALL_LEARNER if "real_only" not in arg]
    args = [*small, f"--config={tmp_path / 'bank.yaml'}", f"--data.generator={generator}"]
    assert fit(tmp_path / "whole", *args) == 0
    undisturbed = tmp_path / "whole" / "run" / "001"
    with begin(tmp_path, *args) as process:
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                break
        time.sleep(random.Random(seed).uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    run = tmp_path / "run" / "001"
    assert fit(tmp_path, f"--config={run}/config.yaml", f"--ckpt_path={run}/checkpoints/last.ckpt") == 0
    resumed = tmp_path / "run" / "002"
    assert same_weights(resumed, undisturbed)
    numbers, expected = metrics(resumed), metrics(undisturbed)
    assert {key: expected[key] for key in numbers} == numbers
    shares = [value for (_, name), value in sorted(numbers.items()) if name == "train/latent_share"]
    assert len(set(shares)) > 1, "the schedule must have changed"


def test_a_dead_tracker_does_not_stop_the_training(tmp_path):
    """The process that W&B writes by is killed in mid-run."""
    command = [sys.executable, "-m", "genmeta", "fit", *SMALL_LEARNER, "--run.wandb=offline", "--run.name=run"]
    command += ["--trainer.devices=1", "--trainer.accelerator=cpu", f"--run.folder={tmp_path}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    killed = []
    # not the service of another run of the tests
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_SERVICE")}
    with subprocess.Popen(command, **pipes, env=env) as process:
        for line in process.stdout:
            if line.startswith("epoch 1/"):
                break
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                if "wandb-core" in status.read_text().splitlines()[0] and belongs_to(status.parent, process.pid):
                    os.kill(int(status.parent.name), signal.SIGKILL)
                    killed.append(status.parent.name)
            except OSError:
                continue
        output, error = process.communicate(timeout=120)
    assert killed
    assert process.returncode == 0, error
    assert "Traceback" not in error, error
    assert "epoch 6/6" in output
    assert (tmp_path / "run" / "001" / "run.json").is_file()
    assert any(name == "val/acc" and int(step) > 200 for step, name in metrics(tmp_path / "run" / "001"))


def belongs_to(process: Path, parent: int) -> bool:
    """Whether a process descends from another."""
    pid = int(process.name)
    while pid > 1:
        if pid == parent:
            return True
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        pid = int(next(line for line in lines if line.startswith("PPid")).split()[1])
    return False


@needs_root
def test_a_run_folder_that_cannot_be_written(tmp_path):
    """Read-only from the start: told before training. In mid-run: told, and what was written is whole."""
    with small_disk(tmp_path / "disk", "50m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with begin(disk, *SMALL_LEARNER) as process:
            output, error = process.communicate(timeout=120)
        assert process.returncode == 2, error
        assert "epoch 1/" not in output
        assert f"genmeta: error: run.folder: cannot make {disk}" in error, error
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        with begin(disk, *SMALL_LEARNER, "--trainer.max_epochs=1000") as process:
            for line in process.stdout:
                if line.startswith("epoch 2/"):
                    break
            # a remount is refused while a file is being written
            end = time.monotonic() + 30
            while subprocess.run(["mount", "-o", "remount,ro", disk], capture_output=True).returncode:
                assert time.monotonic() < end
            _, error = process.communicate(timeout=120)
        assert process.returncode == 2, error
        assert "genmeta: error: " in error
        assert "Traceback" not in error, error
        assert "go on with: genmeta fit" in error
        for path in (disk / "run").rglob("[a-z]*.ckpt"):
            read_checkpoint(path)


@pytest.mark.slow
@needs_root
def test_a_disk_that_is_full_while_the_data_are_prepared(tmp_path):
    """No half table is left that a later run would take for a whole one."""
    with small_disk(tmp_path / "disk", "300k") as disk:
        env = {**os.environ, "GENMETA_CACHE": str(disk)}
        command = [sys.executable, "-m", "genmeta", "fit", *SMALL_LEARNER, "--run.wandb=off", "--trainer.max_epochs=1"]
        command += [f"--run.folder={tmp_path}"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 2, done.stderr
        assert f"genmeta: error: cache folder {disk}: cannot write" in done.stderr
        assert "No space left" in done.stderr
        assert "Traceback" not in done.stderr
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr


JUMPING = """
import itertools, time
_time, _count = time.time, itertools.count()
time.time = lambda: _time() + 86400 * (-1) ** next(_count)  # a day on, a day back, at every look
"""


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    """Python's own clock in a process of its own; the machine's is left alone."""
    (tmp_path / "sitecustomize.py").write_text(JUMPING)
    assert fit(tmp_path / "whole", *SMALL_LEARNER, "--trainer.max_epochs=2") == 0
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    with begin(tmp_path, *SMALL_LEARNER, "--trainer.max_epochs=2") as process:
        output, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    jumped, undisturbed = (folder / "run" / "001" for folder in (tmp_path, tmp_path / "whole"))
    assert same_weights(jumped, undisturbed)
    assert metrics(jumped) == metrics(undisturbed)
    assert 0 < float((jumped / "run.json").read_text().split('"seconds":')[1].split(",")[0]) < 120
    assert "-" not in output.split("val/acc")[0]


def test_control_c_says_how_to_go_on(tmp_path):
    # programs that a shell has put into the background ignore it
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with begin(tmp_path, *SMALL_LEARNER, "--trainer.max_epochs=1000", **heard) as process:
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                break
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error, error
    assert "go on with: genmeta fit" in error
    read_checkpoint(tmp_path / "run" / "001" / "checkpoints" / "last.ckpt")
