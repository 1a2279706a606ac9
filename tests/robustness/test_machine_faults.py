"""Faults of the machine around a run, as real ones: killed, full and read-only disks, W&B gone, clocks, pipes."""

import errno
import json
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
from conftest import PATIENCE, ROOT, free_port, slow_but
from lightning.pytorch import Callback
from small_data import image_folder
from test_faults import ALWAYS, SMALL_LEARNER, begin, fit, metrics

from genmeta.cli.main import main
from genmeta.models.checkpoint import read_checkpoint

TWO_EPOCHS = [*SMALL_LEARNER, "--data.steps_per_epoch=20", "--trainer.max_epochs=2"]
PROTONET = "--config=configs/learner/protonet.yaml"
SHORT = ["--data.tasks_per_step=2", "--data.steps_per_epoch=15", "--data.val.n_episodes=10", "--trainer.max_epochs=4"]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def latent(name: str, class_path: str, **init_args) -> dict:
    return {"class_path": f"genmeta.tasks.{name}.{class_path}", "init_args": init_args}


def banked_and_adaptive(folder: Path, generator: Path) -> list[str]:
    """Options of a learner with a bank filled anew every 7 steps, and a share that may change every 15."""
    tasks = latent("latent", "LatentTasks", policy=latent("policies", "RandomOther"), rotations=True)
    bank = latent("bank", "BankedTasks", tasks=tasks, episodes=6, refresh=7)
    share = latent("share", "Adaptive", start=0.25, change=0.1)
    real = latent("real", "RealTasks", rotations=True)
    mixed = latent("mixed", "MixedTasks", real=real, latent=bank, share=share, per="task")
    path = folder / "banked.yaml"  # YAML takes JSON
    path.write_text(json.dumps({"data": {"init_args": {"train_tasks": mixed}}}))
    return [PROTONET, f"--config={path}", f"--data.generator={generator}", *SHORT]


@pytest.mark.slow  # in one process: test_latent_training.py
@pytest.mark.parametrize("moment", ["in mid-epoch", "any"])
def test_killed_with_a_bank_and_an_adaptive_share_and_resumed_equals_undisturbed(tmp_path, generator, moment):
    """A bank of another period, or a share that begins anew, gives other weights and other numbers."""
    args = banked_and_adaptive(tmp_path, generator)
    assert fit(tmp_path / "whole", *args) == 0
    undisturbed = tmp_path / "whole" / "run" / "001"
    with begin(tmp_path, *args, held=True) as process:
        wanted = 2 if moment == "in mid-epoch" else random.Random(moment).randint(1, 3)
        for line in process.stdout:
            if line.startswith(f"epoch {wanted}/"):
                break
        time.sleep(0.25 if moment == "in mid-epoch" else random.Random(moment).uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        error = process.stderr.read()
    assert process.returncode == -signal.SIGKILL, error
    run = tmp_path / "run" / "001"
    last = run / "checkpoints" / "last.ckpt"
    assert fit(tmp_path, f"--config={run}/config.yaml", f"--ckpt_path={last}") == 0
    resumed = tmp_path / "run" / "002"
    assert same_weights(resumed, undisturbed)
    numbers, expected = metrics(resumed), metrics(undisturbed)
    assert len({value for (_, name), value in expected.items() if name == "train/made_up_share"}) > 2
    assert numbers
    assert {key: expected[key] for key in numbers} == numbers


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = (read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_killed_after_its_last_step_has_its_best_checkpoint_when_resumed(tmp_path, capsys):
    """Nothing is left to train, so that hooks of training do not run; best.ckpt is wanted all the same."""
    assert fit(tmp_path, *TWO_EPOCHS) == 0
    run, resumed = tmp_path / "run" / "001", tmp_path / "run" / "002"
    (run / "run.json").unlink()  # as where the process is killed in the pictures, or while W&B sends
    assert fit(tmp_path, f"--config={run}/config.yaml", f"--ckpt_path={run}/checkpoints/last.ckpt") == 0
    ours, theirs = (read_checkpoint(r / "checkpoints" / "best.ckpt") for r in (resumed, run))
    assert ours["global_step"] == theirs["global_step"]
    assert "val/acc" in json.loads((resumed / "run.json").read_text())["best"]


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, in memory."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no right to mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def remount(disk: Path, option: str) -> bool:
    return subprocess.run(["mount", "-o", f"remount,{option}", disk], capture_output=True).returncode == 0


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**12))
        except OSError as error:
            assert error.errno == errno.ENOSPC


