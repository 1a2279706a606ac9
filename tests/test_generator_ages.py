"""One generator at several ages: what is kept, the grid of runs, the table's numbers."""

import importlib.util
import json
from math import sqrt

import pytest
import torch
from conftest import ROOT
from test_generator_training import gan, images_of, vae
from test_training import trainer_for

from genmeta.cli.training import TrainingCLI
from genmeta.errors import UserError
from genmeta.experiments.results import Arm
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


def test_the_grid_compares_like_with_like(ages, tmp_path):
    options = ages.parse(["--runs", str(tmp_path), "--seeds", "3", "4", "--ages", "20", "0", "--", "--data.x=1"])
    generators, measures, tests = ages.grid(options)
    assert list(generators) == [3, 4]
    assert list(measures) == [(age, seed) for seed in (3, 4) for age in (0, 20, "best")]
    assert list(tests) == [(age, seed) for seed in (3, 4) for age in (0, 20, "best", "real tasks only")]
    runs = [*generators.values(), *measures.values(), *(run for t in tests.values() for run in (t, *t.after))]
    assert len({run.folder for run in runs}) == len(runs), "no run may take another's folder"
    for (age, seed), test in tests.items():
        (fit,) = test.after
        assert f"--seed_everything={seed}" in fit.args
        assert "--data.x=1" in fit.args
        assert f"--ckpt_path={fit.checkpoint}" in test.args
        given = [arg for arg in fit.args if arg.startswith("--data.generator=")]
        if age == "real tasks only":
            assert given == []
            assert fit.args.index("--data.x=1") < [a.endswith("real_only.yaml") for a in fit.args].index(True)
            continue
        name = "best" if age == "best" else f"age-{age}"
        assert given == [f"--data.generator={generators[seed].checkpoint.parent / name}.ckpt"]
        assert f"--ckpt_path={generators[seed].checkpoint.parent / name}.ckpt" in measures[age, seed].args
        assert fit.after == measures[age, seed].after == (generators[seed],)


def test_the_shipped_setting_takes_tasks_from_the_generator(ages, tmp_path):
    """The learner's own YAML may have no tasks from codes: `make generator-ages` would measure nothing."""
    _, _, tests = ages.grid(ages.parse(["--runs", str(tmp_path)]))
    fit = next(test.after[0] for (age, _), test in tests.items() if age == 0)
    configs = [arg for arg in fit.args if not arg.startswith("--data.generator=")]
    data = TrainingCLI(configs, check_only=True, set_up=False).datamodule
    assert "decoder" in data.train_tasks.needs


def test_numbers_of_the_table(ages, tmp_path):
    metrics = {
        age: [{"fid": 10 + seed, "coverage": 0.5, "recognisability": 0.2} for seed in range(3)] for age in (0, "best")
    }
    arms = {
        name: Arm(ages.title(age), {"5w1s": {seed: [middle + 0.01 * seed] * 2 for seed in range(3)}})
        for name, age, middle in (("0", 0, 0.5), ("best", "best", 0.5), (ages.REAL, ages.REAL, 0.6))
    }
    lines = [" ".join(line.split()) for line in ages.table(metrics, arms).splitlines()]
    half = 4.302653 * 1 / sqrt(3)  # t of 2 degrees of freedom; 50, 51, 52 have s = 1
    assert lines[2] == f"| 0 steps | 11.00 ± 1.00 | 0.50 ± 0.00 | 0.20 ± 0.00 | 51.00 ± {half:.2f} | -10.00 ± 0.00 |"
    assert lines[4] == f"| real tasks only | | | | 61.00 ± {half:.2f} | |"
    ages.draw(metrics, arms, tmp_path / "pictures" / "a.png")
    assert (tmp_path / "pictures" / "a.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("args", "message"),
    [(["--learner", "nobody"], "'nobody' is no file and none of"), (["--seeds", "0"], "needs 2 seeds")],
)
def test_wrong_options_are_one_line(ages, capsys, args, message):
    with pytest.raises(SystemExit):
        ages.parse(args)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_command_and_that_it_resumes(ages, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    generator = (ROOT / "configs" / "generator" / "vae_plain.yaml").read_text()
    (tmp_path / "tiny.yaml").write_text(generator.replace("held_out: 0.2", "held_out: 0.2\n    feature_steps: 2"))
    args = [
        "--generator",
        str(tmp_path / "tiny.yaml"),
        "--ages",
        "0",
        "--seeds",
        "0",
        "1",
        "--runs",
        str(tmp_path / "r"),
    ]
    args += ["--config", "configs/trainer/debug.yaml", "--workers", "2", "--out", str(tmp_path / "out" / "ages.md")]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ages.main([*args, "--", "--data.train_tasks.share=1"])
    table = (tmp_path / "out" / "ages.md").read_text()
    assert [line.split(" |")[0].strip() for line in table.splitlines()[2:5]] == [
        "| 0 steps",
        "| its best checkpoint",
        "| real tasks only",
    ]
    assert (tmp_path / "out" / "pictures" / "ages.png").is_file()
    capsys.readouterr()
    ages.main([*args, "--", "--data.train_tasks.share=1"])
    assert "18 runs, 18 finished before" in capsys.readouterr().out
    assert (tmp_path / "out" / "ages.md").read_text() == table
    shares = [
        json.loads(p.read_text())["metrics"].get("train/made_up_share", 0)
        for p in (tmp_path / "r").glob("proto*seed?/*/run.json")
    ]
    assert sorted(shares) == [0, 0, 1, 1, 1, 1]
