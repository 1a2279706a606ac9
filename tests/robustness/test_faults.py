"""What goes wrong with machines, as real faults: killed, told to stop, damaged files, full disks, dead workers, NaN."""

import contextlib
import csv
import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import PATIENCE, ROOT, slow_but

from genmeta.cli.faults import what_happened
from genmeta.cli.main import main
from genmeta.errors import UserError
from genmeta.models.checkpoint import read_checkpoint
from genmeta.modules.checkpoints import whole_checkpoint

SMALL_LEARNER = [
    *("--config=configs/learner/protonet.yaml", "--config=configs/policy/real_only.yaml"),
    *("--data.tasks_per_step=1", "--data.steps_per_epoch=40", "--data.val.n_episodes=10", "--trainer.max_epochs=6"),
]
SMALL_GAN = [
    *("--config=configs/generator/gan_classic.yaml", "--data.feature_steps=2", "--data.batch_size=16"),
    *("--trainer.limit_train_batches=20", "--trainer.max_epochs=4"),
]
SMALL_VAE = [
    *("--config=configs/generator/vae.yaml", "--data.feature_steps=2", "--data.batch_size=16"),
    *("--model.importance_samples=2", "--trainer.limit_train_batches=20", "--trainer.max_epochs=4"),
]
ALWAYS = ["--run.wandb=off", "--run.name=run", "--trainer.devices=1", "--trainer.accelerator=cpu"]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def fit(folder: Path, *args: str) -> int:
    os.environ.pop("GENMETA_RUN_FOLDER", None)
    return main(["fit", *args, *ALWAYS, f"--run.folder={folder}"])


