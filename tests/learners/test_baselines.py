"""Baselines on a pretrained classifier: their equations, and the training of the classifier."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT, ToySource
from lightning.pytorch.callbacks import ModelCheckpoint
from test_learners import make_batch
from test_training import trainer_for
from torch.nn import functional as F

from genmeta.cli.main import main
from genmeta.data.low_data import LowData
from genmeta.episode import EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.checkpoint import load_learner
from genmeta.learners.metric import ProtoNet
from genmeta.learners.pretrained import BaselinePlusPlus, SimpleShot
from genmeta.models.backbones import Conv4
from genmeta.models.checkpoint import read_checkpoint
from genmeta.modules import episodic_data
from genmeta.modules.classifier import ClassDataModule, ClassifierModule
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.tasks.evaluated import Episodes
from genmeta.tasks.latent import LatentTasks
from genmeta.tasks.mixed import MixedTasks
from genmeta.tasks.policies import PriorNoise
from genmeta.tasks.real import RealTasks

TRAINED = [
    path.relative_to(ROOT)
    for path in sorted((ROOT / "configs" / "baseline").glob("*.yaml"))
    if "ClassifierModule" in path.read_text()
]


def made(make):
    torch.manual_seed(0)
    return make().double().eval()


def class_data(split_file: str, **options) -> ClassDataModule:
    settings = {"train_tasks": RealTasks(rotations=True), "train": EpisodeShape(8, 1, 2), "tasks_per_step": 2}
    data = ClassDataModule(
        source=ToySource(),
        split=split_file,
        val=Episodes(5, 1, 5, n_episodes=20),
        test=[Episodes(5, 1, 5, n_episodes=20)],
        steps_per_epoch=4,
        **settings | options,
    )
    data.setup("fit")
    return data


def fit(folder: Path, learner, data, epochs: int = 1, lr: float = 1e-2):
    module = ClassifierModule(learner, lambda p: torch.optim.Adam(p, lr=lr))
    checkpoint = ModelCheckpoint(dirpath=folder / "checkpoints", filename="a")
    trainer = trainer_for(folder, max_epochs=epochs, enable_checkpointing=True, callbacks=[checkpoint])
    trainer.fit(module, data)
    return module, trainer


def test_simpleshot_equals_its_equations():
    batch, learner = make_batch(), made(lambda: SimpleShot(Conv4(1, 6, 16), 9))
    learner.base_mean.uniform_(0, 1)
    logits = learner(batch)

    def transformed(x):
        centred = learner.backbone(x[None])[0] - learner.base_mean
        return centred / centred.norm()

    for t in range(2):
        for q in range(12):
            f = transformed(batch.query_x[t, q])
            for c in range(3):
                of_class = [transformed(x) for x in batch.support_x[t][batch.support_y[t] == c]]
                expected = -(f - sum(of_class) / len(of_class)).square().sum()
                torch.testing.assert_close(logits[t, q, c], expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("steps", [0, 4])
def test_baseline_plus_plus_fits_a_cosine_classifier_to_each_task_alone(steps):
    batch = make_batch()
    learner = made(lambda: BaselinePlusPlus(Conv4(1, 6, 16), 9, steps=steps, lr=0.7, task_scale=3.0))
    logits = learner(batch)
    for t in range(2):
        support = torch.stack([learner.backbone(x[None])[0] for x in batch.support_x[t]]).detach()
        support = support / support.norm(dim=1, keepdim=True)
        classes = torch.stack([support[batch.support_y[t] == c].mean(0) for c in range(3)]).requires_grad_()
        optimizer = torch.optim.SGD([classes], lr=0.7)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(3 * F.cosine_similarity(support[:, None], classes, dim=2), batch.support_y[t]).backward()
            optimizer.step()
        query = learner.backbone(batch.query_x[t])
        expected = 3 * F.cosine_similarity(query[:, None], classes, dim=2)
        torch.testing.assert_close(logits[t], expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("rotations", [True, False])
def test_images_come_with_the_number_of_their_class_and_a_turned_class_is_another(toy_split_file, rotations):
    data = class_data(toy_split_file, train_tasks=RealTasks(rotations=rotations))
    assert data.n_classes == (48 if rotations else 12)
    images = data.table.images.float() / 255
    seen = set()
    for step in range(3):
        x, classes = data.on_after_batch_transfer(data.train_plan(step), 0).images()
        assert x.shape == (48, 1, 16, 16)
        for image, number in zip(x, classes.tolist(), strict=True):
            turn, upright = divmod(number, 12)
            (row,) = (images == torch.rot90(image, -turn, (-2, -1))).all(3).all(2).all(1).nonzero()
            assert data.table.class_names[data.table.class_ids[row]] == data.split.train[upright]
            seen.add(number)
    assert len(seen) > data.n_classes / 2


def test_only_classes_that_there_are_take_part(toy_split_file):
    data = class_data(toy_split_file)
    x, classes = data.on_after_batch_transfer(data.train_plan(0), 0).images()
    for learner in (SimpleShot(Conv4(1, 6, 16), 99), BaselinePlusPlus(Conv4(1, 6, 16), 99)):
        logits = learner.class_logits(x, data.n_classes)
        assert logits.shape == (48, 48)
        F.cross_entropy(logits, classes).backward()
        rows = learner.weight.grad.abs().sum(1) > 0
        assert rows[:48].all()
        assert not rows[48:].any()
        assert all(p.grad is not None for p in learner.backbone.parameters())


def test_the_classifier_learns_its_classes(toy_split_file, tmp_path):
    torch.manual_seed(0)
    for make in (SimpleShot, BaselinePlusPlus):
        module, trainer = fit(
            tmp_path / make.__name__, make(Conv4(1, 8, 16), 48), class_data(toy_split_file), epochs=10
        )
        x, classes = module.data.on_after_batch_transfer(module.data.train_plan(500), 0).images()
        right = (module.learner.eval().class_logits(x, 48).argmax(1) == classes).float().mean()
        assert right > 0.15, "of 48 classes: chance is 0.02"
        assert trainer.callback_metrics["val/acc"] > 0.4, "of five unseen ones: chance is 0.2"


@pytest.mark.parametrize("low_data", [None, LowData(classes=8, images_per_class=5)])
def test_simpleshot_is_centred_by_the_mean_of_the_training_images_which_its_checkpoint_keeps(
    toy_split_file, tmp_path, low_data
):
    options = {"low_data": low_data, "train": EpisodeShape(5, 1, 2)} if low_data else {}
    module, trainer = fit(tmp_path, SimpleShot(Conv4(1, 4, 16), 48), class_data(toy_split_file, **options))
    data = module.data
    rows = torch.isin(data.table.class_ids, data.split.class_ids(data.table, "train")).nonzero().flatten()
    if low_data:
        rows = data.pools["train"].rows
        assert len(rows) == 8 * 5
    module.eval()
    features = module.learner.backbone(data.table.images[rows].float() / 255)
    torch.testing.assert_close(module.learner.base_mean, features.mean(0), atol=1e-5, rtol=1e-4)
    path = tmp_path / "checkpoints" / "a.ckpt"
    saved = read_checkpoint(path)["state_dict"]["learner.base_mean"]
    torch.testing.assert_close(saved, module.learner.base_mean)
    # a test takes the mean that was kept, and does not make one of its own
    with torch.no_grad():
        module.learner.base_mean.zero_()
    trainer.test(module, data, ckpt_path=path, weights_only=True, verbose=False)
    torch.testing.assert_close(module.learner.base_mean, saved)


def test_weights_do_not_change_in_a_task():
    batch, learner = make_batch(), made(lambda: BaselinePlusPlus(Conv4(1, 6, 16), 9))
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    learner(batch)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert torch.equal(learner(batch), learner(replace(batch)))


@pytest.mark.parametrize("path", TRAINED, ids=lambda p: p.stem)
def test_trained_baselines_train_test_and_are_refused_on_classes_they_have_seen(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    where = [f"--run.folder={tmp_path}", "--run.wandb=off"]
    assert main(["fit", f"--config={path}", "--config=configs/trainer/debug.yaml", "--run.version=fit", *where]) == 0
    (folder,) = tmp_path.glob("*/fit")
    checkpoint = folder / "checkpoints" / "best.ckpt"
    assert (folder / "pictures" / "episodes.png").is_file()
    args = ["test", f"--config={folder}/config.yaml", f"--ckpt_path={checkpoint}", *where]
    assert main([*args, "--run.version=test"]) == 0
    loaded = load_learner(str(checkpoint))
    assert loaded.learner(make_batch(size=28, dtype=torch.float32)).shape == (2, 12, 3)
    split = tmp_path / "swapped.json"
    content = (ROOT / "genmeta/data/splits/glyphs_minimal.json").read_text()
    split.write_text(content.replace('"test"', '"x"').replace('"train"', '"test"').replace('"x"', '"train"'))
    capsys.readouterr()
    assert main([*args, "--run.version=other", f"--data.split={split}"]) == 2
    assert "was trained on" in capsys.readouterr().err


def test_wrong_parts_are_told(toy_split_file, toy_data):
    toy_data.setup("fit")
    data = class_data(toy_split_file)
    latent = MixedTasks(RealTasks(), LatentTasks(PriorNoise(), 0.3), 0.25)
    simple = SimpleShot(Conv4())
    cases = [
        (
            lambda: ClassifierModule(ProtoNet(Conv4())).check(data, "fit"),
            "trains a PretrainedLearner .* found ProtoNet",
        ),
        (
            lambda: ClassifierModule(simple).check(toy_data, "fit"),
            "needs .*ClassDataModule, found Episodic",
        ),
        (lambda: ClassifierModule(SimpleShot(Conv4(1, 4, 16), 47)).check(data, "fit"), "room for 47 .* data have 48"),
        (lambda: SimpleShot(Conv4(), 0), "at least 1, found max_classes=0"),
        (lambda: SimpleShot(Conv4(norm="batch")), "SimpleShot needs a backbone .* norm: running"),
        (lambda: BaselinePlusPlus(Conv4(), lr=0.0), "lr, scale, task_scale > 0; found steps=100, lr=0"),
        (lambda: simple.loss(make_batch()), "is not trained on episodes"),
        (lambda: class_data(toy_split_file, train_tasks=latent, generator="none.ckpt"), "none.ckpt: no such file"),
    ]
    for make, message in cases:
        with pytest.raises(UserError, match=message):
            make()
    # fewer training classes are no hindrance to a test
    ClassifierModule(SimpleShot(Conv4(1, 4, 16), 47)).check(data, "test")


def test_generated_classes_have_no_number(toy_split_file, tmp_path, monkeypatch):
    latent = MixedTasks(RealTasks(), LatentTasks(PriorNoise(), 0.3), 0.25)
    monkeypatch.setattr(episodic_data, "load_decoder", lambda *_: None)
    monkeypatch.setattr(episodic_data, "with_codes", lambda pool, *_: pool)
    monkeypatch.setattr(MixedTasks, "prepared", lambda self, pool: self)
    monkeypatch.setattr(EpisodicDataModule, "_check", lambda self, *args: None)
    with pytest.raises(UserError, match="generated classes, which a classifier has no number for"):
        class_data(toy_split_file, train_tasks=latent)
