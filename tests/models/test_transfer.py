"""Knowledge carried from a generator to a learner: pretrained backbones, and few-shot classes as Gaussians."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT, ToySource, make_table, slow_but
from promises import permuted_labels_permute_logits
from test_cli import DEBUG, assert_one_line, run
from test_generator_training import gan, images_of
from test_learners import Smooth, make_batch, replaced
from test_training import trainer_for
from torch import nn

from genmeta.data.seen import Origin
from genmeta.data.splits import load_split
from genmeta.episode import EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.checkpoint import LearnerBackbone, load_learner
from genmeta.learners.gaussian import DistributionCalibration, GaussianDiscriminant, within_class_covariance
from genmeta.learners.maml import MAML
from genmeta.learners.metric import ProtoNet
from genmeta.models.backbones import Conv4
from genmeta.models.checkpoint import describe_generator, load_generator
from genmeta.models.gan_networks import ConvDiscriminator
from genmeta.models.transfer import (
    DiscriminatorBackbone,
    EncoderBackbone,
    PretrainedBackbone,
)
from genmeta.models.vae_networks import ConvEncoder
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.meta_module import MetaModule
from genmeta.rng import make_rng
from genmeta.tasks.evaluated import Episodes
from genmeta.tasks.prior import GaussianMixture
from genmeta.tasks.real import RealTasks

D = 6


class Linear(nn.Module):
    """Frozen features that a slow reference can follow: a projection of the pixels, positive if asked."""

    image_shape = (1, 16, 16)

    def __init__(self, positive=False):
        super().__init__()
        self.positive = positive
        self.register_buffer("weight", torch.randn(256, D, generator=make_rng("features"), dtype=torch.float64) / 16)

    def forward(self, x):
        features = x.flatten(1).to(self.weight) @ self.weight
        return features.square() if self.positive else features


def base():
    table = make_table(n_classes=8, counts=(6, 9))
    return table.images, table.class_ids


def fitted(make):
    learner = make().eval()
    learner.fit_statistics(*base())
    return learner


LEARNERS = {
    "discriminant": lambda: GaussianDiscriminant(Linear(), 0.3),
    "calibration": lambda: DistributionCalibration(Linear(), k=3, shrinkage=0.2),
    "power": lambda: DistributionCalibration(Linear(positive=True), k=2, pull=0.4, power=0.5, shrinkage=0.2),
}


def base_features(positive=False):
    """Features of the base images by class, one image at a time."""
    images, labels = base()
    network = Linear(positive)
    features = [network(x[None].float() / 255)[0] for x in images]
    return [[f for f, y in zip(features, labels.tolist(), strict=True) if y == c] for c in range(8)]


def regularised(covariance, shrinkage):
    mean_variance = sum(covariance[i, i] for i in range(D)) / D
    return (1 - shrinkage) * covariance + shrinkage * mean_variance * torch.eye(D, dtype=torch.float64)


def outer_sum(features):
    mean = sum(features) / len(features)
    return sum(torch.outer(f - mean, f - mean) for f in features)


def test_discriminant_equals_a_slow_loop():
    batch = make_batch()
    logits = fitted(LEARNERS["discriminant"])(batch)
    classes = base_features()
    pooled = sum(outer_sum(c) for c in classes) / (sum(map(len, classes)) - len(classes))
    inverse = regularised(pooled, 0.3).inverse()
    for t in range(2):
        features = [Linear()(x[None])[0] for x in batch.support_x[t]]
        for q, x in enumerate(batch.query_x[t]):
            query = Linear()(x[None])[0]
            for c in range(3):
                members = [f for f, y in zip(features, batch.support_y[t].tolist(), strict=True) if y == c]
                offset = query - sum(members) / len(members)
                torch.testing.assert_close(logits[t, q, c], -0.5 * offset @ inverse @ offset, atol=1e-9, rtol=1e-7)


def test_calibration_follows_the_papers_equations():
    """Eq. 3 to 6 written out, with the two departures of the docstring: one covariance a task, shrunk in place of α."""
    batch = make_batch()
    logits = fitted(LEARNERS["power"])(batch)
    classes = [[f.sqrt() for f in c] for c in base_features(positive=True)]  # eq. 3, λ = 0.5
    means = [sum(c) / len(c) for c in classes]  # eq. 1
    covariances = [outer_sum(c) / (len(c) - 1) for c in classes]  # eq. 2
    network = Linear(positive=True)
    for t in range(2):
        class_means = [[] for _ in range(3)]
        class_covariances = [[] for _ in range(3)]
        for x, y in zip(batch.support_x[t], batch.support_y[t].tolist(), strict=True):
            feature = network(x[None])[0].sqrt()
            nearest = sorted(range(8), key=lambda i: (means[i] - feature).square().sum().item())[:2]  # eq. 4, 5
            class_means[y].append(0.6 * feature + 0.4 * (means[nearest[0]] + means[nearest[1]]) / 2)
            class_covariances[y].append((covariances[nearest[0]] + covariances[nearest[1]]) / 2)
        shared = sum(sum(c) / len(c) for c in class_covariances) / 3
        inverse = regularised(shared, 0.2).inverse()
        for q, x in enumerate(batch.query_x[t]):
            for c in range(3):
                offset = network(x[None])[0].sqrt() - sum(class_means[c]) / len(class_means[c])
                torch.testing.assert_close(logits[t, q, c], -0.5 * offset @ inverse @ offset, atol=1e-9, rtol=1e-7)


def test_the_papers_calibrated_mean_has_a_pull_of_its_own():
    """(μ_1 + … + μ_k + x) / (k + 1), eq. 6."""
    learner = fitted(lambda: DistributionCalibration(Linear(), k=3, pull=3 / 4))
    support = torch.randn(1, 2, D, generator=make_rng(1), dtype=torch.float64)
    means, covariances = learner.calibrated(support)
    for n in range(2):
        nearest = (learner.means - support[0, n]).square().sum(1).argsort()[:3]
        torch.testing.assert_close(means[0, n], (learner.means[nearest].sum(0) + support[0, n]) / 4)
        torch.testing.assert_close(covariances[0, n], learner.covariances[nearest].mean(0))


def test_logits_are_what_many_samples_of_the_calibrated_gaussians_tend_to():
    """With one image a class and no shrinkage to speak of: the log odds of a discriminant fitted to drawn features."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    batch = make_batch(n_tasks=1, n_shot=1)
    learner = fitted(lambda: DistributionCalibration(Linear(), k=3, shrinkage=1e-9))
    support = Linear()(batch.support_x[0])
    means, covariances = learner.calibrated(support[None])
    rng = make_rng("draws")
    noise = torch.randn(3, 40_000, D, generator=rng, dtype=torch.float64)
    drawn = means[0][:, None] + noise @ torch.linalg.cholesky(covariances[0]).mT
    labels = batch.support_y[0].repeat_interleave(40_000)
    fit = LinearDiscriminantAnalysis(solver="lsqr").fit(drawn.flatten(0, 1).numpy(), labels.numpy())
    expected = torch.from_numpy(fit.predict_log_proba(Linear()(batch.query_x[0]).numpy()))
    odds = learner(batch)[0].log_softmax(1)
    likely = expected > -20
    assert likely.sum() > 12
    torch.testing.assert_close(odds[likely], expected[likely], atol=0.3, rtol=0.05)


