"""The package alone, away from its repository: what is in the wheel, and how its YAMLs are found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import genmeta
from genmeta.cli.main import main
from genmeta.shipped import SHIPPED, config_file, configs_of, with_config_files


def test_yamls_of_the_package_are_found_from_any_folder_and_own_ones_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = SHIPPED / "learner" / "protonet.yaml"
    assert config_file("configs/learner/protonet.yaml") == config_file("learner/protonet.yaml") == shipped
    assert shipped.samefile(ROOT / "configs" / "learner" / "protonet.yaml")
    assert configs_of("learner")["protonet"] == shipped
    assert config_file("no/such.yaml") == Path("no/such.yaml")
    own = Path("configs/learner/protonet.yaml")
    own.parent.mkdir(parents=True)
    own.write_text("{}")
    assert config_file("learner/protonet.yaml") == config_file(own) == configs_of("learner")["protonet"] == own
    asked = ["--config", "learner/protonet.yaml", "--config=trainer/cpu.yaml", "--run.name", "learner/protonet.yaml"]
    found = [f"--config={own}", f"--config={SHIPPED / 'trainer' / 'cpu.yaml'}", *asked[3:]]
    assert with_config_files(asked) == found


def test_a_run_takes_a_shipped_yaml_anywhere_and_a_wrong_name_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as done:
        main(["fit", "--config", "learner/protonet.yaml", "--config=configs/policy/real_only.yaml", "--print_config"])
    assert done.value.code == 0
    assert "genmeta.learners.metric.ProtoNet" in capsys.readouterr().out
    assert main(["fit", "--config", "learner/protonett.yaml"]) == 2
    assert "learner/protonett.yaml" in capsys.readouterr().err
    assert main(["experiment", "--learner", "protonett"]) == 2
    assert "did you mean 'protonet'?" in capsys.readouterr().err


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"genmeta {genmeta.__version__}\n"


@pytest.mark.slow
def test_the_wheel_alone_runs_an_experiment_in_an_empty_folder(tmp_path):
    """It held no YAML. Built from the files that git knows or would know, as whoever builds it has them."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]
    for name in names:
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "src" / name, follow_symlinks=False)
    build = ["--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, tmp_path / "src"]  # no network
    run(tmp_path, sys.executable, "-m", "pip", "wheel", *build)
    [wheel] = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    run(tmp_path, sys.executable, "-m", "pip", "install", "--no-deps", "--target", site, wheel)
    wanted = [name for name in names if name.startswith("genmeta/") and (ROOT / name).is_file()]
    wanted += [f"genmeta/{name}" for name in names if name.startswith("configs/")]
    assert [name for name in wanted if not (site / name).is_file()] == []

    empty = tmp_path / "empty"
    empty.mkdir()
    alone = (sys.executable, "-m", "genmeta")
    where = run(empty, sys.executable, "-c", "import genmeta; print(genmeta.__file__)", path=site)
    assert where.strip() == str(site / "genmeta" / "__init__.py")
    debug = ["--config", "trainer/debug.yaml", "--n_seeds", "1", "--wandb", "off"]
    shown = run(empty, *alone, "experiment", *debug, path=site)
    assert "| with the generator " in shown
    [results] = empty.glob("runs/debug/*/001/results.json")
    assert results.stat().st_size
    assert [path.name for path in empty.iterdir()] == ["runs"]


def run(folder: Path, *command: object, path: Path | None = None) -> str:
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "GENMETA_RUN_FOLDER")}
    env |= {} if path is None else {"PYTHONPATH": str(path)}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