def begin(folder: Path, *args: str, held: bool = False) -> subprocess.Popen:
    """Begin a training; one that is held does not end before it is told to stop."""
    program = [str(ROOT / "tests" / "helpers" / "held.py")] if held else ["-m", "genmeta"]
    command = [sys.executable, *program, "fit", *args, *ALWAYS, f"--run.folder={folder}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(command, **pipes, env=env)


def metrics(run: Path) -> dict[tuple[str, str], str]:
    """All numbers of a run's metrics.csv by step and name."""
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {(row["step"], name): value for row in rows for name, value in row.items() if name != "step" and value}


@pytest.fixture(scope="module")
def whole(request, tmp_path_factory) -> tuple[list[str], Path]:
    """Options of a training, and the folder of a run that nothing disturbed."""
    narrow = "--model.learner.init_args.backbone.init_args.hidden=8"
    args = {"learner": [*SMALL_LEARNER, narrow], "gan": SMALL_GAN, "vae": SMALL_VAE}[request.param]
    folder = tmp_path_factory.mktemp("whole")
    here = Path.cwd()
    os.chdir(ROOT)
    assert fit(folder, *args) == 0
    os.chdir(here)
    return args, folder / "run" / "001"


@pytest.mark.parametrize(
    ("whole", "told"),
    [
        pytest.param("learner", signal.SIGTERM, id="learner-terminated", marks=pytest.mark.slow),
        pytest.param("learner", signal.SIGKILL, id="learner-killed"),
        pytest.param("gan", signal.SIGTERM, id="gan-terminated", marks=pytest.mark.slow),
        pytest.param("gan", signal.SIGKILL, id="gan-killed", marks=pytest.mark.slow),
        pytest.param("vae", signal.SIGTERM, id="vae-terminated", marks=pytest.mark.slow),
        pytest.param("vae", signal.SIGKILL, id="vae-killed", marks=pytest.mark.slow),
    ],
    indirect=["whole"],
)
def test_stopped_at_any_moment_and_resumed_equals_undisturbed(tmp_path, whole, told, capfd):
    """SIGTERM saves and exits 0; SIGKILL loses an epoch at most; what comes then is the same to the last bit."""
    args, undisturbed = whole
    with begin(tmp_path, *args, held=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                break
        time.sleep(random.Random(f"{told} {args[0]}").uniform(0, 0.5))
        process.send_signal(told)
        error = process.stderr.read()
    assert process.returncode == (0 if told == signal.SIGTERM else -signal.SIGKILL), error
    run = tmp_path / "run" / "001"
    last = run / "checkpoints" / "last.ckpt"
    assert not (run / "run.json").exists()
    if told == signal.SIGTERM:
        assert re.search(rf"go on with: .*genmeta fit --config {run}/config.yaml --ckpt_path {last}", error)
        assert "Traceback" not in error
    assert fit(tmp_path, f"--config={run}/config.yaml", f"--ckpt_path={last}") == 0
    resumed = tmp_path / "run" / "002"
    ours, theirs = (read_checkpoint(r / "checkpoints" / "last.ckpt")["state_dict"] for r in (resumed, undisturbed))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (read_checkpoint(r / "checkpoints" / "best.ckpt") for r in (resumed, undisturbed))
    assert ours["global_step"] == theirs["global_step"], "the best may be of before the stop"
    numbers, expected = metrics(resumed), metrics(undisturbed)
    assert numbers
    assert {key: expected[key] for key in numbers} == numbers


@pytest.mark.parametrize("whole", slow_but(["learner"], ["learner", "gan"]), indirect=True)
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(tmp_path, whole, capsys):
    args, undisturbed = whole
    shutil.copytree(undisturbed / "checkpoints", tmp_path / "checkpoints")
    last = tmp_path / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1  # a single bit, which torch.load does not notice
    last.write_bytes(content)
    with pytest.raises(UserError, match="checksum"):
        read_checkpoint(last)
    assert fit(tmp_path, *args, f"--ckpt_path={last}") == 0
    assert re.search(r"last\.ckpt: cannot be read.*; going on from .*previous\.ckpt", capsys.readouterr().err)
    ours, theirs = (
        read_checkpoint(r / "checkpoints" / "last.ckpt")["state_dict"] for r in (tmp_path / "run" / "001", undisturbed)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("damage", ["cut off", "empty", "gone"])
def test_any_damage_is_noticed_and_other_names_have_no_stand_in(tmp_path, damage):
    for name in ("last.ckpt", "previous.ckpt", "best.ckpt"):
        torch.save({"state_dict": {"w": torch.ones(1000)}}, tmp_path / name)
    for name in ("last.ckpt", "best.ckpt"):
        path = tmp_path / name
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: 2000 if damage == "cut off" else 0])
    assert whole_checkpoint(tmp_path / "last.ckpt")[0] == tmp_path / "previous.ckpt"
    with pytest.raises(UserError, match=r"best\.ckpt"):
        whole_checkpoint(tmp_path / "best.ckpt")


def test_a_loss_that_is_not_finite_stops_and_can_be_replayed(tmp_path, capsys):
    options = ["--model.optimizer.init_args.lr=1e37", "--trainer.max_epochs=1"]
    assert fit(tmp_path, *SMALL_LEARNER, *options) == 2
    error = capsys.readouterr().err
    assert re.search(r"training stopped at batch \d+ \(epoch 0\): the (loss|gradient)", error)
    run = tmp_path / "run" / "001"
    saved = read_checkpoint(run / "checkpoints" / "non-finite.ckpt")
    assert all(value.isfinite().all() for value in saved["state_dict"].values()), "the step must not be taken"
    assert main(["replay", str(run)]) == 0
    told = capsys.readouterr().out
    assert f"batch {saved['batch']} of" in told
    assert "not finite" in told
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["001"]


@pytest.mark.parametrize("whole", slow_but(["learner"], ["learner", "gan"]), indirect=True)
def test_replay_of_a_sound_batch_says_so(tmp_path, whole, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole[1], run)
    assert main(["replay", str(run)]) == 2
    assert "no batch of it gave a loss that is not finite" in capsys.readouterr().err
    last = read_checkpoint(run / "checkpoints" / "last.ckpt")
    (data,) = (value for name, value in last.items() if name.endswith("DataModule"))
    where = {"batch": 7, "epoch": 1, "global_step": 7, "what": "the loss is nan"}
    saved = {"state_dict": last["state_dict"], "data": {**data, "step": 7}, **where}
    torch.save(saved, run / "checkpoints" / "non-finite.ckpt")
    assert main(["replay", str(run)]) == 1
    assert "every number is finite this time" in capsys.readouterr().out


@pytest.mark.slow  # test_machine_faults.py fills the disk under two files in the default run
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting a small disk needs root")
def test_a_full_disk_is_told_and_loses_nothing_that_was_written(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        with begin(disk, *SMALL_LEARNER) as process:
            error = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 2
        assert re.search(r"genmeta: error: no space left on the disk", error), error
        assert "Traceback" not in error
        for path in (disk / "run" / "001").rglob("*.ckpt"):
            read_checkpoint(path)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
def test_a_dead_loader_process_is_told(tmp_path):
    with begin(tmp_path, *SMALL_LEARNER, "--data.n_workers=1", "--trainer.max_epochs=1000") as process:
        process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            process.kill()
            pytest.skip("needs Linux")
        end = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError):  # one that has just ended
                for child in children.read_text().split():
                    if "spawn" not in Path(f"/proc/{child}/cmdline").read_text():
                        os.kill(int(child), signal.SIGKILL)
            time.sleep(0.05)
        error = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 2, error
    assert re.search(r"^genmeta: error: a loader process died", error, re.MULTILINE)
    assert "Traceback" not in error.split("Exception ignored")[0]  # torch's own, of a loader that is taken down


def test_faults_are_known_from_what_libraries_raise():
    with pytest.raises(RuntimeError) as memory:
        torch.empty(2**50)
    assert "data.tasks_per_step" in what_happened(memory.value)
    assert "out of memory" in what_happened(torch.OutOfMemoryError("CUDA out of memory"))
    wrapped = RuntimeError("while saving")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device", "runs/x")
    assert what_happened(wrapped) == "no space left on the disk for runs/x"
    assert what_happened(ValueError("a bug")) is None
