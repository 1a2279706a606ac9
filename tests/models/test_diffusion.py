"""Diffusion as decoder and encoder of codes: what the equation does with codes, classes and guidance; the U-Net."""

import sys
from itertools import pairwise

import pytest
import torch
from torch import nn

from genmeta.errors import UserError
from genmeta.models.diffusion import Diffusion
from genmeta.models.image_ode import ODEDecoder, ODEEncoder
from genmeta.models.unet import UNet
from genmeta.rng import make_rng

SHAPE = (1, 4, 4)


class OfGaussian(nn.Module):
    """What a network has to say of data whose values are N(mean, 0.5²); classes shift it by their vectors' sum."""

    def __init__(self, mean: float, class_dim: int = 0) -> None:
        super().__init__()
        self.image_shape, self.class_dim, self.given, self.mean, self.init_args = SHAPE, class_dim, False, mean, {}
        self.classes = nn.Embedding(5, class_dim) if class_dim else None
        self.asked = []

    def forward(self, x, level, vectors=None):
        self.asked.append(len(x))
        sigma = (4 * level).exp()[:, None, None, None]
        total = (sigma**2 + 0.25).sqrt()
        mean = self.mean + (0 if vectors is None else vectors.sum(1)[:, None, None, None])
        denoised = (0.25 * x * total + sigma**2 * mean) / total**2
        return (denoised - 0.25 / total**2 * x * total) * total / (sigma * 0.5)


def codes(n, dim=16):
    return torch.randn(n, dim, dtype=torch.float64, generator=make_rng(0))


def test_codes_become_images_of_the_data_and_images_their_codes_again():
    ode = Diffusion(OfGaussian(0.0), steps=64, sigma_data=0.5)
    z = codes(200) * 0.5  # images far inside [0, 1], where nothing is cut off
    images = ODEDecoder(ode).decode(z)
    assert torch.equal(images, ODEDecoder(ode).decode(z)), "the same code, the same image"
    torch.testing.assert_close(images.flatten(1), (1 + 0.5 * z) / 2, atol=2e-3, rtol=0)
    mean, log_var = ODEEncoder(ode)(images)
    torch.testing.assert_close(mean, z, atol=0.01, rtol=0)
    assert (log_var == -12).all()


def test_eighteen_steps_are_near_the_limit():
    coarse, fine = (Diffusion(OfGaussian(0.2), steps=steps, sigma_data=0.5) for steps in (18, 256))
    drawn, exact = (ODEDecoder(ode).decode(codes(100)) for ode in (coarse, fine))
    assert (drawn - exact).abs().max() < 0.04
    assert drawn.mean().item() == pytest.approx(0.6, abs=0.02)


def test_ddim_takes_eulers_steps_and_comes_to_the_same_images():
    pytest.importorskip("diffusers", reason="pip install genmeta[diffusers]")
    z, network = codes(50), OfGaussian(0.2)
    ode = Diffusion(network, steps=20, sigma_data=0.5, solver="ddim")
    x, levels = 80 * z.unflatten(1, SHAPE), ode.levels.tolist()
    for now, then in pairwise(levels):
        x = x + (then - now) / now * (x - ode.denoise(x, torch.full((50,), now, dtype=torch.float64)))
    torch.testing.assert_close(ode.images(z.unflatten(1, SHAPE), None), x, atol=1e-3, rtol=0)
    network.asked.clear()
    fine = [ODEDecoder(Diffusion(network, 200, sigma_data=0.5, solver=s)).decode(z) for s in ("ddim", "heun")]
    assert len(network.asked) == 200 + 399
    torch.testing.assert_close(*fine, atol=0.02, rtol=0)


def test_ddim_without_diffusers_is_told_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"solver ddim needs diffusers: pip install genmeta\[diffusers\], or take heun"):
        Diffusion(UNet(SHAPE), solver="ddim")


def test_a_code_ends_with_the_vector_of_its_class_and_guidance_extrapolates():
    z = torch.cat([codes(6), torch.full((6, 2), 0.1, dtype=torch.float64)], 1)
    plain, guided = (Diffusion(OfGaussian(-0.2, 2), 64, sigma_data=0.5, guidance=w) for w in (1.0, 2.0))
    drawn = [ODEDecoder(ode).decode(z).mean().item() for ode in (plain, guided)]
    of_noise = ODEDecoder(plain).decode(torch.cat([codes(6), 0 * z[:, 16:]], 1)).mean().item()
    # a mean higher by 0.2 in [-1, 1] is one of 0.1 in [0, 1], and twice that when guided
    assert drawn[0] - of_noise == pytest.approx(0.1, abs=0.01)
    assert drawn[1] - of_noise == pytest.approx(0.2, abs=0.02)
    guided.network.asked.clear()
    ODEDecoder(guided).decode(torch.cat([codes(6), 0 * z[:, 16:]], 1))
    assert set(guided.network.asked) == {6}, "a code without a class is drawn without guidance"
    mean, _ = ODEEncoder(guided)(torch.rand(3, *SHAPE, dtype=torch.float64))
    assert torch.equal(mean[:, 16:], torch.zeros(3, 2))


