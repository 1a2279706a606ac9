"""Generative models: losses against hand-computed values and closed forms, networks of any size, safe checkpoints."""

import math
import pickle
from pathlib import Path

import pytest
import torch
from conftest import make_table, toy_split
from torch import nn

from genmeta.data.splits import Split
from genmeta.errors import UserError
from genmeta.models.backbones import Conv4, keeps_running_statistics, uses_batch_statistics
from genmeta.models.checkpoint import KEY, describe_generator, load_generator
from genmeta.models.diff_augment import DiffAugment
from genmeta.models.gan_networks import (
    ConvDiscriminator,
    ConvGenerator,
    FullyConnectedDiscriminator,
    FullyConnectedGenerator,
)
from genmeta.models.gan_objectives import (
    Hinge,
    LeastSquares,
    Minimax,
    NonSaturating,
    Wasserstein,
    gradient_penalty,
    r1_penalty,
)
from genmeta.models.likelihoods import Bernoulli, DiscretisedLogistic, Gaussian
from genmeta.models.redraw import DeformationRedrawer, PairEncoder, PixelRedrawer, blurred_error, roughness
from genmeta.models.vae import importance_bound, kl_to_gaussian, kl_to_prior, sample_posterior, with_free_bits
from genmeta.models.vae_networks import ConvDecoder, ConvEncoder
from genmeta.models.vae_priors import ClassPrior, FlowPrior, StandardNormal, VampPrior
from genmeta.rng import make_rng
from genmeta.tasks.prior import GaussianMixture

SPLIT = toy_split(make_table())


# GANs


def test_gan_losses_at_hand_computed_values():
    zero = torch.zeros(3, dtype=torch.float64)
    ln2 = math.log(2)
    assert Minimax().discriminator_loss(zero, zero).item() == pytest.approx(2 * ln2)
    assert Minimax().generator_loss(zero).item() == pytest.approx(-ln2)
    assert NonSaturating().generator_loss(zero).item() == pytest.approx(ln2)
    # logits ln 3 and -ln 3 are probabilities 3/4 and 1/4
    real, fake = torch.tensor([math.log(3.0)]), torch.tensor([-math.log(3.0)])
    assert NonSaturating().discriminator_loss(real, fake).item() == pytest.approx(-2 * math.log(0.75), rel=1e-6)
    assert NonSaturating().generator_loss(fake).item() == pytest.approx(math.log(4), rel=1e-6)
    assert Minimax().generator_loss(fake).item() == pytest.approx(math.log(0.75), rel=1e-6)
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.5])
    assert LeastSquares().discriminator_loss(real, fake).item() == pytest.approx((1 + 0.25) / 4 + (9 + 0.25) / 4)
    assert LeastSquares().generator_loss(fake).item() == pytest.approx((16 + 0.25) / 4)
    assert Hinge().discriminator_loss(real, fake).item() == pytest.approx((0 + 0.5) / 2 + (0 + 1.5) / 2)
    assert Hinge().generator_loss(fake).item() == pytest.approx(1.25)
    assert Wasserstein().discriminator_loss(real, fake).item() == pytest.approx(-1.25 - 1.25)
    assert Wasserstein().generator_loss(fake).item() == pytest.approx(1.25)


def test_gan_losses_equal_the_textbook_formulas_and_survive_large_logits():
    real, fake = torch.randn(2, 50, dtype=torch.float64, generator=make_rng(0)).requires_grad_()
    d_real, d_fake = torch.sigmoid(real), torch.sigmoid(fake)
    value = d_real.log().mean() + (1 - d_fake).log().mean()
    torch.testing.assert_close(Minimax().discriminator_loss(real, fake), -value)
    torch.testing.assert_close(Minimax().generator_loss(fake), (1 - d_fake).log().mean())
    torch.testing.assert_close(NonSaturating().generator_loss(fake), -d_fake.log().mean())
    huge = torch.tensor([200.0, -200.0])
    for loss in (Minimax().discriminator_loss(huge, huge), Minimax().generator_loss(huge)):
        assert loss.isfinite()


