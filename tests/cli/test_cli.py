"""The command line as a user meets it."""

import csv
import json
import math
import os
import re
import resource
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml
from conftest import OMNIGLOT, PATIENCE, ROOT, slow_but

from genmeta.cli.main import main
from genmeta.cli.parser import Parser
from genmeta.cli.tracking import has_account, wandb_mode
from genmeta.cli.training import TrainingCLI
from genmeta.data.omniglot_minimal import FILES
from genmeta.errors import nearest
from genmeta.models.checkpoint import load_generator
from genmeta.rng import make_rng
from genmeta.shipped import tasks_of

DEBUG = "configs/trainer/debug.yaml"
GAN = "configs/generator/gan_classic.yaml"
CLASSES_GAN = "configs/generator/gan.yaml"
QUICK = "--data.feature_steps=2"  # the network that samples are measured with
PROTONET = "configs/learner/protonet.yaml"
LATENT = "configs/policy/random_other.yaml"  # laid over it: half of the classes from data.generator
REAL = "configs/policy/real_only.yaml"
YAMLS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def run(tmp_path, *args: str) -> int:
    return main([*args, f"--run.folder={tmp_path}"])


def test_every_shipped_yaml_is_run_by_a_test():
    kinds = {Path(path).parts[1] for path in YAMLS}
    parts = {"generator", "learner", "data", "baseline", "trainer", "test", "policy", "budget", "transfer"}
    others = {"compare", "cluster", "sweep"}  # in test_compare.py, test_sweep.py
    assert kinds == {*parts, *others, "tasks"}
    laid_over = {tasks_of(ROOT / path) for path in YAMLS}
    assert laid_over == {"", *(Path(path).stem for path in YAMLS if "/tasks/" in path)}, "each under some learner"
    for path in YAMLS:
        assert (ROOT / path).read_text(encoding="utf-8").startswith("# "), f"{path} does not open with what it is"


# every kind of model trains in test_generator_training.py; three of these YAMLs train for the fixtures of conftest.py
@pytest.mark.parametrize("path", slow_but(["gan", "vae"], [p for p in YAMLS if "/generator/" in p]))
def test_generators_train(tmp_path, path):
    text = (ROOT / path).read_text(encoding="utf-8")
    few = ["--model.importance_samples=2"] if "vae_module" in text or "latent_flow_module" in text else []
    few += ["--model.ode.steps=2"] if "ode_module" in text else []
    few += ["--model.ode.encoding_steps=2"] if "FlowMatching" in text else []
    assert run(tmp_path, "fit", "--config", path, "--config", DEBUG, QUICK, *few) == 0
    (folder,) = tmp_path.glob("*/001")
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    loaded = load_generator(folder / "checkpoints" / "best.ckpt")
    assert loaded.image_shape == (1, 28, 28)
    x, z = torch.rand(3, 1, 28, 28), loaded.prior.sample(3, rng=make_rng(0))
    drawn = loaded.redraw(x, z) if "redrawer" in loaded.networks else loaded.decode(z)
    assert drawn.shape == x.shape
    assert 0 <= drawn.min() <= drawn.max() <= 1
    kind = "redrawn" if "redrawer" in loaded.networks else "samples"
    assert list((folder / "pictures").glob(f"{kind}-*.png"))
    assert (folder / "pictures" / "curves.png").is_file()
    assert len((folder / "metrics.csv").read_text().splitlines()) >= 4
    summary = json.loads((folder / "run.json").read_text())
    assert {"fid", "kid", "precision", "coverage", "recognisability", "memorisation"} <= set(summary["report"])
    assert all(math.isfinite(value) for value in summary["report"].values())
    assert "2 steps, weights" in summary["features"]