def test_the_prior_of_a_model_with_classes_has_one_component_each():
    ode = Diffusion(OfGaussian(0.0, 2), sigma_data=0.5)
    prior = ode.prior(3)
    assert prior.dim == ODEDecoder(ode).latent_dim == 18
    drawn = prior.sample_of(torch.tensor([1]), 4000, make_rng(0))[0]
    torch.testing.assert_close(drawn[:, 16:], ode.network.classes.weight[1].detach().expand(4000, 2))
    assert drawn[:, :16].std().item() == pytest.approx(1, abs=0.02)


def test_some_training_images_have_no_class():
    ode = Diffusion(OfGaussian(0.0, 2), sigma_data=0.5, without_class=0.25)
    vectors = ode.training_vectors(torch.ones(4000, dtype=torch.long), make_rng(0))
    assert (vectors == 0).all(1).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert Diffusion(OfGaussian(0.0)).training_vectors(torch.ones(4), make_rng(0)) is None


def test_the_ideal_network_has_the_least_loss_and_sigma_data_is_measured():
    ode = Diffusion(OfGaussian(0.3))
    images = 0.3 + 0.5 * torch.randn(20_000, *SHAPE, generator=make_rng(0))
    ode.measure(images)
    assert ode.sigma_data.item() == pytest.approx(0.5, abs=0.01)
    least = ode.loss(images, None, make_rng(1)).mean()
    ode.network.mean = 0.5
    assert least < ode.loss(images, None, make_rng(1)).mean()
    given = Diffusion(OfGaussian(0.3), sigma_data=0.7)
    given.measure(images)
    assert given.sigma_data.item() == pytest.approx(0.7)


def test_gradients_of_the_loss_in_float64():
    torch.manual_seed(0)
    network = UNet(SHAPE, (4, 4), class_dim=2, max_classes=3).double()
    nn.init.normal_(network.last[2].weight)
    ode = Diffusion(network, sigma_data=0.5).double()
    images = torch.rand(2, *SHAPE, dtype=torch.float64, generator=make_rng(0)) * 2 - 1
    vectors = torch.randn(2, 2, dtype=torch.float64, generator=make_rng(1))
    loss = lambda images, vectors: ode.loss(images, vectors, make_rng(2))  # noqa: E731
    assert torch.autograd.gradcheck(loss, (images.requires_grad_(), vectors.requires_grad_()))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 20, 12), (1, 8, 8)])
def test_the_network_says_nothing_at_first_and_then_depends_on_all_it_is_given(shape):
    torch.manual_seed(0)
    network = UNet(shape, (4, 8), blocks=2, class_dim=3)
    x, level, vectors = torch.randn(2, *shape), torch.zeros(2), torch.zeros(2, 3)
    assert torch.equal(network(x, level, vectors), torch.zeros_like(x))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    first = network(x, level, vectors)
    assert first.shape == x.shape
    for other in ((x + 1, level, vectors), (x, level + 0.3, vectors), (x, level, vectors + 1)):
        assert not torch.allclose(network(*other), first, atol=1e-4)
    torch.testing.assert_close(network(x[:1], level[:1], vectors[:1]), first[:1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Diffusion(UNet(SHAPE), steps=0), "steps=0"),
        (lambda: Diffusion(UNet(SHAPE), sigma_min=2.0, sigma_max=1.0), "sigma_min < sigma_max"),
        (lambda: Diffusion(UNet(SHAPE), solver="euler"), "must be one of heun, ddim, found 'euler'"),
        (lambda: Diffusion(UNet(SHAPE), rho=0), "rho must be above 0"),
        (lambda: Diffusion(UNet(SHAPE), sigma_data=-1), "sigma_data must be above 0"),
        (lambda: Diffusion(UNet(SHAPE), guidance=2.0), "knows no classes; set class_dim above 0"),
        (lambda: Diffusion(UNet(SHAPE, class_dim=2), guidance=-1.0), "guidance must be at least 0"),
        (lambda: Diffusion(UNet(SHAPE), without_class=1.5), r"without_class must be in \[0, 1\]"),
        (lambda: UNet((1, 4, 4), (4, 4, 4)), "2 halvings of 2×2 places leave nothing"),
        (lambda: UNet(SHAPE, ()), "channels=0"),
        (lambda: UNet(SHAPE, class_dim=-1), "class_dim must be at least 0"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