def test_minimax_saturates_where_the_other_does_not():
    fake = torch.tensor([-20.0], requires_grad=True)
    (minimax,) = torch.autograd.grad(Minimax().generator_loss(fake), fake)
    (other,) = torch.autograd.grad(NonSaturating().generator_loss(fake), fake)
    assert abs(minimax.item()) < 1e-8
    assert other.item() == pytest.approx(-1, abs=1e-6)


def test_penalties_of_a_linear_and_a_quadratic_critic_by_hand():
    weight = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    linear = lambda x: (x.flatten(1) * weight).sum(1)  # noqa: E731 - its gradient has norm 5 everywhere
    real, fake = torch.randn(2, 6, 1, 1, 2, dtype=torch.float64, generator=make_rng(0))
    assert gradient_penalty(linear, real, fake, make_rng(1)).item() == pytest.approx(16)
    assert r1_penalty(linear, real).item() == pytest.approx(12.5)
    (gradient,) = torch.autograd.grad(r1_penalty(linear, real), weight)
    torch.testing.assert_close(gradient, weight.detach())  # d/dw |w|²/2: the penalty trains the critic
    quadratic = lambda x: x.square().flatten(1).sum(1) / 2  # noqa: E731 - its gradient is x, so points matter
    assert r1_penalty(quadratic, real).item() == pytest.approx(real.square().sum().item() / 12)
    same = gradient_penalty(quadratic, real, real, make_rng(1))  # between a point and itself
    assert same.item() == pytest.approx(((real.flatten(1).norm(dim=1) - 1) ** 2).mean().item())


def test_classic_gan_has_the_classic_layers():
    generator, discriminator = FullyConnectedGenerator(), FullyConnectedDiscriminator()
    sizes = [(m.in_features, m.out_features) for m in generator.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(100, 128), (128, 256), (256, 512), (512, 1024), (1024, 784)]
    assert sum(isinstance(m, nn.BatchNorm1d) for m in generator.modules()) == 3
    sizes = [(m.in_features, m.out_features) for m in discriminator.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(784, 512), (512, 256), (256, 1)]
    assert all(m.negative_slope == 0.2 for m in generator.modules() if isinstance(m, nn.LeakyReLU))
    images = generator(torch.randn(6, 100))
    assert images.shape == (6, 1, 28, 28)
    assert -1 <= images.min() < 0 < images.max() <= 1
    assert discriminator(images).shape == (6,)
    generator.eval()
    z = torch.randn(6, 100)
    torch.testing.assert_close(generator.decode(z), (generator(z) + 1) / 2)


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize(
    ("shape", "channels"),
    [((1, 28, 28), (8, 6)), ((1, 28, 28), (8, 6, 4)), ((3, 84, 84), (8, 6, 6, 4)), ((3, 32, 40), (5,))],
)
def test_convolutional_networks_of_any_size(shape, channels, residual):
    torch.manual_seed(0)
    generator = ConvGenerator(7, shape, channels, residual)
    images = generator(torch.randn(3, 7))
    assert images.shape == (3, *shape)
    assert images.abs().max() <= 1
    for spectral_norm in (False, True):
        discriminator = ConvDiscriminator(shape, channels[::-1], residual, spectral_norm)
        assert discriminator(images).shape == (3,)
    encoder, decoder = (
        ConvEncoder(6, shape, channels[::-1], 16, residual),
        ConvDecoder(6, shape, channels, 16, residual),
    )
    mean, log_var = encoder(torch.rand(2, *shape))
    assert mean.shape == log_var.shape == (2, 6)
    drawn = decoder.decode(mean)
    assert drawn.shape == (2, *shape)
    assert 0 < drawn.min() < drawn.max() < 1
    # a place of a narrow, untrained network can be dead behind its ReLUs; it is not in all of several networks
    over_codes = torch.zeros(shape, dtype=torch.float64)
    with torch.no_grad():
        for seed in range(5):
            torch.manual_seed(seed)
            drawer = ConvDecoder(6, shape, channels, 16, residual).double()
            over_codes += drawer.decode(torch.randn(50, 6, dtype=torch.float64)).std(0)
    assert (over_codes > 0).all(), "a pixel does not depend on the code"


