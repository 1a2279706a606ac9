"""A training that goes on with other settings uses them and says so, or is refused before it begins."""

import ast
import importlib
import itertools
import json

import pytest
import torch
from conftest import ROOT
from small_runs import MODELS, config, fit, newest, part, write

pytestmark = pytest.mark.usefixtures("cache_of_session")

STEP = part("torch.optim.lr_scheduler.StepLR", step_size=1, gamma=0.5)
EARLY = part("lightning.pytorch.callbacks.EarlyStopping", monitor="val/acc", mode="max", patience=7)


@pytest.fixture(scope="module")
def begun(tmp_path_factory, pictures):
    """Return what trains a kind of module for an epoch, with a schedule, and gives its YAML's content and last."""
    made = {}

    def make(kind, scheduled=True, **model):
        key = (kind, scheduled, *sorted(map(str, model.items())))
        if key not in made:
            root = tmp_path_factory.mktemp("begun")
            content = config(kind, pictures)
            content["model"]["init_args"] |= {"lr_scheduler": STEP if scheduled else None, **model}
            if kind == "learner":
                content["trainer"]["callbacks"] = [EARLY]
            assert fit(write(root / "first.yaml", content), root / "runs") == 0
            made[key] = content, newest(root / "runs") / "checkpoints" / "last.ckpt"
        return made[key]

    return make


META_SGD = part(
    "genmeta.learners.maml.MetaSGD",
    backbone=part("genmeta.models.backbones.Conv4", hidden=4, norm="batch"),
    n_way=3,
    inner_lr=0.1,
)


def go_on(tmp_path, begun_with, *options):
    content, last = begun_with
    yaml_file = write(tmp_path / "then.yaml", content)
    return fit(yaml_file, tmp_path / "runs", "--trainer.max_epochs=2", f"--ckpt_path={last}", *options)


def optimizers(tmp_path):
    checkpoint = torch.load(newest(tmp_path / "runs") / "checkpoints" / "last.ckpt", weights_only=True)
    return [state["param_groups"][0] for state in checkpoint["optimizer_states"]]


@pytest.mark.parametrize("kind", MODELS)
def test_another_learning_rate_is_used_by_every_kind_of_module(kind, tmp_path, begun, capsys):
    assert go_on(tmp_path, begun(kind, scheduled=False), "--model.optimizer.init_args.lr=0.125") == 0
    assert {group["lr"] for group in optimizers(tmp_path)} == {0.125}
    said = capsys.readouterr().err
    assert said.count("with model.optimizer: lr 0.125 in place of 0.001") == 1
    assert "lr: 0.125" in (newest(tmp_path / "runs") / "config.yaml").read_text()


@pytest.mark.parametrize("kind", MODELS)
def test_a_schedule_goes_on_from_where_it_was_with_the_new_rate(kind, tmp_path, begun):
    assert go_on(tmp_path, begun(kind), "--model.optimizer.init_args.lr=0.25") == 0
    # halved after each of two epochs; the last is written before Lightning steps a schedule, after ours for a GAN
    assert {group["lr"] for group in optimizers(tmp_path)} <= {0.125, 0.0625}
    assert {group["initial_lr"] for group in optimizers(tmp_path)} == {0.25}


@pytest.mark.parametrize("kind", MODELS)
def test_a_schedule_resumed_equals_one_that_nothing_stopped(kind, tmp_path, begun):
    content, last = begun(kind)
    assert go_on(tmp_path, (content, last), "--trainer.max_epochs=3") == 0
    resumed = torch.load(newest(tmp_path / "runs") / "checkpoints" / "last.ckpt", weights_only=True)
    assert fit(write(tmp_path / "whole.yaml", content), tmp_path / "whole", "--trainer.max_epochs=3") == 0
    whole = torch.load(newest(tmp_path / "whole") / "checkpoints" / "last.ckpt", weights_only=True)
    for a, b in zip(resumed["optimizer_states"], whole["optimizer_states"], strict=True):
        assert a["param_groups"] == b["param_groups"]
    assert resumed["lr_schedulers"] == whole["lr_schedulers"]
    torch.testing.assert_close(resumed["state_dict"], whole["state_dict"], rtol=0, atol=0)


