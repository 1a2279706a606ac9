"""Metrics of generated images: hand values, closed forms, slow references; the feature network they are measured on."""

import math

import pytest
import torch
from conftest import make_table

from genmeta.errors import UserError
from genmeta.evaluation.features import feature_network
from genmeta.evaluation.samples import (
    frechet_distance,
    kernel_distance,
    mean_distance,
    nearest_distance,
    precision_recall_density_coverage,
    recognisability,
    sample_metrics,
    spread_within,
)
from genmeta.rng import make_rng
from genmeta.tasks.sampler import TaskPool


def normal(n: int, d: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=make_rng(seed))


def test_frechet_distance_of_two_gaussians_in_closed_form():
    x, y = normal(4000), 2 * normal(4000, seed=1) + 3
    # |μ1 - μ2|² + Σ (σ1 - σ2)² = 8 · 9 + 8 · 1
    assert frechet_distance(x, y) == pytest.approx(80, rel=0.03)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-3)


def test_kernel_distance_equals_its_formula_and_is_unbiased():
    x, y = normal(60), normal(60, seed=1) + 1
    kernel = lambda a, b: (a.double() @ b.double().T / 8 + 1) ** 3  # noqa: E731
    off = lambda k: (k.sum() - k.trace()) / (60 * 59)  # noqa: E731
    expected = off(kernel(x, x)) + off(kernel(y, y)) - 2 * kernel(x, y).mean()
    assert kernel_distance(x, y) == pytest.approx(expected.item(), rel=1e-3)  # subsets of all are all
    means = [kernel_distance(normal(50, seed=s), normal(50, seed=s + 1000)) for s in range(40)]
    assert abs(sum(means) / 40) < 0.15
    assert min(means) < 0 < max(means)


