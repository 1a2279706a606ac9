"""One generator at several ages: what is kept, the grid of runs, the table's numbers."""

import importlib.util
import json
from math import sqrt

import pytest
import torch
import yaml
from conftest import ROOT
from test_generator_training import gan, images_of, vae
from test_training import trainer_for

from genmeta.cli.training import checked
from genmeta.errors import UserError
from genmeta.experiments.checks import check_comparison
from genmeta.experiments.plan import Layout, make_plan
from genmeta.experiments.results import Arm
from genmeta.experiments.settings import read_settings
from genmeta.models.checkpoint import load_generator
from genmeta.modules.keep_ages import KeepAges


@pytest.fixture
def ages(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("generator_ages", ROOT / "scripts" / "generator_ages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("make", [vae, gan], ids=["vae", "gan"])
def test_ages_are_batches_and_age_0_is_untrained(tmp_path, toy_split_file, make):
    """A GAN's optimisers make two steps of a batch; its age is the batches too."""
    module, data = make(), images_of(toy_split_file)
    start = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = trainer_for(tmp_path, max_epochs=1, callbacks=[KeepAges([0, 3, 90])], limit_val_batches=0)
    trainer.fit(module, data)
    assert sorted(path.name for path in tmp_path.glob("age-*.ckpt")) == ["age-0.ckpt", "age-3.ckpt"]
    untrained, third = (torch.load(tmp_path / f"age-{age}.ckpt", weights_only=True) for age in (0, 3))
    assert all(torch.equal(value, start[name]) for name, value in untrained["state_dict"].items())
    expected = make()
    trainer_for(tmp_path, max_epochs=1, limit_train_batches=3, limit_val_batches=0).fit(
        expected, images_of(toy_split_file)
    )
    for name, value in expected.named_parameters():
        assert torch.equal(third["state_dict"][name], value), name
    assert load_generator(tmp_path / "age-0.ckpt").prior.dim == module.prior().dim


def test_ages_below_0_are_refused():
    with pytest.raises(UserError, match="at least 0, found -1"):
        KeepAges([3, -1])


def plan_of(tmp_path, **changes):
    content = yaml.safe_load((ROOT / "configs" / "compare" / "generator_ages.yaml").read_text())
    path = tmp_path / "ages.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
    return make_plan(check_comparison(read_settings(path), checked), Layout(tmp_path))


def test_the_grid_compares_like_with_like(ages, tmp_path):
    plan = plan_of(tmp_path, seeds=[3, 4])
    measures = ages.measurements(plan, tmp_path)
    assert list(measures) == [(arm, seed) for seed in (3, 4) for arm in ("age_0", "age_200", "best")]
    runs = [*plan.runs, *measures.values()]
    assert len({run.folder for run in runs}) == len(runs), "no run may take another's folder"
    for (_, arm, seed), fit in plan.fits.items():
        given = [one for one in fit.args if one.startswith("--data.generator=")]
        assert f"--seed_everything={seed}" in fit.args
        if arm == "real":
            assert given == []
            assert fit.after == ()
            continue
        [generator] = fit.after
        assert generator == plan.generators["generator", seed]
        file = generator.checkpoint.with_name(f"{arm.replace('_', '-')}.ckpt")
        assert given == [f"--data.generator={file}"]
        assert f"--ckpt_path={file}" in measures[arm, seed].args
        assert measures[arm, seed].after == (generator,)


def test_the_shipped_setting_takes_tasks_from_the_generator_and_keeps_its_ages(ages, tmp_path):
    """The learner's own YAML may have no tasks from codes: `make generator-ages` would measure nothing."""
    plan = plan_of(tmp_path, seeds=[0])
    fit = plan.fits[None, "age_200", 0]
    data = checked([arg for arg in fit.args if not arg.startswith("--data.generator=")], set_up=False).datamodule
    assert "decoder" in data.train_tasks.needs
    assert data.train_tasks.share == 1
    callbacks = checked(plan.generators["generator", 0].args, set_up=False).config.trainer.callbacks
    assert [c.class_path.rpartition(".")[2] for c in callbacks] == ["EarlyStopping", "KeepAges"]
    assert callbacks[1].init_args.steps == [0, 200]


def test_numbers_of_the_table(ages, tmp_path):
    metrics = {
        age: [{"fid": 10 + seed, "coverage": 0.5, "recognisability": 0.2} for seed in range(3)] for age in ("0", "best")
    }
    arms = {
        name: Arm(title, {"5w1s": {seed: [middle + 0.01 * seed] * 2 for seed in range(3)}})
        for name, title, middle in (("0", "0 steps", 0.5), ("best", "the best", 0.5), ("real", "real only", 0.6))
    }
    lines = [" ".join(line.split()) for line in ages.table(metrics, arms, "real").splitlines()]
    half = 4.302653 * 1 / sqrt(3)  # t of 2 degrees of freedom; 50, 51, 52 have s = 1
    assert lines[2] == f"| 0 steps | 11.00 ± 1.00 | 0.50 ± 0.00 | 0.20 ± 0.00 | 51.00 ± {half:.2f} | -10.00 ± 0.00 |"
    assert lines[4] == f"| real only | | | | 61.00 ± {half:.2f} | |"
    ages.draw(metrics, arms, "real", tmp_path / "pictures" / "a.png")
    assert (tmp_path / "pictures" / "a.png").stat().st_size > 5000


def test_what_is_wrong_is_one_line(ages):
    with pytest.raises(SystemExit, match="generator_ages: error: --data: 'glyfs' is no file and none of"):
        ages.main(["--data", "glyfs"])


@pytest.mark.slow
def test_the_whole_command_and_that_it_resumes(ages, tmp_path, monkeypatch, capsys):
    generator = (ROOT / "configs" / "generator" / "vae_plain.yaml").read_text()
    (tmp_path / "tiny.yaml").write_text(generator.replace("held_out: 0.2", "held_out: 0.2\n    feature_steps: 2"))
    content = yaml.safe_load((ROOT / "configs" / "compare" / "generator_ages.yaml").read_text())
    debug = "configs/trainer/debug.yaml"
    content |= {"seeds": [0, 1], "generator": str(tmp_path / "tiny.yaml"), "budget": [debug], "name": "ages"}
    content["generator_budget"] += [debug]
    del content["arms"]["age_200"]  # which three steps do not reach
    for arm in content["arms"].values():
        del arm["options"]["trainer.max_epochs"]
    (tmp_path / "ages.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    args = ["--config", str(tmp_path / "ages.yaml"), "--runs", str(tmp_path / "r"), "--workers", "2"]
    args += ["--out", str(tmp_path / "ages.md")]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ages.main(args)
    table = (tmp_path / "ages.md").read_text()
    assert [line.split(" |")[0].strip() for line in table.splitlines()[2:5]] == [
        "| 0 steps",
        "| its best checkpoint",
        "| real tasks only",
    ]
    assert (tmp_path / "pictures" / "ages.png").is_file()
    capsys.readouterr()
    ages.main(args)
    assert "18 runs, 18 finished before" in capsys.readouterr().out
    assert (tmp_path / "ages.md").read_text() == table
    shares = [
        json.loads(p.read_text())["metrics"].get("train/made_up_share", 0)
        for p in (tmp_path / "r" / "ages").glob("*seed?/*/run.json")
        if p.parts[-3].startswith(("age_0-seed", "best-seed", "real-seed"))
    ]
    assert sorted(shares) == [0, 0, 1, 1, 1, 1]
