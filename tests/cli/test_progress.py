"""What is seen of a training: a bar in a terminal, a line an epoch elsewhere."""

import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl

import pytest
from conftest import PATIENCE
from small_runs import config, write

from genmeta.cli import progress


@pytest.mark.parametrize(
    ("out", "err", "term", "expected"),
    [
        (True, True, "xterm", progress.LiveBar),
        (True, True, "dumb", progress.EpochLines),
        (False, True, "xterm", progress.EpochLines),
        (True, False, "xterm", progress.EpochLines),
    ],
)
def test_there_is_a_bar_only_where_all_output_goes_to_a_terminal(out, err, term, expected, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: out, raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: err, raising=False)
    monkeypatch.setenv("TERM", term)
    assert type(progress.progress_bar()) is expected


def in_terminal(command: list[str], columns: int) -> tuple[int, str]:
    """Run a command in a terminal of so many columns; return its exit code and all that it has written."""
    ours, its = pty.openpty()
    ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "WANDB_MODE": "disabled"}
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        environment.pop(name, None)
    said, end = b"", time.monotonic() + PATIENCE
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        while time.monotonic() < end:
            if select.select([ours], [], [], 1)[0]:
                try:
                    said += os.read(ours, 65536)
                except OSError:  # what Linux says when nobody holds the other end
                    break
            elif process.poll() is not None:
                break
        code = process.wait(timeout=PATIENCE)
    os.close(ours)
    return code, said.decode()


@pytest.mark.parametrize("columns", [80, pytest.param(160, marks=pytest.mark.slow)])
def test_the_bar_shows_epochs_steps_and_each_number_whole_in_its_line(tmp_path, pictures, columns):
    yaml_file = write(tmp_path / "it.yaml", config("learner", pictures))
    command = [sys.executable, "-m", "genmeta", "fit", f"--config={yaml_file}", f"--run.folder={tmp_path / 'runs'}"]
    code, said = in_terminal([*command, "--trainer.max_epochs=2"], columns)
    assert code == 0, said
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said).splitlines()
    assert any(
        re.match(r"Epoch 1/1 +━{10,} +3/3 +\d:\d\d:\d\d • \d:\d\d:\d\d +train/loss: [\d.]+ *$", line) for line in lines
    )
    for number in (r"train/acc: [\d.]+ %", r"val/acc: [\d.]+ ± [\d.]+ %|val/acc: [\d.]+ %"):
        assert any(re.fullmatch(f" *(?:{number}) *", line) for line in lines)
    assert "v_num" not in said
    assert not any(line.startswith("epoch 1/2") for line in lines), "the line of an epoch is for files"
    assert (tmp_path / "runs" / "learner" / "001" / "run.json").is_file()
    assert "checkpoints/best.ckpt" in [line for line in lines if line.strip()][-1]