def test_too_many_halvings_are_refused_with_the_numbers():
    with pytest.raises(UserError, match=r"4 halvings .* of 8×8 pixels"):
        ConvGenerator(4, (1, 8, 8), (8, 8, 8, 8))
    with pytest.raises(UserError, match=r"found \[28, 28\]"):
        ConvDecoder(4, (28, 28))


def test_spectral_norm_bounds_the_discriminator():
    torch.manual_seed(0)
    discriminator = ConvDiscriminator((1, 16, 16), (4, 8), spectral_norm=True)
    with torch.no_grad():
        for layer in discriminator.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.parametrizations.weight.original.mul_(100)
        for _ in range(20):  # power iterations
            discriminator(torch.randn(2, 1, 16, 16))
    largest = [
        torch.linalg.matrix_norm(m.weight.flatten(1), 2).item()
        for m in discriminator.modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    assert len(largest) == 3
    assert largest == pytest.approx([1, 1, 1], abs=0.05)


def test_projection_discriminator_follows_its_equation():
    torch.manual_seed(0)
    discriminator = ConvDiscriminator((1, 8, 8), (4, 6), projection=True, max_classes=5)
    with torch.no_grad():
        discriminator.classes.weight.normal_()
    x, labels = torch.randn(3, 1, 8, 8), torch.tensor([4, 0, 4])
    features = discriminator.body(x)
    expected = discriminator.logit(features.flatten(1))[:, 0] + torch.stack(
        [features[i].sum((1, 2)) @ discriminator.classes.weight[labels[i]] for i in range(3)]
    )
    torch.testing.assert_close(discriminator(x, labels), expected)
    with pytest.raises(ValueError, match="needs labels"):
        discriminator(x)


def test_codes_of_a_conditional_generator_carry_the_class():
    torch.manual_seed(0)
    generator = ConvGenerator(6, (1, 8, 8), (4,), class_dim=2, max_classes=9)
    codes = generator.codes(torch.tensor([3, 3, 8]), make_rng(0))
    assert codes.shape == (3, 6)
    torch.testing.assert_close(codes[:, 4:], generator.classes.weight[[3, 3, 8]])
    assert not torch.equal(codes[0, :4], codes[1, :4])
    prior = generator.prior(4)
    drawn = prior.sample(200, rng=make_rng(1))
    vectors = {tuple(v) for v in generator.classes.weight[:4].tolist()}
    assert {tuple(v) for v in drawn[:, 4:].tolist()} == vectors, "only classes that were trained, all of them"


def test_differentiable_augmentation_moves_and_blanks_and_lets_gradients_through():
    x = torch.full((40, 1, 16, 16), -1.0)
    x[:, :, 6:10, 6:10] = 1
    shifted = DiffAugment(translation=0.25)(x, make_rng(0))
    assert shifted.shape == x.shape
    torch.testing.assert_close(shifted.sum((1, 2, 3)), x.sum((1, 2, 3)))  # ±4 pixels keep the square inside
    corners = {tuple((row[0] > 0).nonzero()[0].tolist()) for row in shifted}
    assert min(c[0] for c in corners) >= 2
    assert max(c[0] for c in corners) <= 10
    assert len(corners) > 20
    blanked = DiffAugment(translation=0, cutout=0.5)(torch.ones(40, 3, 16, 16), make_rng(0))
    share = (blanked < 0).float().mean((1, 2, 3))
    assert 0.05 < share.min() <= share.max() <= 0.27
    assert torch.equal(DiffAugment(0.25)(x, make_rng(3)), DiffAugment(0.25)(x, make_rng(3)))
    images = torch.rand(3, 3, 8, 8, dtype=torch.float64, generator=make_rng(1)).requires_grad_()
    augment = DiffAugment(translation=0.25, cutout=0.25, colour=True)
    assert torch.autograd.gradcheck(lambda t: augment(t, make_rng(5)), (images,))


# VAEs


def test_kl_equals_torch_distributions_and_a_hand_value():
    mean, log_var, other_mean, other_log_var = torch.randn(4, 7, 5, dtype=torch.float64, generator=make_rng(0))
    normal = torch.distributions.Normal
    q, p = normal(mean, (log_var / 2).exp()), normal(other_mean, (other_log_var / 2).exp())
    torch.testing.assert_close(kl_to_prior(mean, log_var), torch.distributions.kl_divergence(q, normal(0.0, 1.0)))
    expected = torch.distributions.kl_divergence(q, p)
    torch.testing.assert_close(kl_to_gaussian(mean, log_var, other_mean, other_log_var), expected)
    assert kl_to_prior(torch.ones(1, 4), torch.zeros(1, 4)).tolist() == [[0.5] * 4]


def test_free_bits_are_a_floor_for_the_mean_of_each_dimension():
    kl = torch.tensor([[0.0, 1.0], [0.2, 3.0]], requires_grad=True)
    assert with_free_bits(kl, 0.0).item() == pytest.approx(2.1)
    assert with_free_bits(kl, 0.5).item() == pytest.approx(2.5)
    (gradient,) = torch.autograd.grad(with_free_bits(kl, 0.5), kl)
    assert gradient.tolist() == [[0.0, 0.5], [0.0, 0.5]]
    # of all processes' images, the first dimension is dear and the second free
    assert with_free_bits(kl, 0.5, torch.tensor([0.6, 0.4])).item() == pytest.approx(0.1 + 0.5)


def test_bernoulli_likelihood_is_in_nats_per_image():
    x = torch.bernoulli(torch.full((3, 1, 4, 4), 0.5), generator=make_rng(0))
    logits = torch.randn(3, 1, 4, 4, generator=make_rng(1))
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(Bernoulli().log_prob(logits, x), expected)
    black = Bernoulli().log_prob(torch.zeros(1, 1, 28, 28), torch.ones(1, 1, 28, 28))
    assert black.item() == pytest.approx(-784 * math.log(2), rel=1e-6)
    grey = torch.full((2000, 1, 1, 1), 0.3)
    drawn = Bernoulli(binarise=True).prepare(grey, make_rng(0))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert drawn.mean().item() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(Bernoulli().prepare(grey, make_rng(0)), grey)


def test_gaussian_likelihood_equals_torch_distributions():
    x, logits = torch.rand(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    likelihood = Gaussian()
    normal = torch.distributions.Normal(torch.sigmoid(logits), likelihood.log_sigma.exp())
    torch.testing.assert_close(likelihood.log_prob(logits, x), normal.log_prob(x).sum((1, 2, 3)))


def test_discretised_logistic_sums_to_one_over_the_grey_values():
    likelihood = DiscretisedLogistic().double()
    values = (torch.arange(256, dtype=torch.float64) / 255).view(256, 1, 1, 1)
    for log_scale in (-5.0, -2.0, 1.0):
        nn.init.constant_(likelihood.log_scale, log_scale)
        for logit in (-6.0, 0.3, 4.0):
            log_prob = likelihood.log_prob(torch.full_like(values, logit), values)
            assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)
            assert log_prob.isfinite().all()
    nn.init.constant_(likelihood.log_scale, -7.0)  # a scale that has nearly all mass on one value
    assert likelihood.float().log_prob(torch.full((1, 1, 1, 1), 9.0), torch.zeros(1, 1, 1, 1)).isfinite()


@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian(), DiscretisedLogistic()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize(
    "prior",
    [StandardNormal(), VampPrior(3, (1, 4, 4)), ClassPrior(3, 4), FlowPrior(3, 2, 4, 3)],
    ids=lambda m: type(m).__name__,
)
def test_elbo_gradients_in_float64(likelihood, prior):
    torch.manual_seed(0)
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64, generator=make_rng(0))
    decode, encode_layer = nn.Linear(3, 16).double(), nn.Linear(16, 6).double()
    likelihood, prior = likelihood.double(), prior.double()
    encode = lambda images: encode_layer(images.flatten(1)).chunk(2, 1)  # noqa: E731
    labels = torch.tensor([1, 3])

    def elbo(mean, log_var):
        z = sample_posterior(mean, log_var, make_rng(5))
        log_likelihood = likelihood.log_prob(decode(z).view(2, 1, 4, 4), x)
        return log_likelihood - prior.kl(mean, log_var, z, labels, encode).sum(1)

    mean, log_var = torch.randn(2, 2, 3, dtype=torch.float64, generator=make_rng(1))
    assert torch.autograd.gradcheck(elbo, (mean.requires_grad_(), log_var.requires_grad_()))