@pytest.mark.parametrize("path", slow_but(["protonet", "maml", "fused"], [p for p in YAMLS if "/learner/" in p]))
def test_learners_train_and_test(tmp_path, path, generator, redrawer, capsys):
    models = [f"--data.generator={generator}", f"--data.redrawer={redrawer}"]
    assert run(tmp_path, "fit", "--config", path, "--config", DEBUG, *models) == 0
    (folder,) = tmp_path.glob("*/001")
    assert (folder / "pictures" / "episodes.png").is_file()
    summary = json.loads((folder / "run.json").read_text())
    assert set(summary["episodes"]) == {"val"}
    checkpoint = folder / "checkpoints" / "best.ckpt"
    # the resolved configuration of the run is what tests it
    assert (
        run(tmp_path, "test", "--config", str(folder / "config.yaml"), "--config", DEBUG, f"--ckpt_path={checkpoint}")
        == 0
    )
    (tested,) = tmp_path.glob("*/002")
    summary = json.loads((tested / "run.json").read_text())
    assert {"test/acc_5w1s", "test/acc_5w1s_ci95"} <= set(summary["metrics"])
    assert "test/acc_5w1s" in capsys.readouterr().out


@pytest.mark.parametrize("path", [p for p in YAMLS if Path(p).parts[1] in ("generator", "learner", "policy")])
def test_every_yaml_can_be_read(path):
    """All that it names is there; what it trains like is found out by the tests above and below, of some or slowly."""
    over = [PROTONET] if "/policy/" in path else []
    configs = [f"--config={p}" for p in (*over, path)]
    assert TrainingCLI(["fit", *configs, "--run.wandb=off"], check_only=True, set_up=False).model is not None


@pytest.mark.parametrize("path", slow_but(["simpleshot", "from_scratch"], [p for p in YAMLS if "/baseline/" in p]))
def test_baselines_test(tmp_path, path):
    assert run(tmp_path, "test", "--config", path, "--config", DEBUG) == 0


# new_classes.yaml: test_new_classes.py
@pytest.mark.parametrize("path", [p for p in YAMLS if "/test/" in p and "new_classes" not in p])
def test_tests_of_other_shapes(tmp_path, path, redrawer):
    if "omniglot" in path and not OMNIGLOT.is_dir():
        pytest.skip("the Omniglot zip files are not here")
    data = ["--config", "configs/data/omniglot_minimal.yaml"] if "omniglot" in path else []
    args = ["--config", "configs/baseline/pixels.yaml", *data, "--config", path, f"--data.redrawer={redrawer}"]
    assert run(tmp_path, "test", *args, "--config", DEBUG) == 0
    (folder,) = tmp_path.glob("*/001")
    metrics = json.loads((folder / "run.json").read_text())["metrics"]
    expected = {"test/acc_20w1s_within"} if "within" in path else {"test/acc_5w1s+30redrawn", "test/acc_5w1s+30elastic"}
    assert expected <= set(metrics)


POLICIES = [p for p in YAMLS if "/policy/" in p]
# redrawing alone and with codes, images of real classes from codes, codes around real ones, an adaptive share
QUICK_POLICIES = [
    "umtra_redrawn",
    "redrawn_interpolation",
    "instances_transferred",
    "encoded_noise",
    "interpolation_adaptive",
]