def test_kernel_distance_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = kernel_distance(normal(500), normal(500, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert kernel_distance(normal(500), normal(500, seed=1)) == first


def test_precision_recall_density_coverage_by_hand():
    real = torch.tensor([[0.0], [1.0], [3.0]])  # with k = 1 the balls have radius 1, 1, 2
    generated = torch.tensor([[0.5], [0.6], [10.0], [10.5]])  # radius 0.1, 0.1, 0.5, 0.5
    precision, recall, density, coverage = precision_recall_density_coverage(real, generated, k=1)
    assert precision == pytest.approx(2 / 4)  # 0.5 and 0.6 are in real balls
    assert recall == 0  # no real image in a generated ball
    assert density == pytest.approx((2 + 2) / 4)  # 0.5 and 0.6 lie in those of 0 and of 1; |3 - 0.6| > 2
    assert coverage == pytest.approx(2 / 3)


def test_precision_recall_density_coverage_against_loops():
    real, generated, k = normal(40), 0.7 * normal(30, seed=1) + 0.3, 5
    d = lambda a, b: (a - b).norm().item()  # noqa: E731
    reach = lambda xs: [sorted(d(a, b) for b in xs)[k] for a in xs]  # noqa: E731
    r_real, r_generated = reach(real), reach(generated)
    inside = [[d(r, g) < r_real[i] for i, r in enumerate(real)] for g in generated]
    expected = (
        sum(any(row) for row in inside) / 30,
        sum(any(d(r, g) < r_generated[j] for j, g in enumerate(generated)) for r in real) / 40,
        sum(sum(row) for row in inside) / 30 / k,
        sum(any(row[i] for row in inside) for i in range(40)) / 40,
    )
    assert precision_recall_density_coverage(real, generated, k) == pytest.approx(expected)


def test_metrics_tell_good_samples_from_blurred_collapsed_and_remembered_ones():
    real = normal(400)
    good = sample_metrics(real, normal(400, seed=1))
    collapsed = sample_metrics(real, 0.05 * normal(400, seed=1) + normal(1, seed=2))
    few_modes = sample_metrics(real, normal(4, seed=1).repeat(100, 1) + 1e-3 * normal(400, seed=2))
    assert good["diversity"] == pytest.approx(1, abs=0.05)
    assert collapsed["diversity"] < 0.1
    for bad in (collapsed, few_modes):
        assert bad["fid"] > 10 * good["fid"]
        assert bad["coverage"] < 0.3 * good["coverage"]
        assert bad["recall"] < 0.1
    assert good["precision"] > 0.9
    assert mean_distance(torch.tensor([[0.0], [1.0], [2.0]])) == pytest.approx(4 / 3)


def test_recognisability_and_spread():
    centres, noise = 10 * normal(30), torch.randn(30, 6, 8, generator=make_rng(1))
    apart = centres[:, None] + 0.1 * noise
    assert recognisability(apart, 20, make_rng(0)) == 1
    assert recognisability(noise, 20, make_rng(0), n_episodes=300) == pytest.approx(1 / 20, abs=0.02)
    assert recognisability(noise, 5, make_rng(0), n_episodes=600) == pytest.approx(1 / 5, abs=0.03)
    assert recognisability(noise[:3], 20, make_rng(0)) <= 1, "fewer classes than ways: all of them"
    assert spread_within(apart) == pytest.approx(0.1 * math.sqrt(8), rel=0.05)
    assert spread_within(centres[:, None].expand(30, 4, 8)) == pytest.approx(0, abs=1e-5)


def test_nearest_distance_by_hand():
    images = torch.zeros(2, 1, 2, 2)
    images[1] = 0.5
    others = torch.ones(1, 1, 2, 2)
    assert nearest_distance(images, others).tolist() == [1.0, 0.5]
    assert nearest_distance(others, torch.cat([images, others])).tolist() == [0.0]


# the network


def whole(table) -> list[torch.Tensor]:
    """All rows of each class."""
    return list(torch.arange(len(table.images)).split(table.counts.tolist()))


def pool_of(rows) -> TaskPool:
    return TaskPool.of_rows(rows, torch.zeros(len(rows), dtype=torch.long))


@pytest.fixture
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("_own_cache")
def test_the_feature_network_learns_is_kept_and_is_the_same_again(tmp_path, capsys):
    table = make_table()
    rows = [torch.arange(20 * c, 20 * c + 16) for c in range(12)]
    data = (table.images, pool_of(rows))
    state = torch.get_rng_state()
    first = feature_network(*data, "toy", 30)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert "training the network" in capsys.readouterr().out
    again = feature_network(*data, "toy", 30)
    assert "training" not in capsys.readouterr().out, "it is in the cache"
    assert again.hash == first.hash
    assert first.name == f"Conv4-64 ProtoNet, 30 steps, weights {first.hash}"
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    assert feature_network(*data, "toy", 30).hash == first.hash, "a damaged file is made anew"
    for other in (("toy", 31), ("another split", 30)):
        feature_network(*data, *other)
    feature_network(table.images, pool_of([of_class[:10] for of_class in rows]), "toy", 30)
    assert len(list((tmp_path / "cache").iterdir())) == 4
    images = table.images[: 12 * 20].float() / 255
    features = first(images)
    assert features.shape == (240, 64)
    assert not features.requires_grad
    assert recognisability(features.unflatten(0, (12, 20)), 12, make_rng(0)) > 0.8
    torch.testing.assert_close(first(images[:3]), features[:3])  # an image's features depend on no other image


@pytest.mark.usefixtures("_own_cache")
def test_without_labels_the_feature_network_learns_from_single_images():
    """Bug: a network that is said to use no labels, and draws two images of a class."""
    table = make_table()
    pool = pool_of(torch.arange(12 * 20).split(1))
    network = feature_network(table.images, pool, "toy", 30, single_images=True)
    assert network.name.startswith("Conv4-64 UMTRA, 30 steps")
    # which class an image is of cannot matter
    pool = pool_of(torch.arange(12 * 20).split(1))
    assert feature_network(table.images, pool, "another", 30, single_images=True).hash == network.hash


@pytest.mark.usefixtures("_own_cache")
def test_the_feature_network_can_be_made_in_inference_mode():
    table = make_table()
    with torch.inference_mode():
        network = feature_network(table.images, pool_of(whole(table)[:12]), "toy", 2)
    assert network(table.images[:2].float() / 255).shape == (2, 64)


@pytest.mark.usefixtures("_own_cache")
def test_data_that_no_feature_network_can_learn_from_are_refused(tmp_path):
    table = make_table(size=12)
    with pytest.raises(UserError, match="at least 16"):
        feature_network(table.images, pool_of(whole(table)), "toy", 2)
    table = make_table(counts=(1,))
    with pytest.raises(UserError, match="2 classes with 2 images"):
        feature_network(table.images, pool_of(whole(table)), "toy", 2)
    with pytest.raises(UserError, match="feature_steps must be at least 1"):
        feature_network(table.images, pool_of(whole(table)), "toy", 0)
    assert not (tmp_path / "cache").exists()
