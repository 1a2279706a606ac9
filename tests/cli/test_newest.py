"""Which checkpoint `explore` and `audit` take where none is named."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from test_cli import assert_one_line

import genmeta.cli.audit
import genmeta.cli.explore
from genmeta.cli.main import main
from genmeta.cli.newest import newest, role_of
from genmeta.errors import UserError

AUDIT = ["audit", "--feature_steps=2", "--config=configs/learner/protonet.yaml"]


@pytest.fixture
def runs(tmp_path, monkeypatch, vae, redrawer, learner):
    """What is left of some trainings, from the oldest to the newest; the debug run is the newest of all."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(genmeta.cli.audit, "N_CLASSES", 20)
    monkeypatch.setattr(genmeta.cli.audit, "_N_TRAINING", 100)
    monkeypatch.setattr(genmeta.cli.explore, "N_IMAGES", 300)
    order = {"old-vae": vae, "new-vae": vae, "redrawer": redrawer, "learner": learner, "debug/vae": vae}
    for age, (name, checkpoint) in enumerate(order.items()):
        folder = tmp_path / "runs" / name / "001"
        shutil.copytree(checkpoint.parents[1], folder)
        config = folder / "config.yaml"
        assert "debug: true" in config.read_text()
        if "debug" not in name:
            config.write_text(config.read_text().replace("debug: true", "debug: false"))
        os.utime(folder / "checkpoints" / "best.ckpt", (1000 + age, 1000 + age))
    broken = tmp_path / "runs" / "broken" / "001" / "checkpoints" / "best.ckpt"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no checkpoint")


def best(name: str) -> Path:
    return Path("runs") / name / "001" / "checkpoints" / "best.ckpt"


def test_the_record_of_a_checkpoint_says_what_it_is(runs):
    """The newest best.ckpt was taken whatever it was of: the learner of the experiment itself."""
    assert [role_of(best(name)) for name in ("new-vae", "redrawer", "learner")] == ["generator", "redrawer", None]
    assert newest({"generator"}) == best("new-vae")
    assert newest({"redrawer"}) == newest({"generator", "redrawer"}) == best("redrawer")
    assert newest({"generator"}, "glyphs_minimal") == best("new-vae")
    with pytest.raises(UserError, match=r"no generator \(genmeta fit .*/vae.yaml\) of split 'glyphs_full' under runs"):
        newest({"generator"}, "glyphs_full")
    shutil.rmtree("runs/redrawer")
    with pytest.raises(UserError, match=r"no redrawer \(genmeta fit .*/vae_deformation.yaml\) under runs, debug"):
        newest({"redrawer"})


@pytest.mark.slow  # an audit
def test_audit_takes_the_generator_that_its_tasks_need(runs, capsys):
    """The default learner's tasks have redraw: after `make meta-train` there is a redrawer and nothing else."""
    assert main([*AUDIT, "--run.wandb=off"]) == 0
    assert f"redrawer    {best('redrawer')}, the newest" in capsys.readouterr().out
    policy = ["--config=configs/policy/random_other.yaml", "--data.train_tasks.latent.separation=0"]
    assert main([*AUDIT, *policy, "--run.wandb=off"]) == 0
    assert f"generator   {best('new-vae')}, the newest" in capsys.readouterr().out
    assert main([*AUDIT, *policy, "--ckpt", str(best("old-vae")), "--run.wandb=off"]) == 0
    assert "the newest" not in capsys.readouterr().out
    assert main([*AUDIT, "--ckpt", str(best("learner"))]) == 2
    assert_one_line(capsys, f"--ckpt: {best('learner')} is not from a generator")
    shutil.rmtree("runs/redrawer")
    assert main(AUDIT) == 2
    assert_one_line(capsys, "--ckpt: not given, and there is no redrawer")


def test_explore_takes_what_was_trained_last(runs, capsys):
    assert main(["explore", "--part", "val", "--out", "out", "--wandb=off"]) == 0
    assert f"generator {best('redrawer')}" in capsys.readouterr().out
    shutil.rmtree("runs")
    assert main(["explore"]) == 2
    assert_one_line(capsys, "--ckpt: not given, and there is no generator .* or redrawer .* under runs")