OTHER = {
    "an optimiser's setting": (
        "--model.optimizer.init_args.weight_decay=0.5",
        "model.optimizer: weight_decay 0.5 in place of 0",
    ),
    "a schedule's setting": (
        "--model.lr_scheduler.init_args.gamma=0.1",
        "model.lr_scheduler: gamma 0.1 in place of 0.5",
    ),
    "a callback's setting": (
        f"--trainer.callbacks=[{json.dumps({**EARLY, 'init_args': {**EARLY['init_args'], 'patience': 2}})}]",
        "trainer.callbacks: EarlyStopping.patience 2 in place of 7",
    ),
}


@pytest.mark.parametrize("setting", OTHER)
def test_what_is_set_otherwise_is_used_and_told(setting, tmp_path, begun, capsys):
    option, told = OTHER[setting]
    assert go_on(tmp_path, begun("learner"), option) == 0
    assert told in capsys.readouterr().err
    checkpoint = torch.load(newest(tmp_path / "runs") / "checkpoints" / "last.ckpt", weights_only=True)
    found = str({key: checkpoint[key] for key in ("optimizer_states", "lr_schedulers", "callbacks")})
    name, value, *_ = told.removeprefix("trainer.callbacks: EarlyStopping.").split(": ")[-1].split()
    assert f"'{name}': {value}" in found


REFUSED = {
    "another optimiser": ("--model.optimizer=torch.optim.SGD", "model.optimizer: found torch.optim.sgd.SGD"),
    "another schedule": (
        "--model.lr_scheduler=torch.optim.lr_scheduler.ConstantLR",
        "model.lr_scheduler: found torch.optim.lr_scheduler.ConstantLR",
    ),
    "no schedule": ("--model.lr_scheduler=null", "model.lr_scheduler: found none"),
}


@pytest.mark.parametrize(("kind", "what"), [*itertools.product(["learner"], REFUSED), ("gan", "another optimiser")])
def test_a_state_that_means_nothing_to_another_is_refused_before_training(kind, what, tmp_path, begun, capsys):
    option, told = REFUSED[what]
    assert go_on(tmp_path, begun(kind), option) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()


def test_the_same_settings_go_on_without_a_word(tmp_path, begun, capsys):
    assert go_on(tmp_path, begun("learner")) == 0
    assert "in place of" not in capsys.readouterr().err


def test_what_learned_parameters_only_begin_with_is_refused_and_what_is_used_is_told(tmp_path, begun, capsys):
    begun_with = begun("learner", scheduled=False, learner=META_SGD)
    assert go_on(tmp_path, begun_with, "--model.learner.inner_lr=0.2") == 2
    said = capsys.readouterr().err
    assert "model.learner.inner_lr: found 0.2, but checkpoint" in said
    assert "leave it at 0.1" in said
    assert not (tmp_path / "runs").exists()
    assert go_on(tmp_path, begun_with, "--model.learner.eval_inner_steps=2") == 0
    assert "with model.learner.eval_inner_steps 2 in place of None" in capsys.readouterr().err


@pytest.mark.parametrize("module", sorted(p.stem for p in (ROOT / "genmeta" / "learners").glob("*.py")))
def test_every_argument_that_only_learned_parameters_begin_with_says_so(module):
    """A parameter that is made of a number among the arguments, which is kept nowhere else."""
    tree = ast.parse((ROOT / "genmeta" / "learners" / f"{module}.py").read_text(encoding="utf-8"))
    for found in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for made in (n for n in ast.walk(found) if isinstance(n, ast.Call) and ast.unparse(n.func) == "nn.Parameter"):
            init = next(n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
            numbers = {a.arg for a in init.args.args if a.annotation and ast.unparse(a.annotation) == "float"}
            used = {n.id for n in ast.walk(made) if isinstance(n, ast.Name)} & numbers
            used |= {"inner_lr"} if "self.inner_lr" in ast.unparse(found) else set()
            learner = getattr(importlib.import_module(f"genmeta.learners.{module}"), found.name)
            assert used <= learner.begins_with
