"""Diffusion by Karras et al., 2022, held to what is known in closed form."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from genmeta.models.edm import denoising_loss, heun, preconditioned, sampling_levels, training_levels
from genmeta.rng import make_rng


def gaussian(mean: float, std: float):
    """The denoiser of data N(mean, std²), by Bayes."""

    def denoise(x, sigma):
        s = sigma[:, None, None, None].square()
        return (std**2 * x + s * mean) / (std**2 + s)

    return denoise


def flow_of_gaussian(x, mean, std, start, end):
    """Where the probability flow takes x: deviations from the mean go with the standard deviation of the noisy data."""
    return mean + (x - mean) * math.sqrt((std**2 + end**2) / (std**2 + start**2))


def test_a_denoiser_leaves_an_image_without_noise_as_it_is_and_takes_a_far_one_from_its_network():
    x = torch.randn(3, 1, 2, 2, dtype=torch.float64, generator=make_rng(0))
    constant = lambda x, _: torch.full_like(x, 0.3)  # noqa: E731
    at = lambda sigma: preconditioned(constant, x, torch.full((3,), sigma, dtype=torch.float64), 0.5)  # noqa: E731
    torch.testing.assert_close(at(1e-9), x)
    torch.testing.assert_close(at(1e9), torch.full_like(x, 0.5 * 0.3))
    # by hand at σ = σ_data: c_skip = 1/2, c_out = σ_data / √2
    torch.testing.assert_close(at(0.5), x / 2 + 0.3 * 0.5 / math.sqrt(2))


@pytest.mark.parametrize("sigma", [0.01, 0.3, 1.0, 30.0])
def test_inputs_and_targets_of_the_network_have_variance_one(sigma):
    sigma_data, n, rng = 0.6, 40_000, make_rng(0)
    y = sigma_data * torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=rng)
    noise = torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=rng)
    levels, seen = torch.full((n,), sigma, dtype=torch.float64), []

    def network(x, c_noise):
        seen.append((x, c_noise))
        return torch.zeros_like(x)

    loss = denoising_loss(lambda x, s: preconditioned(network, x, s, sigma_data), y, levels, noise, sigma_data)
    assert seen[0][0].var().item() == pytest.approx(1, abs=0.03)
    assert seen[0][1][0].item() == pytest.approx(math.log(sigma) / 4)
    assert loss.mean().item() == pytest.approx(1, abs=0.03), "the target's variance: the loss of a network that gives 0"


def test_the_loss_is_the_networks_squared_error_at_every_level():
    rng = make_rng(0)
    y, noise, off = torch.randn(3, 5, 1, 2, 2, dtype=torch.float64, generator=rng)
    sigma = torch.tensor([0.01, 0.1, 1.0, 5.0, 50.0], dtype=torch.float64)
    s = sigma[:, None, None, None]
    total = (s**2 + 0.25).sqrt()
    target = (y - 0.25 / total**2 * (y + s * noise)) / (s * 0.5 / total)
    network = lambda x, _: target + off  # noqa: E731
    loss = denoising_loss(lambda x, level: preconditioned(network, x, level, 0.5), y, sigma, noise, 0.5)
    torch.testing.assert_close(loss, off.square().mean((1, 2, 3)))


def test_training_levels_are_log_normal():
    levels = training_levels(torch.randn(50_000, generator=make_rng(0)), -1.2, 1.2)
    assert levels.log().mean().item() == pytest.approx(-1.2, abs=0.03)
    assert levels.log().std().item() == pytest.approx(1.2, abs=0.03)


def test_sampling_levels_by_hand():
    """Three levels of ρ = 2 between 0.04 and 4: roots 2, 1.1, 0.2."""
    torch.testing.assert_close(
        sampling_levels(3, 0.04, 4.0, 2.0), torch.tensor([4, 1.21, 0.04, 0], dtype=torch.float64)
    )
    assert sampling_levels(1).tolist() == pytest.approx([80, 0])
    assert len(sampling_levels(18)) == 19


def test_heun_samples_a_gaussian_as_the_closed_form_does():
    mean, std = 0.4, 0.3
    z = torch.randn(20_000, 1, 1, 1, dtype=torch.float64, generator=make_rng(0))
    drawn = heun(gaussian(mean, std), 80 * z, sampling_levels(128))
    torch.testing.assert_close(drawn, flow_of_gaussian(80 * z, mean, std, 80, 0), atol=2e-3, rtol=0)
    assert drawn.mean().item() == pytest.approx(mean, abs=0.01)
    assert drawn.std().item() == pytest.approx(std, abs=0.01)


def test_heun_converges_with_the_square_of_the_step():
    x = torch.linspace(-3, 3, 7, dtype=torch.float64).view(7, 1, 1, 1)
    errors = []
    for steps in (16, 32, 64, 128):
        found = heun(gaussian(0.2, 0.5), x, sampling_levels(steps, 0.01, 5.0)[:-1])
        errors.append((found - flow_of_gaussian(x, 0.2, 0.5, 5.0, 0.01)).abs().max().item())
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(order == pytest.approx(2, abs=0.2) for order in orders), orders


def test_up_and_down_again_is_the_identity():
    y = torch.rand(50, 1, 2, 2, dtype=torch.float64, generator=make_rng(0)) * 2 - 1
    levels = sampling_levels(64)
    up = heun(gaussian(0.1, 0.5), y, levels[:-1].flip(0))
    torch.testing.assert_close(heun(gaussian(0.1, 0.5), up, levels), y, atol=2e-3, rtol=0)


def test_gradients_in_float64():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 1, 3, padding=1).double()

    def network(x, c_noise):
        return layer(torch.cat([x, c_noise[:, None, None, None].expand_as(x)], 1)).tanh()

    y, noise = torch.randn(2, 2, 1, 3, 3, dtype=torch.float64, generator=make_rng(0))
    sigma = torch.tensor([0.1, 3.0], dtype=torch.float64)

    def loss(images, _):
        return denoising_loss(lambda x, s: preconditioned(network, x, s, 0.5), images, sigma, noise, 0.5)

    assert torch.autograd.gradcheck(loss, (y.requires_grad_(), layer.weight))
    denoise = lambda x, s: preconditioned(network, x, s, 0.5)  # noqa: E731
    assert torch.autograd.gradcheck(lambda x: heun(denoise, x, sampling_levels(3, 0.1, 3.0)), (noise.requires_grad_(),))
