"""Searching in a latent space: steps of Gauss and Newton against Adam's, Laplace's approximation, derivatives."""

import pytest
import torch
from test_inference_learners import glyph_batch, likelihood
from torch.autograd.functional import hessian, jacobian
from torch.func import grad, jacrev, vmap
from torch.nn import functional as F

from genmeta.learners.latent_likelihood import _adam
from genmeta.models.redraw import DeformationRedrawer, blurred_error, twice_blurred
from genmeta.models.search import Around, gauss_newton, log_determinant
from genmeta.rng import make_rng

N, K, D = 5, 3, 8


def toy(curved, noise=0.3):
    """Energies of codes under N(0, 1) and a decoder with normal noise, `(energy, around, weights, seen)`."""
    rng = make_rng("toy")
    weights = torch.randn(D, K, generator=rng, dtype=torch.float64)
    seen = torch.randn(N, D, generator=rng, dtype=torch.float64)

    def left(z, x):
        drawn = weights @ z
        return ((drawn + curved * drawn.sin()) - x) / noise

    def of_one(z, x):
        return 0.5 * left(z, x).square().sum() + 0.5 * z.square().sum()

    def around(z):
        slopes, value = vmap(jacrev(left))(z, seen), vmap(left)(z, seen)
        gradient = torch.einsum("ndk,nd->nk", slopes, value) + z
        return Around(vmap(of_one)(z, seen), gradient, slopes.mT @ slopes + torch.eye(K, dtype=torch.float64))

    return lambda z: vmap(of_one)(z, seen), around, weights, seen


def test_gauss_newton_needs_fewer_steps_than_adam():
    energy, around, _, _ = toy(curved=0.7)
    start = torch.zeros(N, K, dtype=torch.float64)
    found, lowest = gauss_newton(around, energy, start, 6)
    torch.testing.assert_close(energy(found), lowest)
    assert (lowest < energy(start)).all()
    assert (lowest <= _adam(energy, start, 30, 0.1)[1] + 1e-9).all()
    torch.testing.assert_close(
        grad(lambda z: energy(z).sum())(gauss_newton(around, energy, start, 60)[0]),
        torch.zeros_like(start),
        atol=1e-4,
        rtol=0,
    )


def test_a_step_that_would_climb_is_not_taken():
    """A curvature that is far too small gives steps far too long: damping grows until one is worth it."""
    energy, around, _, _ = toy(curved=0.0)
    start = torch.ones(N, K, dtype=torch.float64)

    def too_flat(z):
        return around(z)._replace(curvature=1e-3 * torch.eye(K, dtype=torch.float64).expand(N, K, K))

    one = gauss_newton(too_flat, energy, start, 1, damping=1e-3)
    torch.testing.assert_close(one[0], start)
    assert (gauss_newton(too_flat, energy, start, 15, damping=1e-3)[1] < energy(start)).all()


def test_laplace_is_exact_for_a_linear_decoder_with_normal_noise():
    """Log marginal likelihood of x = W z + noise: that of N(0, W Wᵀ + σ² I)."""
    noise = 0.3
    energy, around, weights, seen = toy(curved=0.0, noise=noise)
    z, lowest = gauss_newton(around, energy, torch.zeros(N, K, dtype=torch.float64), 40, damping=1e-9)
    constant = -D / 2 * torch.log(torch.tensor(2 * torch.pi * noise**2, dtype=torch.float64))
    found = constant - lowest - 0.5 * log_determinant(around(z).curvature)
    covariance = weights @ weights.T + noise**2 * torch.eye(D, dtype=torch.float64)
    exact = torch.distributions.MultivariateNormal(torch.zeros(D, dtype=torch.float64), covariance).log_prob(seen)
    torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("channels", [1, 3])
def test_linearised_drawings_are_those_of_autograd(channels):
    """Also in inference mode, with strokes that get wider and strokes that get thinner."""
    torch.manual_seed(0)
    redrawer = DeformationRedrawer(5, (channels, 12, 16), channels=4).double()
    for layer in (redrawer.affine, redrawer.width, redrawer.field[-1]):
        torch.nn.init.normal_(layer.weight, std=0.3)
    rng = make_rng("codes")
    x = torch.rand(4, channels, 12, 16, generator=rng, dtype=torch.float64)
    z = torch.randn(4, 5, generator=rng, dtype=torch.float64)
    assert len(redrawer.width(z).sign().unique()) == 2
    with torch.inference_mode():
        drawn, slopes = redrawer.linearised(x, redrawer.look(x), z)
    torch.testing.assert_close(drawn, redrawer.redraw(x, z))
    for i in range(len(z)):
        expected = jacobian(lambda code, one=x[i : i + 1]: redrawer.redraw(one, code[None])[0], z[i])
        torch.testing.assert_close(slopes[i], expected.movedim(-1, 0))