@pytest.mark.parametrize("path", slow_but(QUICK_POLICIES, POLICIES))
def test_policies_train(tmp_path, path, generator, vae, redrawer):
    """Each laid over a learner's YAML, with the checkpoints that its first lines name."""
    text = (ROOT / path).read_text()
    codes = {"generator_classes": CLASSES_GAN}.get(Path(path).stem, vae)
    args = ["--config", PROTONET, "--config", "configs/budget/policies.yaml", "--config", path, "--config", DEBUG]
    if codes is CLASSES_GAN:
        assert run(tmp_path / "gan", "fit", "--config", codes, "--config", DEBUG, QUICK) == 0
        (codes,) = (tmp_path / "gan").glob("*/001/checkpoints/best.ckpt")
        os.environ.pop("GENMETA_RUN_FOLDER")
    args += [f"--data.generator={codes}"] if "--data.generator" in text else []
    args += [f"--data.redrawer={redrawer}"] if "--data.redrawer" in text else []
    assert run(tmp_path, "fit", *args) == 0
    (folder,) = tmp_path.glob("protonet-glyphs/001")
    assert (folder / "pictures" / "episodes.png").is_file()
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    logged = {name: [row[name] for row in rows if row[name]] for name in rows[0]}
    share = {name: float(logged.get(f"train/{name}_share", [0])[0]) for name in ("made_up", "redrawn", "decoded")}
    low, high = {
        **dict.fromkeys(["real", "real_only", "rotations", "elastic", "redrawn", "redrawn_elastic"], (0, 0)),
        **dict.fromkeys(["elastic_quarter", "redrawn_quarter", "redrawn_elastic_quarter"], (0, 0)),
        **dict.fromkeys(["instances_encoded", "instances_transferred"], (0, 0)),
        **dict.fromkeys(["umtra", "umtra_redrawn", "clusters_only", "random_other_only"], (1, 1)),
        **dict.fromkeys(["interpolation_adaptive", "redrawn_interpolation"], (0.2, 0.3)),
    }.get(Path(path).stem, (0.45, 0.55))
    assert low <= share["made_up"] <= high
    redrawn = {"redrawn": 1, "redrawn_elastic": 1, "redrawn_deformed": 1, "redrawn_interpolation": 1 - share["made_up"]}
    redrawn |= {
        "redrawn_quarter": 0.25,
        "redrawn_elastic_quarter": 0.25,
        "umtra_redrawn": 2 / 3,
    }  # three images a class
    assert share["redrawn"] == pytest.approx(redrawn.get(Path(path).stem, 0), abs=0.01)
    decoded = {"instances_encoded": 0.5, "instances_transferred": 0.5, "encoded_noise": share["made_up"] * 2 / 3}
    decoded |= dict.fromkeys(["clusters", "clusters_only", "deformed_classes", "redrawn_deformed", "cut_and_paste"], 0)
    decoded |= dict.fromkeys(["umtra", "umtra_redrawn"], 0)
    assert share["decoded"] == pytest.approx(decoded.get(Path(path).stem, share["made_up"]), abs=0.01)


@pytest.mark.parametrize(
    "name", slow_but(["omniglot_minimal_set2"], ["glyphs", "glyphs_full", "omniglot_minimal", "omniglot_minimal_set2"])
)  # others: tests/data/test_data_sets.py
def test_data_sets_train_both_kinds(tmp_path, name):
    path = f"configs/data/{name}.yaml"
    if "omniglot" in path and not OMNIGLOT.is_dir():
        pytest.skip("the Omniglot zip files are not here")
    assert run(tmp_path, "fit", "--config", GAN, "--config", path, "--config", DEBUG, QUICK) == 0
    checkpoint = tmp_path / "gan_classic-glyphs" / "001" / "checkpoints" / "best.ckpt"
    configs = ["--config", PROTONET, "--config", LATENT, "--config", path, "--config", DEBUG]
    args = [*configs, f"--data.generator={checkpoint}"]
    assert run(tmp_path, "fit", *args) == 0


# ddp.yaml: test_launchers.py
@pytest.mark.parametrize(
    "path", slow_but(["cpu", "gpu", "slurm"], [p for p in YAMLS if "/trainer/" in p and "debug" not in p])
)
def test_trainer_settings(tmp_path, path):
    if ("gpu" in path or "slurm" in path) and not torch.cuda.is_available():
        pytest.skip("no GPU")  # slurm.yaml on CPUs: test_faults.py
    if "slurm" in path:
        pytest.skip("needs two nodes of four GPUs")
    if "ddp" in path:
        # a process that starts others runs as a command
        args = [
            "fit",
            "--config",
            PROTONET,
            "--config",
            REAL,
            "--config",
            path,
            "--config",
            DEBUG,
            f"--run.folder={tmp_path}",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "genmeta", *args], capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr
    else:
        assert run(tmp_path, "fit", "--config", PROTONET, "--config", REAL, "--config", path, "--config", DEBUG) == 0
    (folder,) = tmp_path.glob("*/*")  # one run, one folder
    assert json.loads((folder / "run.json").read_text())["stage"] == "fit"


def test_validating_a_generator_gives_the_report_of_its_training(tmp_path, generator, capsys):
    run_folder = generator.parents[1]
    args = ["--config", str(run_folder / "config.yaml"), f"--ckpt_path={generator}"]
    assert run(tmp_path, "validate", *args, "--run.version=null") == 0
    (folder,) = tmp_path.glob("*/001")
    reports = [json.loads((path / "run.json").read_text())["report"] for path in (run_folder, folder)]
    assert reports[0] == pytest.approx(reports[1], rel=1e-4)
    assert "recognisability" in capsys.readouterr().out