def test_posterior_samples_have_its_mean_and_deviation():
    mean, log_var = torch.tensor([[2.0]]).expand(20000, 1), torch.tensor([[math.log(0.25)]]).expand(20000, 1)
    z = sample_posterior(mean, log_var, make_rng(0))
    assert z.mean().item() == pytest.approx(2, abs=0.02)
    assert z.std().item() == pytest.approx(0.5, abs=0.01)


def test_estimated_kl_of_the_vamp_prior_is_right_on_average():
    """With one pseudo-image the prior is one Gaussian, for which the divergence is known."""
    prior = VampPrior(1, (1, 4, 4)).double()
    encode = lambda x: (torch.full((len(x), 2), 0.7, dtype=torch.float64), torch.full((len(x), 2), -0.4).double())  # noqa: E731
    mean = torch.tensor([[0.2, -0.3]], dtype=torch.float64).expand(20000, 2)
    log_var = torch.full_like(mean, 0.3)
    z = sample_posterior(mean, log_var, make_rng(0))
    estimate = prior.kl(mean, log_var, z, torch.zeros(20000, dtype=torch.long), encode).mean()
    exact = kl_to_gaussian(mean[:1], log_var[:1], torch.tensor(0.7), torch.tensor(-0.4)).sum()
    assert estimate.item() == pytest.approx(exact.item(), abs=0.02)


