"""Mixed precision: what runs in which type, and that training stays near float32's; torch.compile."""

import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from conftest import PATIENCE, ROOT, slow_but
from lightning.pytorch import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from test_generator_training import MODELS, gan, images_of, vae
from test_processes import YAMLS, parts
from test_training import trainer_for, weights
from torch import nn

from genmeta.cli.main import main

QUICK = ("protonet", "maml")
LEARNERS = [pytest.param(path, marks=[] if path.stem in QUICK else pytest.mark.slow, id=path.stem) for path in YAMLS]


class Losses(Callback):
    """Keeps the loss of each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.values.append(float(outputs["loss"]))


def fp16_on_the_cpu() -> MixedPrecision:
    """Lightning itself takes bf16-mixed on a CPU when 16-mixed is asked for."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))


@pytest.mark.parametrize("path", LEARNERS)
def test_the_losses_of_a_learner_stay_near_those_of_float32(tmp_path, path):
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        module, data = parts(path, n_tasks=2, double=False)
        losses[precision] = kept = Losses()
        trainer = trainer_for(tmp_path, max_epochs=1, callbacks=[kept], precision=precision)
        trainer.fit(module, data)
        assert {p.dtype for p in module.parameters()} == {torch.float32}
        assert float(trainer.callback_metrics["val/loss"]) > 0
    ours, theirs = (torch.tensor(losses[precision].values) for precision in ("bf16-mixed", "32-true"))
    assert not torch.equal(ours, theirs), "nothing ran in bfloat16"
    assert ((ours - theirs) / theirs).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("name", "inner", "query"),
    [
        ("maml", torch.float32, torch.bfloat16),
        ("fomaml", torch.float32, torch.bfloat16),
        ("reptile", torch.float32, torch.bfloat16),
        ("protonet", None, torch.bfloat16),
    ],
)
def test_the_inner_loop_is_in_float32_and_the_rest_in_bfloat16(tmp_path, name, inner, query):
    (path,) = (path for path in YAMLS if path.stem == name)
    module, data = parts(path, n_tasks=2, double=False)
    seen = []
    part = module.learner.network[1] if inner else module.learner.backbone
    part.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    trainer_for(tmp_path, max_steps=1, precision="bf16-mixed", limit_val_batches=0).fit(module, data)
    assert seen[-1] == query
    assert set(seen) == {inner or query, query}


def test_leo_adapts_in_float32(tmp_path):
    (path,) = (path for path in YAMLS if path.stem == "leo")
    module, data = parts(path, n_tasks=2, double=False)
    seen = {}
    module.learner.decoder.register_forward_hook(lambda module, args, out: seen.update(decoder=out.dtype))
    module.learner.backbone.register_forward_hook(lambda module, args, out: seen.update(backbone=out.dtype))
    trainer_for(tmp_path, max_steps=1, precision="bf16-mixed", limit_val_batches=0).fit(module, data)
    assert seen == {"decoder": torch.float32, "backbone": torch.bfloat16}


@pytest.mark.parametrize("name", slow_but(["gan with all", "vae"], ["gan", "gan with all", "vae", "deformation"]))
def test_float16_with_a_scaled_loss_stays_near_float32(name, toy_split_file, tmp_path):
    """A GAN steps its optimisers itself: its gradients, and the norm they are clipped to, must be unscaled."""
    found = []
    for plugins in ([], [fp16_on_the_cpu()]):
        module = MODELS[name]()
        module.optimizer = partial(torch.optim.SGD, lr=0.01 if name.startswith("gan") else 1e-4)
        if name.startswith("gan"):
            module.gradient_clip = 0.05  # so small that all are clipped
        trainer = trainer_for(tmp_path, max_steps=20, plugins=plugins, limit_val_batches=0)
        trainer.fit(module, images_of(toy_split_file))
        found.append(weights(module) - weights(MODELS[name]()))
    assert found[0].norm() > 0
    assert (found[1] - found[0]).norm() < 0.1 * found[0].norm()


@pytest.fixture
def taken(monkeypatch):
    """Have torch.compile trace without generating code, which takes half a minute; what it is asked to take."""
    taken = []
    compile_ = nn.Module.compile

    def take(module, *args, **kwargs):
        taken.append(type(module).__name__)
        compile_(module, *args, backend="aot_eager", **kwargs)

    monkeypatch.setattr(nn.Module, "compile", take)
    yield taken
    torch._dynamo.reset()  # also after a failure: it keeps symbolic tensors, for whoever comes next


@pytest.mark.filterwarnings("ignore")  # torch's own, of what it is about to give up
@pytest.mark.parametrize("name", slow_but(["protonet"], ["protonet", "leo", "transformer"]))
def test_a_compiled_learner_trains_alike(tmp_path, taken, name):
    (path,) = (path for path in YAMLS if path.stem == name)
    found = []
    for compiled in (False, True):
        module, data = parts(path, n_tasks=2, double=False, more=[f"--model.compile={compiled}"])
        trainer_for(tmp_path, max_steps=5).fit(module, data)
        found.append(module.state_dict())
    assert taken == ["Conv4"]
    assert found[0].keys() == found[1].keys(), "a checkpoint must not depend on compilation"
    for name in found[0]:
        torch.testing.assert_close(found[1][name], found[0][name])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [pytest.param(gan, marks=pytest.mark.slow), vae], ids=["gan", "vae"])
def test_a_compiled_generative_model_trains_alike(toy_split_file, tmp_path, taken, make):
    found = []
    for compiled in (False, True):
        module = make(compile=compiled)
        trainer_for(tmp_path, max_steps=5).fit(module, images_of(toy_split_file))
        found.append(weights(module))
    assert len(taken) == 2
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("learner/maml.yaml", "torch.compile cannot take the backbone of MAML"),
        ("learner/relation.yaml", "torch.compile cannot take the backbone of RelationNet"),
        ("generator/gan_r1.yaml", "torch.compile cannot differentiate gradients"),
    ],
)
def test_what_cannot_be_compiled_is_told(tmp_path, monkeypatch, capsys, yaml, message):
    monkeypatch.chdir(ROOT)
    options = ["--config=configs/policy/real_only.yaml"] if yaml.startswith("learner") else []
    run = [f"--run.folder={tmp_path}", "--run.wandb=off", "--model.compile=true"]
    assert main(["fit", f"--config=configs/{yaml}", *options, *run]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


COMPILED = [
    *("fit", "--config=configs/learner/protonet.yaml", "--config=configs/policy/real_only.yaml"),
    *("--config=configs/trainer/debug.yaml", "--run.wandb=off", "--model.compile=true"),
]


@pytest.mark.slow
def test_a_missing_compiler_is_told_in_one_line(tmp_path):
    env = {**os.environ, "CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "genmeta", *COMPILED, f"--run.folder={tmp_path / 'runs'}"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2, done.stderr
    assert "genmeta: error: model.compile: torch.compile failed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_code_is_generated_and_trains(tmp_path):
    command = [sys.executable, "-m", "genmeta", *COMPILED, f"--run.folder={tmp_path / 'runs'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