def test_same_seed_gives_the_same_metrics_file_and_another_does_not(tmp_path, generator):
    args = ["fit", "--config", PROTONET, "--config", LATENT, "--config", DEBUG, f"--data.generator={generator}"]
    for seed in (0, 0, 1):
        assert run(tmp_path, *args, f"--seed_everything={seed}") == 0
    files = [(tmp_path / "protonet-glyphs" / f"00{i}" / "metrics.csv").read_bytes() for i in (1, 2, 3)]
    assert files[0] == files[1] != files[2]


def test_reuse_finds_the_same_run_only(tmp_path, capsys):
    args = ["fit", "--config", GAN, "--config", DEBUG, QUICK, "--run.reuse=true"]
    for more in ([], [], ["--data.batch_size=32"], []):
        assert run(tmp_path, *args, *more) == 0
    assert sorted(p.name for p in (tmp_path / "gan_classic-glyphs").iterdir()) == ["001", "002"]


def test_a_named_version_is_never_overwritten(tmp_path, capsys):
    args = ["fit", "--config", PROTONET, "--config", REAL, "--config", DEBUG, "--run.version=mine"]
    assert run(tmp_path, *args) == 0
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert run(tmp_path, *args) == 2
    assert "exists already; nothing was overwritten" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def edited(tmp_path, path: str, change) -> str:
    content = yaml.safe_load((ROOT / path).read_text())
    change(content)
    file = tmp_path / "edited.yaml"
    file.write_text(yaml.safe_dump(content))
    return str(file)


def rename(*path: str):
    """Return a change of a YAML: the last of `path` is what the key before it is called."""

    def change(content):
        *parents, old, new = path
        for key in parents:
            content = content[key]
        content[new] = content.pop(old)

    return change


def put(*path):
    def change(content):
        *parents, key, value = path
        for parent in parents:
            content = content[parent]
        content[key] = value

    return change


BAD_YAMLS = [
    (rename("data", "init_args", "batch_size", "batch_sise"), r"'data\.batch_sise'; did you mean 'batch_size'\?"),
    (rename("trainer", "max_epochs", "max_epoch"), r"'trainer\.max_epoch'; did you mean 'trainer\.max_epochs'\?"),
    (rename("data", "init_args", "batch_size", "bat"), r"'data\.bat'; did you mean 'batch_size'\?"),
    (rename("trainer", "trainr"), r"did you mean 'trainer\.callbacks'\?"),
    (
        rename("model", "init_args", "generator", "init_args", "latent_dim", "latent_dmi"),
        r"'model\.generator\.latent_dmi'; did you mean 'latent_dim'\?",
    ),
    (put("data", "init_args", "steps_per_epoch", "many"), r"data\.steps_per_epoch: expected int, found 'many'"),
    (
        put("data", "init_args", "batch_size", 10**6),
        r"batch_size is 1000000, but the meta-train classes have \d+ images",
    ),
    (put("data", "init_args", "held_out", 1.5), r"0 < held_out < 1"),
    (
        put("model", "init_args", "objective", "genmeta.models.gan_objectives.NonSaturatin"),
        r"did you mean '.*NonSaturating'\?",
    ),
    (
        put("model", "init_args", "generator", "class_path", "genmeta.models.gan_networks.FullyConnectedDiscriminator"),
        "is not a Generator",
    ),
    (put("model", "class_path", "genmeta.modules.gan_modul.GANModule"), r"did you mean '.*gan_module\.GANModule'\?"),
    (
        put("model", "init_args", "generator", "init_args", "image_shape", [3, 28, 28]),
        r"\[3, 28, 28\], but the data have \[1, 28",
    ),
    (put("data", "init_args", "split", "glyphs_minimla"), r"did you mean 'glyphs_minimal'\?"),
    (
        put("data", "init_args", "split", "omniglot_minimal"),
        "is for data set 'omniglot_minimal', but the data are 'glyphs'",
    ),
    (
        put("model", "init_args", "optimizer", "init_args", "lr", "fast"),
        r"model\.optimizer\.lr: expected float, found 'fast'",
    ),
    (put("model", "init_args", "optimizer", "class_path", "collections.OrderedDict"), "is not a subclass of Optimizer"),
    (put("model", "class_path", "collections.OrderedDict"), "'collections.OrderedDict' is not a LightningModule"),
    (put("model", "init_args", "generator", "init_args", "hidden", []), "sizes must be at least 1, found .* layers=0"),
    (put("data", "class_path", "genmeta.modules.episodic_data.EpisodicDataModule"), r"data"),
]