def test_vamp_prior_starts_from_training_images():
    prior = VampPrior(3, (1, 4, 4))
    images = torch.linspace(0.1, 0.9, 5)[:, None, None, None].expand(5, 1, 4, 4)
    prior.start(images)
    torch.testing.assert_close(torch.sigmoid(prior.logits)[:, 0, 0, 0], torch.tensor([0.1, 0.5, 0.9]))


def test_importance_bound_of_a_linear_gaussian_model_reaches_the_exact_likelihood():
    """With x = z + noise, log p(x) is known, the bound with k = 1 is the ELBO, and it grows with k towards log p(x)."""
    x = torch.tensor([[0.5], [-1.0]], dtype=torch.float64)
    normal = torch.distributions.Normal
    exact = normal(0.0, 2**0.5).log_prob(x[:, 0])
    mean, log_var = x * 0.5 + 0.3, torch.full_like(x, math.log(0.8))  # not the true posterior N(x / 2, 1 / 2)
    log_likelihood = lambda z, of: normal(z[:, 0], 1.0).log_prob(x[of, 0])  # noqa: E731
    log_prior = lambda z: normal(0.0, 1.0).log_prob(z[:, 0])  # noqa: E731
    bound = lambda k, seed: importance_bound((mean, log_var), log_likelihood, log_prior, k, make_rng(seed), 64)  # noqa: E731
    means = [torch.stack([bound(k, seed) for seed in range(n)]).mean(0) for k, n in ((1, 4000), (5, 1000), (2000, 5))]
    assert (means[0] < means[1]).all()
    assert (means[1] < means[2]).all()
    torch.testing.assert_close(means[2], exact, atol=0.01, rtol=0)
    kl = kl_to_prior(mean, log_var).sum(1)
    expected = normal(mean[:, 0], 1.0).log_prob(x[:, 0]) - 0.5 * 0.8  # E log N(x; z, 1) in closed form
    torch.testing.assert_close(means[0], expected - kl, atol=0.05, rtol=0)


