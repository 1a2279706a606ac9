"""Every row of the table in docs/swap.md works as it is printed: with three steps of training, and on small data."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import OMNIGLOT, ROOT, test_file
from test_docs import NothingTrained, genmeta_command, make_command, project  # noqa: F401  (a fixture)

import genmeta.cli.compare

REAL = "genmeta fit --config configs/learner/protonet.yaml --config configs/policy/real_only.yaml"
MIXED = (
    "genmeta fit --config configs/learner/protonet.yaml --config configs/policy/random_other.yaml "
    "--data.train_tasks.latent.separation 0 --data.generator VAE"
)
OPTIONS_OF = {  # what the options of a row are laid over, where it prints options alone
    "the share of generated tasks": MIXED,
    "generated classes beside real ones in every task": MIXED,
    "classes of a task from one alphabet, or each from another": MIXED,
    "how classes lie in latent space": MIXED,
    "the backbone": REAL,
    "what it normalises with": REAL,
    "the GAN's objective": "genmeta fit --config configs/generator/gan_classic.yaml",
    "the VAE's likelihood, prior": "genmeta fit --config configs/generator/vae_plain.yaml",
    "several processes or machines": REAL,
}
ELSEWHERE = {  # rows that another file runs
    "does a better generator make a better learner?": ("test_generator_ages.py", "ages.main("),
    "the Omniglot Challenge": ("test_challenge.py", '"challenge"'),
    "continue an experiment or a comparison": ("test_experiment.py", "def test_killed_and_begun_again"),
    "look at a batch that gave NaN": ("test_faults.py", '"replay"'),
}
SCRIPTS = {  # small ones of what a script would run for hours
    "all generators, two seeds, in one table": "--generators gan_classic --seeds 0 --workers 1 --runs r --out t.md -- "
    "--config configs/trainer/debug.yaml --data.feature_steps 2",
}
WORDS = {
    "decode once, use several times": "latent: {class_path: genmeta.tasks.bank.BankedTasks, init_args: {tasks: …}}"
}
QUICK = ("learner", "everything of a run, an experiment or several in one HTML page")


def table() -> dict[str, str]:
    text = (ROOT / "docs" / "swap.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \| (.*) \|$", text, re.MULTILINE)
    return {re.sub(r" \(\[.*", "", what): how for what, how in rows if what != "what"}


ROWS = table()


def printed(how: str) -> list[str]:
    """What is printed as code and is a command, or options of one."""
    return [code for code in re.findall(r"`([^`]+)`", how) if code.startswith(("make ", "genmeta ", "--", "torchrun"))]


def test_no_row_is_left_out():
    assert len(ROWS) > 30
    for what, how in ROWS.items():
        assert what in ELSEWHERE or what in WORDS or printed(how), f"nothing is run of: {what}"
        if any(code.startswith("--") for code in printed(how)):
            assert what in OPTIONS_OF, f"options of what? {what}"
    for part in (OPTIONS_OF, ELSEWHERE, SCRIPTS, WORDS):
        assert set(part) <= set(ROWS)
    for file, text in ELSEWHERE.values():
        assert text in test_file(file).read_text(encoding="utf-8")


@pytest.fixture
def prepared(project, vae, redrawer, learner, pictures, monkeypatch):  # noqa: F811
    """The runs that the rows name: of an experiment, its learners; `RUN` is one of them."""
    experiment = Path("runs/glyphs-protonet-vae_deformation/001")
    shutil.copytree(learner.parents[1], experiment / "mixed-seed0" / "fit")
    (project / "scripts").symlink_to(ROOT / "scripts")
    monkeypatch.setattr(genmeta.cli.compare, "run_all", _refuse)
    shutil.copyfile("configs/learner/protonet.yaml", "mine.yaml")
    return {
        "VAE": str(vae),
        "REDRAWER": str(redrawer),
        "LEARNER": str(learner.parents[1]),
        "FOLDER": str(pictures),
    }


def _refuse(*args: object, **options: object) -> None:
    raise NothingTrained


@pytest.mark.parametrize(
    "what", [row if row in QUICK else pytest.param(row, marks=pytest.mark.slow) for row in ROWS if row not in ELSEWHERE]
)
def test_a_row_works_as_it_is_printed(what, prepared, capsys):
    how = ROWS[what]
    if "omniglot_minimal" in how and not OMNIGLOT.is_dir() and what not in SCRIPTS:
        pytest.skip("the Omniglot zip files are not here")
    if what in WORDS:
        assert WORDS[what] in how
        policy = yaml.safe_load(Path("configs/policy/random_other.yaml").read_text())
        inside = policy["data"]["init_args"]["train_tasks"]
        latent = yaml.safe_load(WORDS[what].replace("…", str(inside["init_args"]["latent"])))["latent"]
        latent["init_args"]["tasks"]["init_args"]["separation"] = 0
        inside["init_args"]["latent"] = latent
        Path("bank.yaml").write_text(yaml.safe_dump(policy))
        run_as_printed(f"{REAL} --config bank.yaml --data.generator VAE", what, prepared)
    for code in printed(how):
        if code.startswith("torchrun") or "ddp.yaml" in code:  # Lightning would start this very process once more
            launchers = (ROOT / "tests" / "robustness" / "test_launchers.py").read_text(encoding="utf-8")
            assert "torch.distributed.run" in launchers
            assert "configs/trainer/ddp.yaml" in launchers
            continue
        run_as_printed(f"{OPTIONS_OF[what]} {code}" if code.startswith("--") else code, what, prepared)
        capsys.readouterr()


def run_as_printed(line: str, what: str, names: dict[str, str]) -> None:
    """Run a line with the paths that its capitals stand for."""
    backbone = names["VAE"] if "transfer/" in line else names["REDRAWER"]
    line = line.replace("RUN=...", f"RUN={names['LEARNER']}").replace("RUN/", f"{names['LEARNER']}/")
    line = line.replace("--data.source.folder FOLDER", f"--data.source.folder {names['FOLDER']}")
    line = line.replace("CHECKPOINT", backbone).replace("--data.generator VAE", f"--data.generator {names['VAE']}")
    words = shlex.split(line)
    if words[0] == "genmeta":
        commands = [words[1:]]
    elif what in SCRIPTS:
        (script,) = [one for one in printed_by_make(words[1:]) if "scripts/" in one]
        program = [sys.executable, *shlex.split(script)[1:], *shlex.split(SCRIPTS[what])]
        subprocess.run(program, check=True, timeout=600, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert "| " in Path("t.md").read_text(encoding="utf-8")
        return
    else:
        commands = make_command(words[1:])
        assert commands, line
    for command in commands:
        assert genmeta_command(command) == 0, line


def printed_by_make(args: list[str]) -> list[str]:
    done = subprocess.run(["make", "-n", *args], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