@pytest.mark.parametrize(("change", "message"), BAD_YAMLS, ids=[m for _, m in BAD_YAMLS])
def test_bad_yaml_gives_one_line_and_leaves_nothing_behind(tmp_path, capsys, change, message):
    path = edited(tmp_path, GAN, change)
    assert run(tmp_path / "runs", "fit", "--config", path) == 2
    assert_one_line(capsys, message)
    assert not (tmp_path / "runs").exists()


def assert_one_line(capsys, message: str) -> None:
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("genmeta: error: ")
    assert re.search(message, captured.err), captured.err
    assert "usage" not in captured.out + captured.err
    assert "Traceback" not in captured.out + captured.err


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("data.sour.folder", "data.source.folder"),  # run.folder has more letters of it
        ("data.soruce.folder", "data.source.folder"),
        ("trainer.max_ep", "trainer.max_epochs"),
        ("traner.max_epochs", "trainer.max_epochs"),
        ("model.tasks_per_step", "data.tasks_per_step"),
        ("learner", "model.learner"),
        ("ckpt", "ckpt_path"),
    ],
)
def test_the_nearest_option_is_of_the_same_group_where_one_is_like_it(word, wanted):
    known = ["data", "data.source", "data.split", "data.tasks_per_step", "model", "model.learner", "run", "run.folder"]
    known += ["trainer", "trainer.max_epochs", "trainer.max_steps", "ckpt_path", "config"]
    assert nearest(word, known) == f"; did you mean '{wanted}'?"


BAD_ARGS = [
    (["fti", "--config", GAN], "no command 'fti'.* did you mean 'fit'"),
    (["fit"], "data, model not given; pass a YAML with --config"),
    (["validate"], "error: data, model not given; pass a YAML with --config"),  # as they are given, not validate.data
    (["fit", "--config", "configs/nothing.yaml"], "configs/nothing.yaml"),
    (
        ["fit", "--config", PROTONET, "--config", LATENT, "--data.train_tasks.shar", "1"],
        r"train_tasks\.shar'; did you mean 'share'",
    ),
    (["fit", "--config", PROTONET, "--data.low_data.clas", "3"], r"low_data\.clas'; did you mean 'classes'"),
    (
        ["fit", "--config", PROTONET, "--config", LATENT, "--data.train_tasks.latent.sep", "1"],
        r"latent\.sep'; did you mean 'separation'",
    ),
    (["fit", "--config", GAN, "--trainer.max_epoch", "3"], r"did you mean 'trainer\.max_epochs'"),
    (["fit", "--config", GAN, "--trainer.max_epochs", "few"], r"trainer\.max_epochs"),
    (["fit", "--config", GAN, "--run.wandb", "sometimes"], r"run\.wandb: expected one of 'auto', .* found 'sometimes'"),
    (["fit", "--config", GAN, "--seed_everything", "x"], "seed_everything: expected bool or int, found 'x'"),
    (
        ["fit", "--config", PROTONET, "--config", LATENT, "--data.train_tasks.latent.policy", "Othrclass"],
        r"latent\.policy: cannot find class .* did you mean 'genmeta\.tasks\.policies\.OtherClass'",
    ),
    (
        ["fit", "--config", "configs/learner/maml.yaml", "--data.train_tasks.real.groups", "inside"],
        "train_tasks.real.groups: expected one of 'any', 'within', 'across', found 'inside'",
    ),
    (["fit", "--config", PROTONET, "--data.train_tasks.share", "2"], r"share must be in \[0, 1\], found 2"),
    (
        ["fit", "--config", PROTONET, "--config", REAL, "--data.train.n_way", "5000"],
        r"data\.train: n_way is 5000, but .* 596 classes",
    ),
    (
        ["fit", "--config", PROTONET, "--config", REAL, "--data.val.n_way", "99"],
        r"data\.val: n_way is 99, .* only 52 classes",
    ),
    (["fit", "--config", PROTONET, "--config", REAL, "--data.train.n_query", "40"], "smallest class has 20 images"),
    (["fit", "--config", PROTONET, "--config", REAL, "--data.train.n_shot", "0"], "n_shot >= 1"),
    (["fit", "--config", PROTONET], r"data\.redrawer is not set"),
    (["fit", "--config", PROTONET, "--config", LATENT], r"data\.generator is not set"),
    (["fit", "--config", PROTONET, "--data.redrawer", "nowhere.ckpt"], r"checkpoint nowhere\.ckpt: no such file"),
    (["test", "--config", PROTONET, "--ckpt_path", "nowhere.ckpt"], r"checkpoint nowhere\.ckpt: no such file"),
    (
        ["fit", "--config", "configs/learner/maml.yaml", "--config", REAL, "--data.train.n_way", "7"],
        "n_way=5, but .* n_way=7",
    ),
    (["fit", "--config", "configs/baseline/pixels.yaml"], "has nothing to train"),
    (
        ["fit", "--config", PROTONET, "--config", REAL, "--trainer.precision", "bf16-true"],
        "bf16-mixed and 16-mixed",
    ),
    (  # Lightning would take 1,000 epochs
        ["fit", "--config", PROTONET, "--config", REAL, "--trainer.max_epochs", "null"],
        "trainer.max_epochs: found null, and no max_steps",
    ),
    (
        ["fit", "--config", GAN, "--config", "configs/data/omniglot_minimal.yaml", "--data.source.folder", "nowhere"],
        r"nowhere/images_background_small1\.zip: no such file; put",
    ),
]