class MakeReadOnly(Callback):
    """Makes a disk read only after the second epoch."""

    def __init__(self, disk: str) -> None:
        self.disk = Path(disk)

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch == 2:
            assert remount(self.disk, "ro")


class FillDisk(Callback):
    """Fills a disk in a hook, as long as `disk/fill` is there."""

    def __init__(self, disk: str, hook: str, batch: int = 0) -> None:
        self.disk, self.hook, self.batch = Path(disk), hook, batch

    def _fill(self, hook: str) -> None:
        if hook == self.hook and (self.disk / "fill").exists():
            fill(self.disk)

    def on_train_start(self, trainer, pl_module) -> None:
        self._fill("on_train_start")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == self.batch:
            self._fill("on_train_batch_start")

    def teardown(self, trainer, pl_module, stage) -> None:
        self._fill("teardown")


WRITTEN = {
    "config.yaml": None,
    "pictures/episodes.png": "on_train_start",
    "metrics.csv": "on_train_batch_start",
    "run.json": "teardown",
}


@pytest.mark.parametrize("name", slow_but(["metrics.csv", "run.json"], WRITTEN))
def test_a_disk_that_is_full_when_a_file_is_written(tmp_path, disk, capsys, name):
    """One line and nothing half-written that counts; with room again the same command succeeds."""
    hook = WRITTEN[name]
    filler = {"class_path": "test_machine_faults.FillDisk", "init_args": {"disk": str(disk), "hook": hook, "batch": 90}}
    config = tmp_path / "filler.yaml"
    config.write_text(json.dumps({"trainer": {"callbacks": [filler] if hook else []}}))
    # metrics.csv is first written after 100 steps
    steps = ["--trainer.max_epochs=1", f"--data.steps_per_epoch={100 if name == 'metrics.csv' else 10}"]
    args = [*SMALL_LEARNER, f"--config={config}", *steps]
    (disk / "fill").touch()
    (disk / "run").mkdir()
    if hook is None:
        fill(disk)
    assert fit(disk, *args) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert error.startswith("genmeta: error: no space left on the disk")
    run = disk / "run" / "001"
    assert not (run / "run.json").exists(), "it would count as finished"
    content = (run / name).read_bytes() if (run / name).exists() else b""
    assert content == b"" or (name == "metrics.csv" and content.endswith(b"\n"))
    for path in run.rglob("*.ckpt"):
        read_checkpoint(path)
    (disk / "filler").unlink()
    (disk / "fill").unlink()
    assert fit(disk, *args) == 0
    assert (disk / "run" / "002" / "run.json").is_file()


def test_a_full_disk_of_the_cache(tmp_path, disk, monkeypatch, capsys):
    image_folder(tmp_path / "pictures")
    command = ["data", "prepare", "image_folder", "--folder", str(tmp_path / "pictures")]
    monkeypatch.setenv("GENMETA_CACHE", str(disk))
    assert remount(disk, "size=100k")
    assert main(command) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"genmeta: error: cache folder \S+: cannot write .*No space left.*GENMETA_CACHE.*\n", error)
    assert [path for path in disk.iterdir() if path.suffix != ".lock"] == []
    assert remount(disk, "size=32m")
    assert main(command) == 0
    assert "300 images" in capsys.readouterr().out