def test_full_shrinkage_is_the_nearest_prototype():
    batch = make_batch(noise=2.0)
    expected = ProtoNet(Linear()).eval()(batch)
    logits = fitted(lambda: GaussianDiscriminant(Linear(), 1.0))(batch)
    torch.testing.assert_close(logits / expected, (logits[0, 0, 0] / expected[0, 0, 0]).expand_as(logits))


def test_discriminant_does_not_depend_on_the_units_of_the_features():
    """Any linear map of the features changes nothing without shrinkage, a change of scale nothing with it."""

    class Mapped(Linear):
        def forward(self, x):
            return super().forward(x) @ self.map

    batch = make_batch()
    matrix = torch.randn(D, D, generator=make_rng("map"), dtype=torch.float64)
    for shrinkage, mapping in ((0.0, matrix), (0.4, 100 * torch.eye(D, dtype=torch.float64))):
        network = Mapped()
        network.map = mapping
        logits = fitted(lambda network=network, s=shrinkage: GaussianDiscriminant(network, s))(batch)
        torch.testing.assert_close(logits, fitted(lambda s=shrinkage: GaussianDiscriminant(Linear(), s))(batch))


@pytest.mark.parametrize("name", LEARNERS)
def test_permuted_labels_give_permuted_logits(name):
    permuted_labels_permute_logits(fitted(LEARNERS[name]), make_batch())


