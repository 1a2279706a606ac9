"""The normalising flow as prior of codes: its density, its inverse, and codes in its base."""

import math

import pytest
import torch
from torch import nn

from genmeta.errors import UserError
from genmeta.models.checkpoint import class_named
from genmeta.models.decoder import LatentDecoder, LatentEncoder, Redrawer
from genmeta.models.flowed import FlowedDecoder, FlowedEncoder, FlowedRedrawer
from genmeta.models.spline_flow import SplineFlow
from genmeta.models.vae import importance_bound, kl_to_prior, log_normal, sample_posterior
from genmeta.models.vae_priors import FlowPrior
from genmeta.rng import make_rng
from genmeta.tasks.prior import GaussianMixture


def bent(dim: int = 2, weight: float = 0.4, **sizes) -> SplineFlow:
    """A flow in double precision that changes a lot."""
    torch.manual_seed(0)
    flow = SplineFlow(dim, **{"transforms": 3, "hidden": 8, "bins": 5, **sizes}).double()
    for transform in flow.layers.transform.transforms:
        for weights in transform.hyper[-1].parameters():
            nn.init.normal_(weights, std=weight)
    return flow


def test_density_integrates_to_one_and_is_not_the_gaussians():
    flow, step = bent(), 0.04
    axis = torch.arange(-6, 6, step, dtype=torch.float64)
    places = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = flow.log_prob(places).exp()
        standard = GaussianMixture.standard(2).log_prob(places).exp()
    assert density.sum().item() * step**2 == pytest.approx(1, abs=3e-3)
    assert (density - standard).abs().sum().item() * step**2 > 0.1


def test_flow_and_inverse_are_the_identity_and_the_log_determinant_that_of_the_jacobian():
    flow = bent(5)
    z = 2 * torch.randn(7, 5, dtype=torch.float64, generator=make_rng(0))
    u, log_det = flow.to_base(z)
    torch.testing.assert_close(flow.from_base(u), z)
    torch.testing.assert_close(flow.to_base(flow.from_base(z))[0], z)
    assert (u - z).abs().max() > 0.1
    jacobian = torch.func.vmap(torch.func.jacrev(lambda one: flow.to_base(one[None])[0][0]))(z)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet)
    far = torch.full((1, 5), 50.0, dtype=torch.float64)
    torch.testing.assert_close(flow.from_base(flow.to_base(far)[0]), far)


def test_a_new_flow_is_the_standard_normal():
    prior = FlowPrior(4, transforms=2, hidden=8, bins=3)
    z = torch.randn(9, 4, generator=make_rng(0))
    torch.testing.assert_close(prior.flow.log_prob(z), GaussianMixture.standard(4).log_prob(z))
    torch.testing.assert_close(prior.flow.from_base(z), z)
    mean, log_var = torch.randn(2, 20_000, 4, generator=make_rng(1)) * 0.5
    draws = sample_posterior(mean, log_var, make_rng(2))
    kl = prior.kl(mean, log_var, draws, torch.zeros(20_000, dtype=torch.long), lambda x: (x, x))
    assert kl.shape == (20_000, 1)
    assert kl.mean().item() == pytest.approx(kl_to_prior(mean, log_var).sum(1).mean().item(), abs=0.03)


def test_importance_bound_under_an_identity_flow_is_that_of_the_standard_normal():
    prior = FlowPrior(2, transforms=2, hidden=4, bins=3).double()
    mean, log_var = torch.randn(2, 3, 2, dtype=torch.float64, generator=make_rng(0))
    log_likelihood = lambda z, of: log_normal(z, mean[of], torch.zeros_like(z))  # noqa: E731

    def bound(log_prior):
        return importance_bound((mean, log_var), log_likelihood, log_prior, 5, make_rng(1))

    expected = bound(GaussianMixture.standard(2).log_prob)
    torch.testing.assert_close(bound(prior.log_density(2, lambda x: (x, x), 1)), expected)


def test_importance_bound_reaches_the_evidence_under_the_flow():
    """The bound in training's codes and under the flow's density is of the same p(x) as sums over its base."""
    flow = bent()
    x = torch.tensor([[0.7, -0.2]], dtype=torch.float64)
    u = torch.randn(20_000, 2, dtype=torch.float64, generator=make_rng(0))
    with torch.no_grad():
        evidence = log_normal(flow.from_base(u), x, torch.zeros(2)).logsumexp(0) - math.log(len(u))
        bound = importance_bound(
            (x, torch.full_like(x, 0.3)),
            lambda z, of: log_normal(z, x[of], torch.zeros_like(z)),
            flow.log_prob,
            10_000,
            make_rng(1),
        )
    assert bound.item() == pytest.approx(evidence.item(), abs=0.05)