def test_a_full_disk_of_the_cache_for_what_torch_saves(disk, monkeypatch, capsys, tmp_path):
    """The network that generators are measured with: torch's error does not say that the disk is full."""
    gan = ["--config=configs/generator/gan_classic.yaml", "--config=configs/trainer/debug.yaml"]
    assert main(["data", "prepare", "glyphs"]) == 0
    folder = Path(re.search(r"cached in (\S+)", capsys.readouterr().out)[1])
    shutil.copyfile(folder, disk / folder.name)
    fill(disk)
    monkeypatch.setenv("GENMETA_CACHE", str(disk))
    assert fit(tmp_path / "runs", *gan, "--data.feature_steps=3") == 2
    assert re.fullmatch(r"genmeta: error: a file could not be written .*want of space.*\n", capsys.readouterr().err)
    assert not [path for path in disk.iterdir() if path.name.startswith("features")]
    (disk / "filler").unlink()
    assert fit(tmp_path / "runs", *gan, "--data.feature_steps=3") == 0


def test_a_run_folder_that_is_read_only_at_the_start(disk, capsys):
    (disk / "run").mkdir()
    assert remount(disk, "ro")
    assert fit(disk, *TWO_EPOCHS) == 2
    told = capsys.readouterr()
    assert re.fullmatch(r"genmeta: error: run\.folder: cannot make (\S+) \(Read-only file system\)\n", told.err)
    assert str(disk / "run" / "001") in told.err
    assert "epoch" not in told.out


def test_a_run_folder_that_becomes_read_only(disk, capsys):
    callback = ["--trainer.callbacks=test_machine_faults.MakeReadOnly", f"--trainer.callbacks.disk={disk}"]
    assert fit(disk, *TWO_EPOCHS, "--trainer.max_epochs=4", *callback) == 2
    error = capsys.readouterr().err
    run = disk / "run" / "001"
    last = run / "checkpoints" / "last.ckpt"
    assert re.fullmatch(
        rf"genmeta: error: {disk}\S+ cannot be written \(Read-only file system\); go on with: .*\n", error
    )
    assert f"--config {run}/config.yaml --ckpt_path {last}" in error
    read_checkpoint(last)


def children_of(pid: int) -> list[int]:
    """All processes below one."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children_of(int(child))]
    return found


@pytest.mark.slow
def test_the_process_of_wandb_is_killed(tmp_path, monkeypatch):
    """The next run of the same process (`genmeta experiment`) has W&B again."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    code = f"""
