"""Densities of displacements: what a flow adds to a Gaussian, that it is a density, and that it comes back."""

import importlib

import pytest
import torch
from conftest import OMNIGLOT, ROOT

from genmeta.models.deformation_prior import DeformationPrior, FlowPrior, GaussianPrior
from genmeta.rng import make_rng

SMALL = {"rank": 3, "transforms": 2, "hidden": 16, "epochs": 12, "lr": 1e-2, "size": 4}


def bananas(n, name):
    """Displacements whose second coordinate is bent by the first, `[n, 4]`; in pairs that differ a little."""
    x = torch.randn(n // 2, 4, generator=make_rng(name)).repeat_interleave(2, 0)
    x = x + 0.01 * torch.randn(n, 4, generator=make_rng(name, "pair"))
    return torch.stack([x[:, 0], x[:, 0] ** 2 + 0.2 * x[:, 1], 0.3 * x[:, 2], 0.01 * x[:, 3]], 1)


@pytest.fixture(scope="module")
def fitted():
    priors = GaussianPrior(size=4), FlowPrior(**SMALL)
    for prior in priors:
        prior.fit(bananas(1000, "fit"))
    return priors


def test_a_flow_says_more_of_curved_displacements_than_a_gaussian(fitted):
    gaussian, flow = (prior.log_prob(bananas(500, "held out")).mean().item() for prior in fitted)
    assert flow > gaussian + 0.5


def test_a_fitted_gaussian_has_the_density_of_the_moments():
    """Many draws of four coordinates: next to nothing is added to the covariance."""
    x = torch.randn(4000, 4, generator=make_rng("many"), dtype=torch.float64) * torch.tensor([1, 0.3, 0.1, 0.05])
    prior = GaussianPrior(size=4).double()
    prior.fit(x)
    normal = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T, correction=0))
    torch.testing.assert_close(prior.log_prob(x[:50]), normal.log_prob(x[:50]), rtol=1e-2, atol=1e-2)


def test_few_displacements_of_many_numbers_are_not_taken_for_exact():
    """Thirty rows cannot say a covariance of 98: unseen ones must not be infinitely unlikely."""
    x = torch.randn(60, 98, generator=make_rng("few"))
    prior = GaussianPrior()
    prior.fit(x[:30])
    truth = torch.distributions.MultivariateNormal(torch.zeros(98), torch.eye(98)).log_prob(x[30:]).mean()
    assert prior.log_prob(x[30:]).mean() > truth - 15


def test_a_flow_begins_as_the_gaussian():
    x = bananas(200, "fit")
    gaussian, flow = GaussianPrior(size=4), FlowPrior(**{**SMALL, "epochs": 1, "lr": 1e-12})
    for prior in (gaussian, flow):
        prior.fit(x)
    torch.testing.assert_close(flow.log_prob(x), gaussian.log_prob(x))


def test_a_flow_integrates_to_one(fitted):
    """Weighted by a wide Gaussian's density: no mass is lost or made by the spline or by the part that is no flow's."""
    flow = fitted[1]
    mean, covariance = bananas(1000, "fit").mean(0), torch.cov(bananas(1000, "fit").T)
    wide = torch.distributions.MultivariateNormal(mean, 4 * covariance)
    x = mean + torch.randn(40_000, 4, generator=make_rng("wide")) @ torch.linalg.cholesky(4 * covariance).T
    ratio = (flow.log_prob(x) - wide.log_prob(x)).exp()
    assert ratio.mean().item() == pytest.approx(1, abs=5 * ratio.std().item() / 200)


@pytest.mark.parametrize("which", [0, 1], ids=["gaussian", "flow"])
def test_gradients_and_states_are_right(fitted, which):
    prior: DeformationPrior = fitted[which]
    x = bananas(6, "some")
    fresh = type(prior)(**SMALL if which else {"size": 4})
    fresh.load_state_dict(prior.state_dict())
    assert torch.equal(fresh.log_prob(x), prior.log_prob(x))
    assert torch.autograd.gradcheck(fresh.double().log_prob, (x.double().requires_grad_(),))


def test_fitting_is_deterministic_and_leaves_the_global_random_state_alone(fitted):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    again = FlowPrior(**SMALL)
    with torch.inference_mode():  # as in a test
        again.fit(bananas(50, "other"))  # what was learned before does not matter
        again.fit(bananas(1000, "fit"))
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in fitted[1].state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert not any(p.requires_grad for p in again.parameters())  # nothing for an optimiser to train


@pytest.mark.slow  # a minute: it registers pairs of real drawings
@pytest.mark.skipif(not OMNIGLOT.is_dir(), reason="the Omniglot zip files are not here")
def test_learned_priors_say_more_of_unseen_pairs_of_real_drawings_than_bending(monkeypatch):
    """And not by their weights: those of bending and size are fitted to the same pairs."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    found = importlib.import_module("deformation_priors").main([])  # with 100 pairs to learn from they do not
    for name in ("Gaussian", "flow"):
        gain = found[name] - found["bending"]
        assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5, name
