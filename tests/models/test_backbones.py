"""Backbones: shapes, normalisation, and networks of other libraries by class_path."""

import pytest
import torch
from conftest import ROOT
from torch import nn
from torch.nn import functional as F

from genmeta.cli.main import main
from genmeta.errors import UserError
from genmeta.learners.checkpoint import load_learner
from genmeta.models.backbones import (
    AnyNetwork,
    Conv4,
    ResNet12,
    keeps_running_statistics,
    uses_batch_statistics,
)
from genmeta.rng import make_rng

WIDTHS = (4, 6, 8, 10)


def seeded(make):
    torch.manual_seed(0)
    return make()


def images(*shape):
    return torch.rand(*shape, generator=make_rng("images"))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 84])
@pytest.mark.parametrize(
    ("make", "sides", "pooled"), [(Conv4, (1, 5), False), (ResNet12, (1, 5), True)], ids=["conv4", "resnet12"]
)
def test_sizes_of_features_and_maps(make, sides, pooled, size, channels):
    size_args = {"widths": WIDTHS} if make is ResNet12 else {"hidden": 10}
    backbone = seeded(lambda: make(channels, image_size=size, **size_args))
    x = images(2, channels, size, size)
    side = sides[size == 84]
    assert backbone.maps(x).shape == (2, *backbone.map_shape) == (2, 10, side, side)
    assert backbone(x).shape == (2, backbone.n_features) == (2, 10 if pooled else 10 * side**2)


def test_conv4_equals_the_layers_of_its_paper():
    """ReLU before pooling, as the papers have it; two poolings leave maps of 7 × 7."""
    backbone = seeded(lambda: Conv4(1, 4, 28, pools=2)).double()
    x = images(3, 1, 28, 28).double()
    expected = x
    for depth in range(4):
        conv, norm = backbone.blocks[depth][0], backbone.blocks[depth][1]
        expected = F.relu(
            F.batch_norm(F.conv2d(expected, conv.weight, conv.bias, padding=1), None, None, training=True)
        )
        assert norm.weight.eq(1).all()
        expected = F.max_pool2d(expected, 2) if depth < 2 else expected
    torch.testing.assert_close(backbone.train().maps(x), expected)
    assert backbone.map_shape == (4, 7, 7)
    assert backbone.n_features == 4 * 49


def test_resnet12_equals_its_layers_written_out():
    backbone = seeded(lambda: ResNet12(1, WIDTHS, 16)).double().eval()
    x = expected = images(2, 1, 16, 16).double()

    def norm(x):
        return x / (1 + 1e-5) ** 0.5  # running statistics of a new network

    for block in backbone.blocks:
        one, two, three = (m.weight for m in block.residual if isinstance(m, nn.Conv2d))
        h = F.leaky_relu(norm(F.conv2d(expected, one, padding=1)), 0.1)
        h = F.leaky_relu(norm(F.conv2d(h, two, padding=1)), 0.1)
        h = norm(F.conv2d(h, three, padding=1)) + norm(F.conv2d(expected, block.shortcut[0].weight))
        expected = F.max_pool2d(F.leaky_relu(h, 0.1), 2)
    torch.testing.assert_close(backbone(x), expected.mean((2, 3)))


def test_resnet12_has_the_weights_that_its_paper_has():
    weights, before = 0, 3
    for width in (64, 128, 256, 512):
        weights += 9 * before * width + 2 * 9 * width**2 + before * width + 4 * 2 * width
        before = width
    assert sum(p.numel() for p in ResNet12(3, image_size=84).parameters()) == weights


@pytest.mark.parametrize("make", [Conv4, lambda **k: ResNet12(widths=WIDTHS, **k)], ids=["conv4", "resnet12"])
@pytest.mark.parametrize(
    ("norm", "in_training", "in_evaluation"), [("running", True, False), ("batch", True, True), ("group", False, False)]
)
def test_on_which_other_images_features_depend(make, norm, in_training, in_evaluation):
    backbone = seeded(lambda: make(norm=norm))
    x = images(6, 1, 28, 28)
    for training, depends in ((True, in_training), (False, in_evaluation)):
        backbone.train(training)
        together, apart = backbone(x)[:3], backbone(x[:3])
        assert depends != torch.allclose(together, apart, atol=1e-5), f"training: {training}"
    assert uses_batch_statistics(backbone) == (norm == "batch")
    assert keeps_running_statistics(backbone) == (norm == "running")


def test_groups_are_of_sixteen_channels_or_a_divisor():
    sizes = {hidden: Conv4(hidden=hidden, norm="group").blocks[0][1].num_groups for hidden in (64, 32, 12, 5)}
    assert sizes == {64: 4, 32: 2, 12: 3, 5: 5}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv4(norm="layer"), "one of running, batch, group, found 'layer'"),
        (lambda: Conv4(pools=5), "pools must be 0 to 4, found 5"),
        (lambda: Conv4(image_size=7, pools=3), "at least 8, found 7"),
        (lambda: ResNet12(image_size=8), "at least 16, found 8"),
        (lambda: ResNet12(widths=(4, 4, 0, 4)), "at least 1"),
        (lambda: AnyNetwork(nn.Conv2d(2, 4, 3)), r"Conv2d does not take images of shape \[1, 28, 28\]"),
        (lambda: AnyNetwork(nn.Sequential(nn.Flatten(), nn.Linear(9, 4)), 1, 28), "does not take images"),
    ],
)
def test_wrong_sizes_are_told(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_any_network_counts_features_leaves_statistics_alone_and_gives_grey_images_in_three_channels():
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5))
    backbone = AnyNetwork(network, 1, 16)
    assert backbone.n_features == 5 * 16 * 16
    assert network.training
    assert network[1].num_batches_tracked == 0
    x = images(2, 1, 16, 16)
    torch.testing.assert_close(backbone(x), network(x.expand(-1, 3, -1, -1)).flatten(1))


OTHERS = {
    "learn2learn": ("learn2learn.vision.models.CNN4Backbone", ["hidden_size=8", "channels=1"], 8),
    "torchvision": ("torchvision.models.resnet18", ["num_classes=12"], 12),
}


@pytest.mark.parametrize("name", OTHERS)
def test_networks_of_other_libraries_train_and_are_built_again_from_their_checkpoint(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    class_path, options, n_features = OTHERS[name]
    place = "--model.learner.backbone"
    args = [
        *("--config=configs/learner/protonet.yaml", "--config=configs/policy/real_only.yaml"),
        *("--config=configs/trainer/debug.yaml", f"{place}=genmeta.models.backbones.AnyNetwork"),
        f"{place}.network={class_path}",
        *(f"{place}.network.{option}" for option in options),
        *(f"--run.folder={tmp_path}", "--run.wandb=off", "--run.name=a", "--run.version=a"),
    ]
    assert main(["fit", *args]) == 0
    loaded = load_learner(str(tmp_path / "a" / "a" / "checkpoints" / "best.ckpt"))
    assert loaded.learner.backbone(images(2, 1, 28, 28)).shape == (2, n_features)
