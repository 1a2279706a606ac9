"""The moving average of the weights: what is validated, kept, tested and gone on from."""

import json
import os

import pytest
import torch
from conftest import ROOT
from lightning.pytorch import Callback
from test_training import trainer_for

from genmeta.cli.main import main
from genmeta.errors import UserError
from genmeta.learners.checkpoint import load_learner
from genmeta.learners.metric import ProtoNet
from genmeta.models.backbones import Conv4
from genmeta.modules.checkpoints import Checkpoints
from genmeta.modules.meta_module import MetaModule
from genmeta.modules.weight_averaging import WeightEMA


def flat(state, prefix="learner.") -> torch.Tensor:
    return torch.cat([v.flatten().double() for k, v in state.items() if k.startswith(prefix) and v.is_floating_point()])


class Slow(Callback):
    """The average by its formula, and the weights that validation was made with."""

    def __init__(self, decay: float) -> None:
        self.decay, self.average, self.validated, self.averages = decay, None, [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        now = flat(pl_module.state_dict())
        self.average = now if self.average is None else self.decay * self.average + (1 - self.decay) * now
        if trainer.global_step == 5:  # in mid-epoch
            trainer.save_checkpoint(trainer.default_root_dir + "/checkpoints/at-5.ckpt")

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 0:
            self.validated.append(flat(pl_module.state_dict()))
            self.averages.append(self.average)


def fit(folder, data, epochs, ckpt_path=None, **options):
    torch.manual_seed(0)
    module = MetaModule(ProtoNet(Conv4(1, 4, 16, norm="running")))  # running statistics are averaged too
    slow = Slow(0.6)
    callbacks = [WeightEMA(0.6), slow, Checkpoints(folder / "checkpoints", "val/acc", "max")]
    trainer = trainer_for(folder, max_epochs=epochs, callbacks=callbacks, enable_checkpointing=True, **options)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module, slow, torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_validation_and_checkpoints_use_the_average_and_training_goes_on_with_the_weights(tmp_path, toy_data):
    module, slow, last = fit(tmp_path, toy_data, 3)
    assert len(slow.validated) == 3
    for validated, average in zip(slow.validated, slow.averages, strict=True):
        torch.testing.assert_close(validated, average, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(flat(last["state_dict"]), slow.average, atol=1e-6, rtol=1e-5)
    assert (flat(last["current_model_state"]) - slow.average).abs().max() > 1e-4, "they are not the same"
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert any(torch.allclose(flat(best["state_dict"]), average, atol=1e-6) for average in slow.averages)
    torch.testing.assert_close(flat(module.state_dict()), slow.average, atol=1e-6, rtol=1e-5)
    trainer = trainer_for(tmp_path, callbacks=[WeightEMA(0.6)])
    tested = MetaModule(ProtoNet(Conv4(1, 4, 16, norm="running")))
    trainer.test(tested, datamodule=toy_data, ckpt_path=str(tmp_path / "checkpoints" / "best.ckpt"), verbose=False)
    assert torch.equal(flat(tested.state_dict()), flat(best["state_dict"]))


@pytest.mark.parametrize("mid_epoch", [False, True])
def test_gone_on_with_equals_uninterrupted(tmp_path, toy_data, mid_epoch):
    """Bug: an average that begins anew, or a training that goes on from the average."""
    _, _, whole = fit(tmp_path / "whole", toy_data, 3)
    toy_data.load_state_dict({**toy_data.state_dict(), "step": 0})
    fit(tmp_path / "stopped", toy_data, 3 if mid_epoch else 1, **({"max_steps": 5} if mid_epoch else {}))
    path = tmp_path / "stopped" / "checkpoints" / ("at-5.ckpt" if mid_epoch else "last.ckpt")
    _, _, resumed = fit(tmp_path / "resumed", toy_data, 3, str(path))
    for name in ("state_dict", "current_model_state"):
        assert torch.equal(flat(resumed[name]), flat(whole[name])), name
    assert resumed["averaging_state"]["n_averaged"] == whole["averaging_state"]["n_averaged"] == 9


def test_from_yaml_a_test_and_a_learner_take_the_average(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    configs = [f"--config=configs/{name}.yaml" for name in ("learner/protonet_spatial", "trainer/ema", "trainer/debug")]
    quick = ["--run.wandb=off", f"--run.folder={tmp_path}", "--data.tasks_per_step=1"]
    assert main(["fit", *configs, *quick, "--run.name=fit"]) == 0
    os.environ.pop("GENMETA_RUN_FOLDER", None)
    folder = tmp_path / "fit" / "001"
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert not torch.equal(flat(best["state_dict"]), flat(best["current_model_state"]))
    loaded = load_learner(str(folder / "checkpoints" / "best.ckpt")).learner
    assert torch.equal(flat(loaded.state_dict(), ""), flat(best["state_dict"]))
    checkpoint = f"--ckpt_path={folder / 'checkpoints' / 'best.ckpt'}"
    assert main(["test", f"--config={folder / 'config.yaml'}", checkpoint, *quick, "--run.name=test"]) == 0
    assert "test/acc_5w1s" in json.loads((tmp_path / "test" / "001" / "run.json").read_text())["metrics"]


@pytest.mark.parametrize("decay", [0.0, 1.0, -1])
def test_decays_out_of_range_are_refused(decay):
    with pytest.raises(UserError, match="decay must be in"):
        WeightEMA(decay)