# priors


def test_gaussian_mixture_density_equals_torch_and_samples_have_its_moments():
    rng = make_rng(0)
    weights, means = torch.tensor([0.2, 0.8]), torch.tensor([[3.0, 0.0], [-1.0, 1.0]])
    factors = torch.tensor([[[1.0, 0.0], [0.5, 0.3]], [[0.4, 0.0], [-0.2, 0.6]]])
    mixture = GaussianMixture(weights, means, factors)
    components = torch.distributions.MultivariateNormal(means, scale_tril=factors)
    expected = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), components)
    z = torch.randn(9, 2, generator=rng)
    torch.testing.assert_close(mixture.log_prob(z), expected.log_prob(z))
    samples = mixture.sample(40, 1000, rng=rng)
    assert samples.shape == (40, 1000, 2)
    torch.testing.assert_close(samples.mean((0, 1)), expected.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(samples.flatten(0, 1).var(0), expected.variance, atol=0.06, rtol=0)
    assert mixture.spread == pytest.approx(expected.variance.mean().sqrt().item(), rel=1e-5)
    of = mixture.sample_of(torch.tensor([1, 0]), 5000, rng)
    torch.testing.assert_close(of.mean(1), means[[1, 0]], atol=0.05, rtol=0)
    diagonal = GaussianMixture(weights, means, torch.tensor([[1.0, 2.0], [0.5, 0.1]]))
    full = GaussianMixture(weights, means, torch.diag_embed(diagonal.scales))
    torch.testing.assert_close(diagonal.log_prob(z), full.log_prob(z))
    assert diagonal.spread == pytest.approx(full.spread)
    assert GaussianMixture.standard(5).spread == 1
    pairs = mixture.sample(2, 20000, rng=rng)
    distance = (pairs[0] - pairs[1]).square().sum(1).mean().sqrt().item()
    assert distance == pytest.approx((2 * 2) ** 0.5 * mixture.spread, rel=0.02), "the unit of separations"


# redrawing


def test_redrawing_with_the_identity_gives_the_image_back():
    redrawer = DeformationRedrawer(4, (1, 16, 16), channels=4)
    for layer in (redrawer.field[-1], redrawer.affine, redrawer.width):
        nn.init.zeros_(layer.weight)
    x = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(redrawer.redraw(x, torch.randn(3, 4)), x, atol=1e-5, rtol=0)


def test_deformation_moves_ink_and_makes_none():
    torch.manual_seed(0)
    redrawer = DeformationRedrawer(4, (1, 16, 16), channels=4)
    z = torch.randn(5, 4) * 3
    assert torch.equal(redrawer.redraw(torch.zeros(5, 1, 16, 16), z), torch.zeros(5, 1, 16, 16))
    drawn = redrawer.redraw(torch.rand(5, 1, 16, 16), z)
    assert 0 <= drawn.min() <= drawn.max() <= 1
    _, field = redrawer(torch.rand(5, 1, 16, 16), z)
    assert field.shape == (5, 2, 4, 4)
    assert field.abs().max() <= 0.35
    nn.init.constant_(redrawer.width.bias, 9.0)  # as thick as can be: the dilation
    for layer in (redrawer.field[-1], redrawer.affine, redrawer.width):
        nn.init.zeros_(layer.weight)
    dot = torch.zeros(1, 1, 16, 16)
    dot[0, 0, 8, 8] = 1
    assert redrawer.redraw(dot, z[:1]).sum().item() == pytest.approx(9, abs=1e-3)


def test_blurred_error_and_roughness_by_hand():
    x = torch.zeros(1, 1, 9, 9)
    near, far = x.clone(), x.clone()
    x[0, 0, 4, 4] = near[0, 0, 4, 5] = far[0, 0, 4, 8] = 1
    assert blurred_error(x, x).item() == 0
    assert 0 < blurred_error(near, x).item() < blurred_error(far, x).item()
    kernel = torch.zeros(1, 1, 9, 9)
    kernel[0, 0, 3:6, 3:6] = 1 / 9
    nothing = torch.zeros_like(x)
    once, weights = 0.3 * kernel.square().sum().item(), (0.3, 1, 2)
    assert once < blurred_error(x, nothing).item() < sum(weights) * kernel.square().sum().item()
    field = torch.zeros(1, 2, 2, 2)
    field[0, 0, 0, 0] = 3.0
    assert roughness(field).tolist() == [18.0]  # two neighbours, 3² each


@pytest.mark.parametrize("make", [PixelRedrawer, DeformationRedrawer])
def test_redrawers_depend_on_image_and_code(make):
    torch.manual_seed(0)
    redrawer = make(4, (1, 16, 16))
    x, z = torch.rand(2, 1, 16, 16), torch.randn(2, 4)
    drawn = redrawer.redraw(x, z)
    assert drawn.shape == x.shape
    assert not torch.equal(drawn, redrawer.redraw(x, z + 1))
    assert not torch.equal(drawn, redrawer.redraw(x.flip(0), z))
    mean, log_var = PairEncoder(4, (1, 16, 16))(x, x.flip(0))
    assert mean.shape == log_var.shape == (2, 4)


def test_conv4_shapes_and_statistics():
    assert Conv4()(torch.rand(2, 1, 28, 28)).shape == (2, 64)
    assert Conv4(3, 32, 84)(torch.rand(2, 3, 84, 84)).shape == (2, 32 * 25)
    assert keeps_running_statistics(Conv4())
    assert not uses_batch_statistics(Conv4())
    assert uses_batch_statistics(Conv4(norm="batch"))
    with pytest.raises(UserError, match="at least 16"):
        Conv4(image_size=15)


# checkpoints


def save(path: Path, networks=None, prior=None, **changes) -> Path:
    networks = networks or {"decoder": ConvDecoder(6, (1, 16, 16)), "encoder": ConvEncoder(6, (1, 16, 16))}
    state = {f"{role}_.{k}": v for role, network in networks.items() for k, v in network.state_dict().items()}
    named = {role: (network, f"{role}_.") for role, network in networks.items()}
    dim = next(iter(networks.values())).latent_dim
    entry = describe_generator(named, prior or GaussianMixture.standard(dim), SPLIT)
    entry["networks"][next(iter(networks))] |= changes
    torch.save({"state_dict": state | {"other.x": torch.zeros(1)}, KEY: entry}, path)
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConvDecoder(6, (1, 16, 16), (8, 4), residual=True),
        lambda: FullyConnectedGenerator(5, (1, 8, 8), (7, 9)),
        lambda: ConvGenerator(6, (3, 12, 12), (8, 4), class_dim=2, max_classes=7),
    ],
    ids=["vae", "classic", "conditional"],
)
def test_a_generator_comes_back_frozen_and_equal(tmp_path, make):
    decoder = make().eval()
    mixture = GaussianMixture(torch.tensor([0.5, 0.5]), *torch.rand(2, 2, decoder.latent_dim))
    encoder = ConvEncoder(decoder.latent_dim, decoder.image_shape)
    loaded = load_generator(save(tmp_path / "a.ckpt", {"decoder": decoder, "encoder": encoder}, mixture))
    z = torch.randn(600, decoder.latent_dim)
    torch.testing.assert_close(loaded.decode(z), decoder.decode(z))  # in chunks, too
    images = torch.rand(2, *decoder.image_shape)
    torch.testing.assert_close(loaded.encode(images), encoder(images))
    assert not loaded.networks.training
    assert not any(p.requires_grad for p in loaded.networks.parameters())
    assert (loaded.split_name, loaded.split_hash, loaded.latent_dim) == ("toy", SPLIT.hash, decoder.latent_dim)
    torch.testing.assert_close(loaded.prior.means, mixture.means)
    loaded.check_split(SPLIT)
    loaded.check_image_shape(decoder.image_shape)
    loaded.check_draws_from_codes()


