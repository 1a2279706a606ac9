"""What the command line checks and records, Lightning's Trainer alone checks and records too."""

from dataclasses import replace

import pytest
import torch
from conftest import ToySource, make_table
from lightning.pytorch import Trainer

from genmeta.errors import UserError
from genmeta.learners.checkpoint import load_learner
from genmeta.learners.maml import MAML
from genmeta.learners.matching import MatchingNet
from genmeta.learners.metric import CosineProtoNet, ProtoNet
from genmeta.models.backbones import AnyNetwork, Conv4
from genmeta.models.gan_networks import FullyConnectedDiscriminator, FullyConnectedGenerator
from genmeta.modules.gan_module import GANModule
from genmeta.modules.image_data import ImageDataModule
from genmeta.modules.meta_module import MetaModule


def trainer(folder, **options) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return Trainer(default_root_dir=folder, accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, **quiet, **options)


def conv4(in_channels: int = 1, image_size: int = 16, norm: str = "running") -> Conv4:
    return Conv4(in_channels, 4, image_size=image_size, norm=norm)


WRONG = {
    "MAML's head": (lambda: MAML(conv4(norm="batch"), n_way=3), "n_way=3, but the episodes have n_way=5"),
    "a backbone's size": (lambda: ProtoNet(conv4(image_size=84)), r"\[1, 84, 84\], but the data have \[1, 16, 16\]"),
    "a backbone's colour": (lambda: ProtoNet(conv4(3)), r"\[3, 16, 16\], but the data have \[1, 16, 16\]"),
}


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused_before_the_first_step(what, stage, tmp_path, toy_data):
    make, told = WRONG[what]
    module = MetaModule(make())
    with pytest.raises(UserError, match=told):
        getattr(trainer(tmp_path, enable_checkpointing=False), stage)(module, datamodule=toy_data)


def test_a_generator_of_another_size_is_refused_before_the_first_step(tmp_path, toy_split_file):
    networks = FullyConnectedGenerator(4, (1, 28, 28), [8]), FullyConnectedDiscriminator((1, 28, 28), [8])
    data = ImageDataModule(ToySource(), toy_split_file, batch_size=16, steps_per_epoch=2, feature_steps=1)
    with pytest.raises(UserError, match=r"\[1, 28, 28\], but the data have \[1, 16, 16\]"):
        trainer(tmp_path, enable_checkpointing=False).fit(GANModule(*networks), datamodule=data)


def test_channels_last_are_told():
    table = make_table()
    with pytest.raises(UserError, match=r"looks like channels last; expected \[N, C, H, W\]"):
        replace(table, images=table.images.permute(0, 2, 3, 1).contiguous())


LEARNERS = {
    "ProtoNet": lambda: ProtoNet(conv4()),
    "ProtoNet by name": lambda: ProtoNet(backbone=Conv4(in_channels=1, hidden=4, image_size=16)),
    "MAML": lambda: MAML(conv4(norm="batch"), n_way=5, inner_lr=0.1),
    "a network in a network": lambda: ProtoNet(AnyNetwork(conv4(), 1, 16)),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_that_was_trained_in_python_is_loaded_from_its_checkpoint_alone(name, tmp_path, toy_data):
    module = MetaModule(LEARNERS[name]())
    runner = trainer(tmp_path)
    runner.fit(module, datamodule=toy_data)
    path = str(tmp_path / "it.ckpt")
    runner.save_checkpoint(path)
    loaded = load_learner(path)
    assert loaded.image_shape == (1, 16, 16)
    assert set(loaded.seen.train) == set(toy_data.split.train)
    again = MetaModule.load_from_checkpoint(path)
    for learner in (loaded.learner, again.learner):
        assert type(learner) is type(module.learner)
        torch.testing.assert_close(learner.state_dict(), module.learner.state_dict())
    before = trainer(tmp_path).test(module, datamodule=toy_data, verbose=False)
    assert trainer(tmp_path).test(again, datamodule=toy_data, verbose=False) == before


def test_a_learner_of_parts_that_do_not_remember_says_so_when_it_is_loaded(tmp_path, toy_data):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 8))
    runner = trainer(tmp_path)
    runner.fit(MetaModule(ProtoNet(AnyNetwork(network, 1, 16))), datamodule=toy_data)
    runner.save_checkpoint(tmp_path / "it.ckpt")
    with pytest.raises(UserError, match="does not say how to build its learner"):
        load_learner(str(tmp_path / "it.ckpt"))


def test_other_learners_remember_what_they_were_made_with():
    from genmeta.models.made_with import made_of

    for learner in (MatchingNet(conv4()), CosineProtoNet(conv4())):
        assert made_of(learner)["init_args"]["backbone"]["init_args"]["hidden"] == 4