@pytest.mark.parametrize(("args", "message"), BAD_ARGS, ids=[" ".join(a) for a, _ in BAD_ARGS])
def test_bad_arguments_give_one_line_and_leave_nothing_behind(tmp_path, capsys, args, message):
    more = [f"--run.folder={tmp_path / 'runs'}"] if len(args) > 1 and args[0] in ("fit", "test") else []
    assert main([*args, *more]) == 2
    assert_one_line(capsys, message)
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_told_in_one_line(tmp_path, capsys):
    assert run(tmp_path / "runs", "fit", "--config", GAN, "--config", "configs/trainer/gpu.yaml") == 2
    assert_one_line(capsys, "trainer: .*gpu")
    assert not list((tmp_path / "runs").glob("*/*"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data", "glyfs"], "'glyfs' is no file and none of .*glyphs, .* did you mean 'glyphs'"),
        (["--learner", "protonets"], "did you mean 'protonet'"),
        (["--generator", "gna"], "did you mean 'gan'"),
        (["--policy", "interpolation", "--generator", "vae_deformation"], "which draws given images again"),
        (["--policy", "redrawn", "--redrawer", "vae_plain"], "which draws from codes"),
        (["--policy", "interpolate"], "did you mean 'interpolation'"),
        (["--seed", "x"], "invalid int value"),
        (["--sede", "1"], "--sede"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
    ],
)
def test_bad_experiment_gives_one_line_and_leaves_nothing_behind(tmp_path, capsys, args, message):
    assert main(["experiment", "--runs", str(tmp_path / "runs"), *args]) == 2
    assert_one_line(capsys, message)
    assert not (tmp_path / "runs").exists()


def test_damaged_and_foreign_generators_are_refused(tmp_path, capsys, generator):
    (tmp_path / "cut.ckpt").write_bytes(generator.read_bytes()[:10000])
    args = ["fit", "--config", PROTONET, "--config", LATENT, "--config", DEBUG]
    assert run(tmp_path / "runs", *args, f"--data.generator={tmp_path / 'cut.ckpt'}") == 2
    assert_one_line(capsys, r"cut\.ckpt: cannot be read; it is cut off or damaged")
    assert run(tmp_path / "runs", *args, f"--data.generator={generator}", "--data.split=glyphs_full") == 2
    assert_one_line(capsys, "trained on split 'glyphs_minimal' .* uses split 'glyphs_full'")
    other = torch.load(generator, weights_only=True)
    other["genmeta"]["networks"]["decoder"]["args"]["image_shape"] = [1, 14, 56]
    torch.save(other, tmp_path / "size.ckpt")
    assert run(tmp_path / "runs", *args, f"--data.generator={tmp_path / 'size.ckpt'}") == 2
    assert_one_line(capsys, r"\[1, 14, 56\], but the data have \[1, 28, 28\]")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found an empty file"),
        (b"- 1\n- 2\n", "expected a YAML of nested options, found - 1"),
        (bytes(range(128, 256)), "not a text file"),
        (b"model: [1\ndata", "Problems parsing config"),
        (b"x: !!python/object/apply:os.mkdir [ran]\n", "Problems parsing config"),
    ],
)
def test_files_that_are_no_configuration_are_refused_and_run_nothing(tmp_path, capsys, monkeypatch, content, message):
    (tmp_path / "bad.yaml").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    assert run(tmp_path / "runs", "fit", "--config", "bad.yaml") == 2
    assert_one_line(capsys, message)
    assert not (tmp_path / "ran").exists()