@pytest.mark.parametrize("name", LEARNERS)
def test_queries_and_tasks_do_not_depend_on_each_other(name):
    batch, learner = make_batch(n_tasks=3), fitted(LEARNERS[name])
    names = ("support_x", "support_y", "query_x", "query_y", "is_generated")
    alone = replaced(batch, **{n: getattr(batch, n)[1:2] for n in names})
    alone = replaced(alone, query_x=alone.query_x[:, 4:5], query_y=alone.query_y[:, 4:5])
    torch.testing.assert_close(learner(alone), learner(batch)[1:2, 4:5])
    with torch.inference_mode():
        torch.testing.assert_close(learner(batch), learner(batch))


@pytest.mark.parametrize("name", LEARNERS)
def test_the_weight_of_a_support_image_counts(name):
    batch, learner = make_batch(), fitted(LEARNERS[name])
    first = torch.zeros(2, 6, dtype=torch.float64)
    for t in range(2):
        for c in range(3):
            first[t, (batch.support_y[t] == c).nonzero()[0, 0]] = 1
    kept = first.bool()
    single = replaced(
        batch,
        support_x=batch.support_x[kept].unflatten(0, (2, 3)),
        support_y=batch.support_y[kept].unflatten(0, (2, 3)),
    )
    torch.testing.assert_close(learner(replace(batch, support_weight=first)), learner(single))


def test_pooled_covariance_of_known_numbers():
    features = torch.tensor([[0.0], [2.0], [10.0], [10.0], [13.0]])
    assert within_class_covariance(features, torch.tensor([0, 0, 1, 1, 1])).item() == pytest.approx((2 + 6) / 3)
    with pytest.raises(UserError, match="at least 2 images"):
        within_class_covariance(features, torch.arange(5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianDiscriminant(Conv4()), "needs a frozen backbone"),
        (lambda: GaussianDiscriminant(Linear(), 1.1), r"shrinkage must be in \[0, 1\], found 1.1"),
        (lambda: DistributionCalibration(Linear(), k=0), "k=0"),
        (lambda: DistributionCalibration(Linear(), power=0.0), "power=0.0"),
        (lambda: DistributionCalibration(Linear(), pull=1.5), "pull=1.5"),
        (lambda: fitted(lambda: DistributionCalibration(Linear(), k=9)), "k is 9, but there are 8"),
        (lambda: fitted(lambda: DistributionCalibration(Linear(), k=2, power=0.5)), "features of at least 0"),
        (lambda: EncoderBackbone(), "checkpoint is not set"),
        (lambda: EncoderBackbone("nowhere.ckpt"), "nowhere.ckpt: no such file"),
    ],
)
def test_wrong_settings_are_told(make, message):
    with pytest.raises(UserError, match=message):
        make()


# backbones that were trained before


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("transfer")


@pytest.fixture(scope="module")
def split_file(folder) -> str:
    names = make_table().class_names
    (folder / "toy.json").write_text(
        json.dumps({"dataset": "toy", "train": names[:12], "val": names[12:18], "test": names[18:]})
    )
    return str(folder / "toy.json")


@pytest.fixture(scope="module")
def gan_file(folder, split_file) -> str:
    """A GAN with projection and an encoder, as configs/generator/gan.yaml is, after three steps."""
    trainer = trainer_for(folder, max_steps=6, limit_val_batches=0)
    trainer.fit(gan(conditional=True, encoder=True), images_of(split_file))
    trainer.save_checkpoint(folder / "gan.ckpt")
    return str(folder / "gan.ckpt")