def test_the_blurred_error_is_a_product():
    x, y = torch.rand(2, 3, 1, 12, 20, generator=make_rng("blurred"), dtype=torch.float64)
    torch.testing.assert_close(((x - y) * twice_blurred(x - y)).flatten(1).sum(1), blurred_error(x, y))
    blurred_x, blurred_y = x, y
    for _ in range(4):
        blurred_x, blurred_y = (F.avg_pool2d(image, 3, 1, 1) for image in (blurred_x, blurred_y))
    coarse = ((x - y) * twice_blurred(x - y, 4)).flatten(1).sum(1)
    torch.testing.assert_close(coarse, blurred_error(blurred_x, blurred_y))


@pytest.mark.parametrize("blur", [0, 5])
def test_the_likelihood_to_second_order(blur):
    """Gradients by autograd; curvature that of the energy, where the drawing is nearly right."""
    learner = likelihood(search="gauss_newton")
    torch.nn.init.normal_(learner.redrawer.affine.weight, std=0.3)
    x = torch.rand(2, 1, 16, 16, generator=make_rng("x"), dtype=torch.float64)
    z = 0.5 * torch.randn(2, 4, generator=make_rng("z"), dtype=torch.float64)
    other = torch.rand(2, 1, 16, 16, generator=make_rng("other"), dtype=torch.float64)
    around = learner._around(x, learner.redrawer.look(x), other, z, blur)
    torch.testing.assert_close(around.energy, learner._energy(x, other, z, blur))
    torch.testing.assert_close(around.gradient, grad(lambda v: learner._energy(x, other, v, blur).sum())(z))
    exact = learner.redrawer.redraw(x, z).detach()
    curvature = learner._around(x, learner.redrawer.look(x), exact, z, blur).curvature
    full = hessian(lambda v: learner._energy(x[:1], exact[:1], v[None], blur).sum(), z[0])
    torch.testing.assert_close(curvature[0], full, rtol=1e-5, atol=1e-5)


def test_two_steps_of_gauss_newton_explain_more_than_ten_of_adam():
    batch = glyph_batch()
    learner = likelihood()
    learner.redrawer = DeformationRedrawer(4, (1, 28, 28), channels=4).double()
    torch.nn.init.normal_(learner.redrawer.affine.weight, std=0.1)
    learner.encoder.forward = lambda x, other: (torch.zeros(len(x), 4).double(), torch.zeros(len(x), 4).double())
    x, other = batch.support_x[0], batch.query_x[0]
    adam = learner.infer(x, other, 10)[1]
    learner.search = "gauss_newton"
    z, energy = learner.infer(x, other, 2)
    assert (energy < adam).all()
    learner.laplace = True
    again, integrated = learner.infer(x, other, 2)
    torch.testing.assert_close(again, z)
    curvature = learner._around(x, learner.redrawer.look(x), other, z).curvature
    torch.testing.assert_close(integrated - energy, 0.5 * torch.logdet(curvature))


@pytest.mark.parametrize("search", ["adam", "gauss_newton"])
def test_a_search_from_coarse_to_fine_finds_what_lies_far(search):
    """Two bars seven pixels apart have nothing in common until they are blurred."""
    learner = likelihood(search=search)
    learner.redrawer = DeformationRedrawer(4, (1, 28, 28), channels=4).double()
    torch.nn.init.normal_(learner.redrawer.affine.weight, std=0.1)
    learner.encoder.forward = lambda x, other: (torch.zeros(len(x), 4).double(), torch.zeros(len(x), 4).double())
    x, other = torch.zeros(2, 1, 1, 28, 28, dtype=torch.float64)
    x[..., 4:24, 10:12], other[..., 4:24, 17:19] = 1, 1
    fine = learner.infer(x, other, 5)[1]
    learner.coarse = (18,)
    assert learner.infer(x, other, 5)[1] < fine
    start = learner.infer(x, x, 0)[1]
    assert learner.infer(x, x, 5)[1] <= start, "where nothing is far, it does not lead away"


def test_the_background_draws_the_support_image_or_is_drawn_from_it():
    source, target = likelihood(0, 3), likelihood(0, 3, background_role="target")
    s = torch.rand(2, 1, 16, 16, generator=make_rng("s"), dtype=torch.float64)
    for learner, pair in ((source, lambda i, b: (b, s[i])), (target, lambda i, b: (s[i], b))):
        for i in range(2):
            each = [learner.log_likelihood(*(y[None] for y in pair(i, b)), 0) for b in learner.background]
            torch.testing.assert_close(
                learner._background_likelihood(s)[i], torch.cat(each).logsumexp(0) - torch.tensor(3.0).log().double()
            )