def test_checkpoints_of_another_model_are_refused(tmp_path, capsys, generator):
    args = ["--config", PROTONET, f"--ckpt_path={generator}"]
    assert run(tmp_path / "runs", "test", *args) == 2
    assert_one_line(capsys, r"is not of this model: it has \S+ .*; use the config\.yaml of the checkpoint's run")
    (tmp_path / "cut.ckpt").write_bytes(generator.read_bytes()[:10000])
    assert run(tmp_path / "runs", "test", "--config", PROTONET, f"--ckpt_path={tmp_path / 'cut.ckpt'}") == 2
    assert_one_line(capsys, r"cut\.ckpt: cannot be read")
    assert run(tmp_path / "runs", "test", "--config", GAN) == 2
    assert_one_line(capsys, "genmeta test is for learners; use genmeta validate for a GANModule")
    assert not (tmp_path / "runs").exists()


def test_a_cut_off_zip_is_refused(tmp_path, capsys):
    for name in FILES:
        (tmp_path / name).write_bytes(b"PK\x03\x04" + bytes(1000))
    args = ["--config", GAN, "--config", "configs/data/omniglot_minimal.yaml", f"--data.source.folder={tmp_path}"]
    assert run(tmp_path / "runs", "fit", *args) == 2
    assert_one_line(capsys, r"small1\.zip: cut off, damaged, or no zip")