def episodes_of(split_file, **options) -> EpisodicDataModule:
    return EpisodicDataModule(
        ToySource(),
        split_file,
        RealTasks(),
        EpisodeShape(5, 1, 4),
        Episodes(5, 1, 5, n_episodes=10),
        [Episodes(5, 1, 5, n_episodes=10)],
        tasks_per_step=2,
        steps_per_epoch=3,
        **options,
    )


BACKBONES: dict[str, type[PretrainedBackbone]] = {
    "encoder": EncoderBackbone,
    "discriminator": DiscriminatorBackbone,
}


@pytest.mark.parametrize("name", BACKBONES)
def test_features_are_those_of_the_trained_network(gan_file, name):
    networks = load_generator(gan_file).networks
    x = torch.rand(3, 1, 16, 16, generator=make_rng("x"))
    backbone = BACKBONES[name](gan_file)
    expected = {
        "encoder": lambda: networks["encoder"](x)[0],
        "discriminator": lambda: networks["discriminator"].body(2 * x - 1).mean((2, 3)),
    }[name]()
    assert torch.equal(backbone(x), expected)
    assert backbone.n_features == expected.shape[1]
    assert tuple(backbone.image_shape) == (1, 16, 16)


def test_the_discriminator_is_loaded_as_it_was_trained(gan_file):
    weights = torch.load(gan_file, weights_only=True)["state_dict"]
    discriminator = load_generator(gan_file).networks["discriminator"]
    for name, value in discriminator.state_dict().items():
        assert torch.equal(value, weights[f"discriminator.{name}"])


@pytest.mark.parametrize("name", BACKBONES)
def test_a_fine_tuned_backbone_changes_and_a_frozen_one_does_not(tmp_path, split_file, gan_file, name):
    for frozen in (True, False):
        backbone = BACKBONES[name](gan_file, frozen=frozen)
        assert {p.requires_grad for p in backbone.parameters()} == {not frozen}
        before = {k: v.clone() for k, v in backbone.state_dict().items()}
        module = MetaModule(ProtoNet(nn.Sequential(backbone, nn.Linear(backbone.n_features, 4))))
        trainer_for(tmp_path, max_epochs=1).fit(module, episodes_of(split_file))
        changed = [k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])]
        assert bool(changed) != frozen


def test_running_statistics_of_a_frozen_backbone_stay(tmp_path, split_file):
    """And those of a fine-tuned one move."""
    torch.manual_seed(0)
    for frozen in (True, False):

        class Body(Conv4):
            def __init__(self):
                super().__init__(1, 4, 16)

        backbone = LearnerBackbone(network=Body(), frozen=frozen)
        head = nn.Linear(4, 4)
        start = head.weight.detach().clone()
        module = MetaModule(ProtoNet(nn.Sequential(backbone, head)))
        before = {k: v.clone() for k, v in backbone.named_buffers()}
        assert before
        trainer_for(tmp_path, max_epochs=1).fit(module, episodes_of(split_file))
        same = [torch.equal(v, before[k]) for k, v in backbone.named_buffers()]
        assert all(same) if frozen else not any(same)
        assert not torch.equal(head.weight, start), "the head learns in both"


def test_a_frozen_backbone_is_not_adapted_by_maml():
    """Inner and outer gradients reach the head alone: the adapted logits equal those of a head on fixed features."""
    torch.manual_seed(0)
    encoder = ConvEncoder(4, (1, 16, 16), (4,), 8).double()
    batch = make_batch()
    frozen = MAML(EncoderBackbone(network=encoder), n_way=3, inner_lr=0.5, inner_steps=3)
    frozen.double()
    logits = frozen(batch)
    head = frozen.network[1]
    for t in range(2):
        with torch.no_grad():
            support, query = encoder(batch.support_x[t])[0], encoder(batch.query_x[t])[0]
        weight, bias = head.weight.detach().clone(), head.bias.detach().clone()
        for _ in range(3):
            error = (support @ weight.T + bias).softmax(1) - nn.functional.one_hot(batch.support_y[t], 3)
            weight, bias = weight - 0.5 * error.T @ support / 6, bias - 0.5 * error.mean(0)
        torch.testing.assert_close(logits[t], query @ weight.T + bias)
    logits.sum().backward()
    assert all(p.grad is None for p in frozen.network[0].parameters())
    assert head.weight.grad is not None


