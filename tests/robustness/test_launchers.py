"""Processes that torchrun or srun starts: one run folder, one job, one moment at which all stop."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE, ROOT, free_port

from genmeta.errors import UserError
from genmeta.experiments import run_folder
from genmeta.experiments.run_folder import RunSettings, claim_run_folder
from genmeta.models.checkpoint import read_checkpoint

FIT = [
    *("-m", "genmeta", "fit", "--config=configs/learner/protonet.yaml", "--config=configs/policy/real_only.yaml"),
    *("--data.tasks_per_step=2", "--data.steps_per_epoch=20", "--data.val.n_episodes=10"),
    *("--run.wandb=off", "--run.name=run"),
]
ON_CPUS = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.num_nodes=1"]


def job(monkeypatch, **environment: str) -> None:
    for name in [*os.environ]:
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("GENMETA_RUN_FOLDER", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_all_processes_of_a_job_get_the_folder_that_the_first_makes(tmp_path, monkeypatch):
    settings = RunSettings(name="run", folder=str(tmp_path))
    srun = {"SLURM_NTASKS": "8", "SLURM_JOB_ID": "77"}
    job(monkeypatch, **srun, SLURM_PROCID="0", SLURM_LOCALID="0")
    folder = claim_run_folder(settings)
    assert folder == tmp_path / "run" / "slurm-77"
    job(monkeypatch, **srun, SLURM_PROCID="5", SLURM_LOCALID="1")
    assert claim_run_folder(settings) == folder
    job(monkeypatch, **srun, SLURM_PROCID="0", SLURM_RESTART_COUNT="1")
    assert claim_run_folder(settings).name == "slurm-77-1", "a requeued job must not meet its own folder"
    job(monkeypatch, TORCHELASTIC_RUN_ID="abc", WORLD_SIZE="2", RANK="0", LOCAL_RANK="0")
    assert claim_run_folder(settings).name == "torchrun-abc"
    job(monkeypatch, SLURM_JOB_ID="77", SLURM_PROCID="0", SLURM_NTASKS="1")
    assert claim_run_folder(settings).name == "001", "one process in a job is as one outside"


def test_processes_without_a_common_name_are_told_what_to_give(tmp_path, monkeypatch):
    job(monkeypatch, TORCHELASTIC_RUN_ID="none", WORLD_SIZE="2", RANK="1", LOCAL_RANK="1")
    with pytest.raises(UserError, match=r"--run\.version, or torchrun --standalone"):
        claim_run_folder(RunSettings(folder=str(tmp_path)))
    monkeypatch.setattr(run_folder, "_PATIENCE", 0.2)
    with pytest.raises(UserError, match="the first process has not made"):
        claim_run_folder(RunSettings(folder=str(tmp_path), version="x"))


@pytest.mark.slow  # test_processes.py has two processes that Lightning starts
def test_torchrun(tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    args = [*torchrun, *FIT, "--config=configs/trainer/ddp.yaml", "--trainer.max_epochs=1", f"--run.folder={tmp_path}"]
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("*/*")
    summary = json.loads((folder / "run.json").read_text())
    assert (summary["steps"], summary["device"][:3]) == (20, "2 ×")


@pytest.mark.slow
def test_srun_told_to_stop_at_one_process_stops_all_with_a_checkpoint(tmp_path):
    """What a cluster does when it takes machines back, which processes hear of at different steps."""
    port = free_port()
    processes = []
    for rank in "01":
        environment = {
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NAME": "train",
            "SLURM_NTASKS": "2",
            "SLURM_NTASKS_PER_NODE": "2",
            "SLURM_NODELIST": "127.0.0.1",
            "SLURM_NODEID": "0",
            "SLURM_PROCID": rank,
            "SLURM_LOCALID": rank,
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        args = [*FIT, "--config=configs/trainer/slurm.yaml", *ON_CPUS, "--trainer.max_epochs=1000"]
        processes.append(
            subprocess.Popen(
                [sys.executable, *args, f"--run.folder={tmp_path}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={**os.environ, **environment},
            )
        )
    first, second = processes
    try:
        assert "epoch 1/1000" in first.stdout.readline(), first.stderr.read()
        second.send_signal(signal.SIGTERM)
        errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], errors
    finally:
        for process in processes:
            process.kill()
    assert "told to stop (SIGTERM)" in errors[0]
    last = Path(tmp_path, "run", "slurm-77", "checkpoints", "last.ckpt")
    assert read_checkpoint(last)["global_step"] >= 20