def test_bad_input_as_a_command_exits_in_seconds_without_a_traceback(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    args = ["fit", "--config", GAN, "--data.batch_sise=3", f"--run.folder={tmp_path / 'runs'}"]
    done = subprocess.run([sys.executable, "-m", "genmeta", *args], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert (done.stdout, done.stderr) == (
        "",
        "genmeta: error: unknown option 'data.batch_sise'; did you mean 'batch_size'?\n",
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # processor time, which a busy machine hardly changes
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 30


class Listener:
    """Counts connections to a port of this machine and answers none."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()


@pytest.mark.slow  # test_tracking.py records runs of all kinds offline, and that they connect to nothing
def test_without_an_account_wandb_is_offline_silent_complete_and_connects_to_nothing(tmp_path, generator):
    listener = Listener()
    here = f"http://127.0.0.1:{listener.port}"
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_") and not k.lower().endswith("_proxy")}
    env |= {"HOME": str(tmp_path / "home"), "WANDB_BASE_URL": here, "HTTPS_PROXY": here, "HTTP_PROXY": here}
    env |= {"GENMETA_CACHE": os.environ.get("GENMETA_CACHE", str(Path.home() / ".cache" / "genmeta"))}
    configs = ["--config", PROTONET, "--config", LATENT, "--config", DEBUG]
    args = ["fit", *configs, f"--run.folder={tmp_path}", f"--data.generator={generator}"]
    done = subprocess.run(
        [sys.executable, "-m", "genmeta", *args],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=env,
        stdin=subprocess.DEVNULL,
    )
    listener.socket.close()
    assert done.returncode == 0, done.stderr
    assert "wandb" not in (done.stdout + done.stderr).replace(str(tmp_path), "").lower()
    assert listener.connections == 0
    assert not (tmp_path / "home").exists() or not list((tmp_path / "home").rglob("*.wandb"))
    (folder,) = tmp_path.glob("protonet-glyphs/001/wandb/offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    read = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=env, check=True).stdout
    for key in (
        "train/loss",
        "train/acc_real",
        "train/acc_decoded",
        "train/decoded_share",
        "train/made_up_share",
        "val/acc",
        "pictures/episodes",
    ):
        assert key in read, f"{key} is not in the W&B run"
    assert "glyphs_minimal" in read, "the configuration is not in the W&B run"


@pytest.mark.slow  # W&B tries for 20 s
def test_an_unreachable_server_means_offline_not_a_hang_or_a_crash(tmp_path):
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    args = ["fit", "--config", GAN, "--config", DEBUG, QUICK, f"--run.folder={tmp_path}"]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else can
        env |= {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{closed.getsockname()[1]}"}
        done = subprocess.run(
            [sys.executable, "-m", "genmeta", *args], capture_output=True, text=True, timeout=PATIENCE, env=env
        )
    assert done.returncode == 0, done.stderr
    assert "W&B cannot be used online" in done.stdout
    assert list(tmp_path.glob("gan_classic-glyphs/001/wandb/offline-run-*/*.wandb"))


@pytest.mark.parametrize(
    ("wish", "env", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "x" * 40}, "online"),
        ("auto", {"WANDB_API_KEY": "x" * 40, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "off"),
        ("off", {"WANDB_API_KEY": "x" * 40}, "off"),
        ("offline", {"WANDB_API_KEY": "x" * 40}, "offline"),
        ("online", {}, "online"),
    ],
)
def test_wandb_mode_follows_the_wish_then_the_environment_then_the_account(tmp_path, monkeypatch, wish, env, mode):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert wandb_mode(wish) == mode


def test_an_account_is_found_where_wandb_login_puts_it(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not has_account()
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password " + "x" * 40 + "\n")
    assert has_account()


def test_help_and_make_help_list_what_there_is(capsys):
    assert main(["--help"]) == 0
    assert "experiment" in capsys.readouterr().out
    shown = subprocess.run(["make", "help"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    for target in [
        "setup",
        "train-gan",
        "train-vae",
        "train-flow",
        "train-diffusion",
        "meta-train",
        "meta-test",
        "challenge",
        "bench-sampling",
        "test",
        "test-all",
        "check",
        "format",
        "clean",
    ]:
        assert re.search(rf"^  {target}  +\w", shown, flags=re.M), target


def test_only_the_parser_that_is_asked_for_is_made_and_it_parses_once(monkeypatch):
    """A command took twice as long to read its options: by the parsers of all commands, and checked by two of them."""
    made, parsed = [], []
    make, parse_args = Parser.__init__, Parser.parse_args
    monkeypatch.setattr(Parser, "__init__", lambda self, *a, **k: made.append(k) or make(self, *a, **k))
    monkeypatch.setattr(Parser, "parse_args", lambda self, *a, **k: parsed.append(self) or parse_args(self, *a, **k))
    cli = TrainingCLI(["fit", "--config", PROTONET, "--config", REAL], check_only=True, set_up=False)
    assert parsed == [cli.parser]
    of_command = [given for given in made if "prog" in given]  # the others are of classes that options are of
    assert [given["prog"] for given in of_command] == ["genmeta fit"]


@pytest.mark.slow
def test_a_policy_is_the_same_over_any_learners_yaml():
    """Options with the same name in the class that was there before are kept when YAMLs are merged."""
    of_classes = {  # one YAML of those that name the same classes
        tuple(re.findall(r"class_path: (\S+)", (ROOT / p).read_text())): p
        for p in YAMLS
        if "/policy/" in p and "real_only" not in p  # which is what a learner's own YAML makes of it
    }
    assert len(of_classes) > 10
    for path in of_classes.values():
        over = []
        for learner in (PROTONET, "configs/learner/maml.yaml"):
            cli = TrainingCLI(["fit", "--config", learner, "--config", path], check_only=True, set_up=False)
            over.append(re.sub(" at 0x[0-9a-f]+", "", repr(cli.datamodule.train_tasks)))
        assert over[0] == over[1], path