def test_a_backbone_of_another_split_is_refused(folder, split_file, gan_file):
    content = json.loads(Path(split_file).read_text())
    content["train"], content["test"] = content["test"], content["train"]
    (folder / "swapped.json").write_text(json.dumps(content))
    data = episodes_of(str(folder / "swapped.json"))
    data.setup("fit")
    data.setup("test")
    for stage in ("fit", "validate", "test"):
        module = MetaModule(ProtoNet(nn.Sequential(EncoderBackbone(gan_file, frozen=False))))
        with pytest.raises(UserError, match=r"EncoderBackbone .*gan\.ckpt was trained on split 'toy' .* 'swapped'"):
            module.check(data, stage)


def test_train_classes_are_no_test_classes(split_file, gan_file):
    data = episodes_of(split_file, test_part="train")
    data.setup("test")
    for learner in (ProtoNet(EncoderBackbone(gan_file)), GaussianDiscriminant(EncoderBackbone(gan_file))):
        with pytest.raises(UserError, match=r"data\.test_part is 'train', but .* knows the train classes"):
            MetaModule(learner).check(data, "test")
    for part in ("val", "test"):
        data.test_part = part
        MetaModule(ProtoNet(EncoderBackbone(gan_file))).check(data, "test")


def test_statistics_come_from_the_train_part_and_a_checkpoint_carries_them(tmp_path, split_file, gan_file):
    data = episodes_of(split_file)
    backbone = EncoderBackbone(gan_file)
    module = MetaModule(DistributionCalibration(backbone, k=2))
    trainer = trainer_for(tmp_path)
    trainer.test(module, data, verbose=False)
    table = make_table()
    for name in data.split.train:
        rows = table.class_ids == table.class_names.index(name)
        expected = backbone(table.images[rows].float() / 255).double().mean(0)
        assert (module.learner.means - expected).abs().amax(1).min() < 1e-6
    assert len(module.learner.means) == 12

    init_args = {"backbone": {"class_path": f"{EncoderBackbone.__module__}.EncoderBackbone", "init_args": {}}, "k": 2}
    init_args["backbone"]["init_args"] = {"checkpoint": gan_file, "frozen": True, "network": None}
    class_path = "genmeta.learners.gaussian.DistributionCalibration"
    module.learner_config = {"class_path": class_path, "init_args": init_args}
    trainer.save_checkpoint(tmp_path / "learner.ckpt")
    learner = load_learner(str(tmp_path / "learner.ckpt")).learner
    batch = make_batch(dtype=torch.float32)
    torch.testing.assert_close(learner(batch), module.learner(batch))


@pytest.mark.parametrize("name", BACKBONES)
def test_a_learner_is_built_again_without_its_generators_file(tmp_path, split_file, gan_file, name):
    moved = tmp_path / "moved.ckpt"
    moved.write_bytes(Path(gan_file).read_bytes())
    backbone = BACKBONES[name](str(moved), frozen=False)
    module = MetaModule(ProtoNet(backbone))
    class_path = f"{BACKBONES[name].__module__}.{BACKBONES[name].__name__}"
    init_args = {"checkpoint": str(moved), "frozen": False, "network": None}
    module.learner_config = {
        "class_path": "genmeta.learners.metric.ProtoNet",
        "init_args": {"backbone": {"class_path": class_path, "init_args": init_args}},
    }
    trainer = trainer_for(tmp_path, max_epochs=1)
    trainer.fit(module, episodes_of(split_file))
    trainer.save_checkpoint(tmp_path / "learner.ckpt")
    moved.unlink()
    batch = make_batch(dtype=torch.float32)
    expected = module.learner.eval()(batch)
    again = load_learner(str(tmp_path / "learner.ckpt")).learner
    torch.testing.assert_close(again(batch), expected)

    # and a learner's backbone can be the next one's
    nested = LearnerBackbone(str(tmp_path / "learner.ckpt"))
    torch.testing.assert_close(nested(batch.query_x[0]), module.learner.backbone(batch.query_x[0]))
    assert nested.origin == Origin.of(module.data.split, module.data.table, "all")
    nested.check_origin(Origin.of(module.data.split, module.data.table))