import os, signal, sys
sys.path[:0] = ["tests", "tests/helpers"]
import test_machine_faults as faults
from lightning.pytorch import Callback
from genmeta.cli.main import main
class KillWandb(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            for pid in faults.children_of(os.getpid()):
                if b"wandb-core" in open(f"/proc/{{pid}}/cmdline", "rb").read():
                    os.kill(pid, signal.SIGKILL)
                    print("killed", flush=True)
args = ["fit", *faults.TWO_EPOCHS, "--run.name=run", "--run.folder={tmp_path}", "--trainer.devices=1"]
sys.modules["kill_wandb"] = sys.modules[__name__]
print("first", main([*args, "--trainer.callbacks=kill_wandb.KillWandb"]), flush=True)
os.environ.pop("GENMETA_RUN_FOLDER")
print("second", main(args), flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert "killed\n" in done.stdout
    assert "first 0\n" in done.stdout, done.stderr
    assert "second 0\n" in done.stdout
    assert re.fullmatch(r"genmeta: W&B fails \(.*\); going on, metrics\.csv has all numbers\n", done.stderr)
    one, other = (tmp_path / "run" / name for name in ("001", "002"))
    assert metrics(one) == metrics(other), "W&B must not change what is computed, nor what is written beside it"
    assert (one / "run.json").is_file()
    (recorded,) = other.glob("wandb/offline-run-*/*.wandb")
    assert recorded.stat().st_size > 1000


WANDB_SERVER = """
import json, re, sys
from gzip import decompress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USER = {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
PROJECT = {"id": "p", "name": "genmeta", "entity": {"id": "e", "name": "me"}}
LATEST = {"outOfDate": False, "latestVersionString": "1", "versionOnThisInstanceString": "1"}
INFO = {"cliVersionInfo": {"max_cli_version": "99.0.0"}, "latestLocalVersionInfo": LATEST}
BUCKET = {"id": "r", "displayName": "x", "config": "{}", "summaryMetrics": "{}", "tags": [], "project": PROJECT}

def answer(query):
    if "UpsertBucket" in query["query"]:
        bucket = {**BUCKET, "name": query["variables"].get("name") or "abc"}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}
    if "viewer" in query["query"].lower():
        return {"viewer": USER, "serverInfo": INFO}
    if "artifactType" in query["query"]:
        return {"project": {"artifact": None}}
    if "createArtifact(" in query["query"]:
        sequence = {"id": "s", "latestArtifact": {"id": "a", "versionIndex": 0}}
        return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}}}
    return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": []}}

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = decompress(body)
        if self.path.endswith("file_stream"):
            print("file_stream", body.decode().replace("\\n", " "), flush=True)
        content = {"data": answer(json.loads(body))} if self.path.endswith("/graphql") else {}
        said = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_PUT = do_HEAD = do_POST

server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
"""What W&B needs of a server to begin a run and to send numbers to it (wandb 0.31)."""


def begin_online(folder: Path, *args: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "genmeta", "fit", *SMALL_LEARNER, *ALWAYS, f"--run.folder={folder}", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("artifacts", ["false", "true"])
def test_the_server_of_wandb_goes_away(tmp_path, monkeypatch, artifacts):
    """W&B's default is to wait at the end for as long as it takes; and `make sync` must find a run that was online.

    With artifacts W&B (0.31) tries for longer than its own limit says; what this server says of them is nonsense,
    which is told and stops nothing either.
    """
    said = tmp_path / "said"
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "3")
    server_command = [sys.executable, "-c", WANDB_SERVER]
    port = str(free_port())  # twice
    with subprocess.Popen([*server_command, port], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline().strip() == port
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        online = [f"--run.artifacts={artifacts}", "--run.wandb=online"]
        with begin_online(tmp_path, *online) as process:
            for line in process.stdout:
                if line.startswith("epoch 2/"):
                    break
            server.kill()
            out, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, error
    run = tmp_path / "run" / "001"
    (folder,) = run.glob("wandb/run-*")
    *before, last = error.splitlines()
    assert last == f"genmeta: W&B takes no more of this run; send it later: wandb sync {folder}"
    told = " ".join(before)
    assert re.fullmatch(
        r"genmeta: W&B fails \(.*\); going on, metrics\.csv has all numbers" * (artifacts == "true"), told
    )
    assert "epoch 6/6" in out
    assert (run / "run.json").is_file()
    assert len([key for key in metrics(run) if key[1] == "val/acc"]) == 6

    with said.open("w") as file, subprocess.Popen([*server_command, port], stdout=file) as server:
        while port not in said.read_text():
            time.sleep(0.01)
        sync = [sys.executable, str(ROOT / "scripts" / "sync.py"), "--runs", str(tmp_path)]
        # W&B writes logs of its own to the folder that it is called in
        done = subprocess.run(sync, capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)
        server.kill()
    assert done.returncode == 0, done.stderr + done.stdout
    assert "sending 1 offline runs" in done.stdout
    sent = said.read_text()
    assert '\\"trainer/global_step\\":239' in sent, "the last validation"
    assert list(folder.glob("*.wandb.synced"))


JUMPING = """
import time
_true, _calls = time.time, 0
def _jumping():
    global _calls
    _calls += 1
    return _true() + (0, 86400, -86400)[_calls % 3]
time.time = _jumping
print("this clock jumps", flush=True)
"""
"""A clock that goes forwards and backwards by a day from call to call, for one process: only Python's, `time.time`."""


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(JUMPING)
    assert fit(tmp_path / "steady", *TWO_EPOCHS) == 0
    paths = [str(tmp_path / "clock"), str(ROOT)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    with begin(tmp_path, *TWO_EPOCHS) as process:
        out, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, error
    assert "this clock jumps" in out
    steady, jumping = tmp_path / "steady" / "run" / "001", tmp_path / "run" / "001"
    assert same_weights(jumping, steady)
    assert metrics(jumping) == metrics(steady)
    ours, theirs = (json.loads((run / "run.json").read_text()) for run in (jumping, steady))
    assert 0 < ours.pop("seconds") < 3600  # an hour is no day, whatever else the machine does
    theirs.pop("seconds")
    assert ours == theirs


CLAIM = """
import os, sys
from genmeta.experiments.run_folder import RunSettings, claim_run_folder
from genmeta.errors import UserError
run, go = RunSettings(name="run", folder=sys.argv[1]), sys.argv[2]
print("ready", flush=True)
while not os.path.exists(go):
    pass
for _ in range(40):
    print(claim_run_folder(run))
    os.environ.pop("GENMETA_RUN_FOLDER")
try:
    print("named", claim_run_folder(RunSettings(name="named", folder=sys.argv[1], version="a")))
except UserError as error:
    print("refused", error)
"""


def test_processes_that_start_at_the_same_moment_get_folders_of_their_own(tmp_path):
    """`is there a folder? then make it` gives one to two; `--run.version` is taken by one and refused to the others."""
    command = [sys.executable, "-c", CLAIM, str(tmp_path), str(tmp_path / "go")]
    env = {name: value for name, value in os.environ.items() if name != "GENMETA_RUN_FOLDER"}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for _ in range(3)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    (tmp_path / "go").touch()
    lines = [line for process in processes for line in process.communicate(timeout=PATIENCE)[0].splitlines()]
    assert [process.returncode for process in processes] == [0, 0, 0]
    claimed = sorted(line for line in lines if line.startswith(str(tmp_path)))
    assert claimed == [str(tmp_path / "run" / f"{number:03d}") for number in range(1, 121)]
    assert sum(line.startswith("named") for line in lines) == 1
    assert sum(line.startswith("refused") for line in lines) == 2


def test_a_training_whose_output_nobody_reads_any_more_goes_on(tmp_path, monkeypatch, capfd):
    """`genmeta fit … | head -1`: hours of training are worth more than the line that cannot be printed."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert fit(tmp_path, *TWO_EPOCHS) == 0
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "run" / "001" / "run.json").is_file()


def test_another_command_whose_output_nobody_reads_any_more_says_so(tmp_path):
    with (tmp_path / "error").open("w") as file:
        command = [sys.executable, "-m", "genmeta", "data", "list"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file) as process:
            process.stdout.close()
    assert process.returncode == 141
    assert (tmp_path / "error").read_text() == "genmeta: nobody reads the output any more\n"


class CtrlC(Callback):
    """Interrupts this process in the second epoch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.current_epoch == 1 and batch_idx == 5:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("version", [pytest.param(None, marks=pytest.mark.slow), "fit"])
def test_ctrl_c_says_how_to_go_on(tmp_path, capsys, version):
    """The command that is printed runs as it is. Bugs: `run.version: … exists already` where a version was given, as
    in experiments; `genmeta` was not found in a shell without the environment. (Lightning leaves with exit code 1.)
    """
    # not what the tests were started with: programs that a shell has put into the background ignore it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    given = [f"--run.version={version}"] if version else []
    try:
        assert fit(tmp_path, *TWO_EPOCHS, *given, "--trainer.callbacks=test_machine_faults.CtrlC") == 130
    finally:
        signal.signal(signal.SIGINT, before)
    run = tmp_path / "run" / (version or "001")
    last = run / "checkpoints" / "last.ckpt"
    told = re.fullmatch("genmeta: interrupted; go on with: (.*)\\n", capsys.readouterr().err)
    assert f"genmeta fit --config {run}/config.yaml --ckpt_path {last}" in told[1]
    assert read_checkpoint(last)["global_step"] == 20
    assert not (run / "run.json").exists()
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub(r"(?s)  callbacks:.*?\n(?=  \w)", "", config))  # nobody presses it now
    subprocess.run(told[1], shell=True, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    resumed = run if version else tmp_path / "run" / "002"
    assert (resumed / "run.json").is_file()