def test_gradients_of_the_kl_term_in_float64():
    flow_prior = FlowPrior(3, transforms=2, hidden=4, bins=3).double()
    flow_prior.flow = bent(3, transforms=2, hidden=4, bins=3)
    mean, log_var = torch.randn(2, 2, 3, dtype=torch.float64, generator=make_rng(1)) * 0.7
    weights = flow_prior.flow.layers.transform.transforms[0].hyper[-1].weight

    def kl(mean, log_var, _):
        return flow_prior.estimated_kl(mean, log_var, sample_posterior(mean, log_var, make_rng(5)))

    inputs = (mean.requires_grad_(), log_var.requires_grad_(), weights)
    assert torch.autograd.gradcheck(kl, inputs)


def test_bimodal_codes_gain_nats_on_what_is_held_out():
    rng = make_rng(0)
    codes = torch.randn(1200, 2, generator=rng) * 0.3
    codes[:, 0] += 2.0 * torch.randint(2, (1200,), generator=rng) - 1
    torch.manual_seed(0)
    flow = SplineFlow(2, transforms=2, hidden=16, bins=8)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        (-flow.log_prob(codes[:900]).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        gained = flow.log_prob(codes[900:]).mean() - GaussianMixture.standard(2).log_prob(codes[900:]).mean()
        drawn = flow.from_base(torch.randn(4000, 2, generator=rng))
    # entropies in closed form: two modes of standard deviation 0.3, far apart
    best = -math.log(2) - 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.3))
    assert 0.85 * (best - GaussianMixture.standard(2).log_prob(codes[900:]).mean()) < gained
    between = (drawn[:, 0].abs() < 0.2).float().mean().item()
    assert between < 0.04, "N(0, I) has 0.16 there"


class Linear(LatentDecoder):
    def __init__(self) -> None:
        super().__init__()
        self.latent_dim, self.image_shape, self.init_args = 3, (1, 1, 3), {}

    def decode(self, z):
        return z.view(-1, 1, 1, 3)


class Given(LatentEncoder):
    """The image is the mean, 0.05 the standard deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.latent_dim, self.image_shape, self.init_args = 3, (1, 1, 3), {}

    def forward(self, x):
        mean = x.flatten(1)
        return mean, torch.full_like(mean, 2 * math.log(0.05))


class Moved(Redrawer):
    def __init__(self) -> None:
        super().__init__()
        self.latent_dim, self.image_shape, self.init_args = 3, (1, 1, 3), {}

    def redraw(self, x, z):
        return x + z.view_as(x)


def test_codes_in_the_base_are_decoded_through_the_flow_and_encoded_against_it():
    flow = bent(3)
    decoder, encoder, redrawer = (
        FlowedDecoder(Linear(), flow),
        FlowedEncoder(Given(), flow),
        FlowedRedrawer(Moved(), flow),
    )
    u = torch.randn(6, 3, dtype=torch.float64, generator=make_rng(0))
    images = decoder.decode(u)
    assert not torch.allclose(images.flatten(1), u)
    mean, log_var = encoder(images)
    torch.testing.assert_close(mean, u)
    torch.testing.assert_close(redrawer.redraw(images, u), 2 * images)
    draws = sample_posterior(*(t.repeat_interleave(20_000, 0) for t in Given()(images)), make_rng(1))
    of_draws = flow.to_base(draws)[0].unflatten(0, (6, 20_000)).std(1)
    torch.testing.assert_close((log_var / 2).exp(), of_draws, rtol=0.1, atol=0)


def test_variances_in_the_base_are_exact_where_the_flow_is_the_identity():
    encoder = FlowedEncoder(Given(), SplineFlow(3))
    mean, log_var = Given()(torch.rand(4, 1, 1, 3))
    found = encoder(mean.view(4, 1, 1, 3))
    torch.testing.assert_close(found[0], mean)
    torch.testing.assert_close(found[1], log_var, atol=1e-4, rtol=0)


def test_what_a_checkpoint_says_of_nested_networks_is_plain():
    described = FlowedDecoder(Linear(), bent(3)).init_args
    assert described["flow"]["args"] == {"latent_dim": 3, "transforms": 3, "hidden": 8, "bins": 5}
    assert class_named(described["flow"]["class"], "file") is SplineFlow


def test_mixed_precision_keeps_the_flow_exact():
    flow = bent(4).float()
    z = torch.randn(5, 4, generator=make_rng(0))
    with torch.autocast("cpu", torch.bfloat16):
        back = flow.from_base(flow.to_base(z)[0])
    torch.testing.assert_close(back, z, atol=1e-3, rtol=0)
    assert back.dtype == torch.float32


@pytest.mark.parametrize("sizes", [{"latent_dim": 1}, {"transforms": 1}, {"bins": 1}, {"hidden": 0}])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(UserError, match="SplineFlow"):
        SplineFlow(**{"latent_dim": 4, **sizes})