@pytest.fixture(scope="module")
def glyphs_generator(folder) -> Path:
    """A checkpoint of untrained networks that says it is of the shipped split."""
    torch.manual_seed(0)
    networks = {"encoder": ConvEncoder(4, None, (4, 4), 8), "discriminator": ConvDiscriminator(None, (4, 6))}
    entry = describe_generator(
        {role: (network, f"{role}.") for role, network in networks.items()},
        GaussianMixture.standard(4),
        load_split("glyphs_minimal"),
    )
    weights = {f"{role}.{k}": v for role, network in networks.items() for k, v in network.state_dict().items()}
    torch.save({"state_dict": weights, "genmeta": entry}, folder / "glyphs.ckpt")
    return folder / "glyphs.ckpt"


@pytest.mark.parametrize(
    "config",
    slow_but(["calibration", "finetuned_encoder"], sorted((ROOT / "configs" / "transfer").glob("*.yaml"))),
    ids=lambda path: path.stem,
)
def test_every_yaml_runs(tmp_path, learner, glyphs_generator, redrawer, monkeypatch, config):
    """And what it trains is built again without the generator's file."""
    monkeypatch.chdir(ROOT)
    text = config.read_text()
    likelihood = "LatentLikelihood" in text  # has no backbone, and reads a redrawer
    begin = redrawer if likelihood else learner if "LearnerBackbone" in text else glyphs_generator
    (tmp_path / "begin.ckpt").write_bytes(begin.read_bytes())
    command = "test" if "frozen: true" in text or likelihood else "fit"
    option = "model.learner.checkpoint" if likelihood else "model.learner.backbone.checkpoint"
    more = [f"--config={DEBUG}", f"--{option}={tmp_path / 'begin.ckpt'}", "--run.wandb=off"]
    assert run(tmp_path, command, f"--config={config}", *more) == 0
    (tmp_path / "begin.ckpt").unlink()
    if command == "fit":
        (path,) = tmp_path.glob("*/001/checkpoints/best.ckpt")
        trained = torch.load(path, weights_only=True)["state_dict"]
        for name, value in load_learner(str(path)).learner.state_dict().items():
            assert torch.equal(value, trained[f"learner.{name}"])
    else:
        (path,) = tmp_path.glob("*/001/run.json")
        assert set(json.loads(path.read_text())["episode_accuracies"]) == {"5w1s", "5w5s"}


def test_another_split_is_refused_before_any_folder_is_made(tmp_path, learner, glyphs_generator, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, file in (("calibration", learner), ("latent_gaussian", glyphs_generator)):
        args = ["test", f"--config=configs/transfer/{name}.yaml", f"--model.learner.backbone.checkpoint={file}"]
        assert run(tmp_path / "no", *args, f"--config={DEBUG}", "--run.wandb=off", "--data.split=glyphs_full") == 2
        assert_one_line(capsys, r"was trained on split 'glyphs_minimal' .* uses split 'glyphs_full'")
        assert not (tmp_path / "no").exists()
    assert run(tmp_path / "no", "test", "--config=configs/transfer/latent_gaussian.yaml", "--run.wandb=off") == 2
    assert_one_line(capsys, "EncoderBackbone: checkpoint is not set; expected the path")


def test_smooth_networks_without_image_shape_are_refused():
    with pytest.raises(UserError, match="Smooth does not state its image_shape"):
        EncoderBackbone(network=Smooth())