def test_a_redrawer_comes_back_and_says_what_it_cannot_do(tmp_path):
    redrawer = DeformationRedrawer(4, (1, 16, 16), channels=4).eval()
    loaded = load_generator(save(tmp_path / "a.ckpt", {"redrawer": redrawer}))
    x, z = torch.rand(2, 1, 16, 16), torch.randn(2, 4)
    torch.testing.assert_close(loaded.redraw(x, z), redrawer.redraw(x, z))
    for call in (lambda: loaded.decode(z), loaded.check_draws_from_codes):
        with pytest.raises(UserError, match=r"a\.ckpt has no decoder: it draws given images again"):
            call()
    with pytest.raises(UserError, match=r"a\.ckpt has no encoder"):
        loaded.encode(x)
    with pytest.raises(UserError, match=r"b\.ckpt does not draw given images again"):
        load_generator(save(tmp_path / "b.ckpt")).redraw(x, z)


def test_a_generator_of_another_split_or_size_is_refused_with_both_named(tmp_path):
    loaded = load_generator(save(tmp_path / "a.ckpt"))
    other = Split("other", "toy", SPLIT.train[1:], SPLIT.val, SPLIT.test)
    with pytest.raises(UserError, match=r"trained on split 'toy' .* uses split 'other'"):
        loaded.check_split(other)
    with pytest.raises(UserError, match=r"\[1, 16, 16\], but the data have \[1, 28, 28\]"):
        loaded.check_image_shape((1, 28, 28))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_damaged_and_malicious_checkpoints_are_refused(tmp_path):
    good = save(tmp_path / "good.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(good.read_bytes()[:5000])
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({"state_dict": {}, "x": Malicious(tmp_path / "ran")}, tmp_path / "evil.ckpt")
    (tmp_path / "evil_pickle.ckpt").write_bytes(pickle.dumps(Malicious(tmp_path / "ran")))
    for name in ("cut", "empty", "text", "evil", "evil_pickle"):
        with pytest.raises(UserError, match=rf"{name}\.ckpt: cannot be read") as raised:
            load_generator(tmp_path / f"{name}.ckpt")
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "ran").exists(), "code in the file was run"
    with pytest.raises(UserError, match="no such file"):
        load_generator(tmp_path / "none.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "learner.ckpt")
    with pytest.raises(UserError, match="is not from a generator"):
        load_generator(tmp_path / "learner.ckpt")


@pytest.mark.parametrize("class_path", ["os.system", "torch.nn.Linear", "no.such.Thing", "pathlib.Path"])
def test_a_checkpoint_can_only_name_generators(tmp_path, class_path):
    path = save(tmp_path / "a.ckpt", **{"class": class_path})
    with pytest.raises(UserError, match=r"is not a LatentDecoder|is not installed"):
        load_generator(path)
    path = save(tmp_path / "b.ckpt", **{"class": "genmeta.models.vae_networks.ConvEncoder"})
    with pytest.raises(UserError, match="ConvEncoder is not a LatentDecoder"):
        load_generator(path)
