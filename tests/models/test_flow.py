"""Flow matching: straight paths, the velocity's loss, pairing, solvers, held to closed forms; what a code becomes."""

from itertools import permutations

import pytest
import torch
from torch import nn

from genmeta.errors import UserError
from genmeta.models.flow import flow_matching_loss, integrate, logit_normal, nearest_pairs, straight
from genmeta.models.flow_matching import FlowMatching
from genmeta.models.image_ode import ODEDecoder, ODEEncoder, ODERedrawer
from genmeta.models.unet import UNet
from genmeta.rng import make_rng

DEVIATION, MEAN = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64), torch.tensor([2.0, -1.0, 0.0]).double()


def to_gaussian(x, t):
    """The velocity that carries N(0, 1) to N(MEAN, DEVIATION²) where noise and data are independent."""
    t = t[:, None]
    variance = (1 - t) ** 2 + (t * DEVIATION) ** 2
    return MEAN + (t * DEVIATION**2 - (1 - t)) / variance * (x - t * MEAN)


def to_mixture(x, t):
    """The same for data of ±2, each with deviation 0.3, in one dimension."""
    t = t[:, None]
    centres, variance = torch.tensor([-2.0, 2.0], dtype=x.dtype), (1 - t) ** 2 + (0.3 * t) ** 2
    of = torch.softmax(-((x - t * centres) ** 2) / (2 * variance), 1)
    each = centres + (0.09 * t - (1 - t)) / variance * (x - t * centres)
    return (of * each).sum(1, keepdim=True)


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=make_rng("noise", seed))


def test_paths_are_straight_and_the_loss_is_the_error_of_their_velocity():
    start, end, t = torch.zeros(2, 1, 2), torch.tensor([[[4.0, 8.0]], [[4.0, 8.0]]]), torch.tensor([0.25, 1.0])
    assert straight(start, end, t).tolist() == [[[1.0, 2.0]], [[4.0, 8.0]]]
    loss = flow_matching_loss(lambda x, t: x, start, end, t)  # says (1, 2) and (4, 8), where (4, 8) is right
    assert loss.tolist() == [(9 + 36) / 2, 0]


def test_the_velocity_in_closed_form_has_the_least_loss():
    x, data = noise(40_000, 3), MEAN + DEVIATION * noise(40_000, 3, seed=1)
    t = torch.rand(40_000, dtype=torch.float64, generator=make_rng(0))
    least = flow_matching_loss(to_gaussian, x, data, t).mean()
    for change in (lambda x, t: 0.2 * torch.ones_like(x), lambda x, t: 0.1 * x, lambda x, t: 0.2 * t[:, None] - 0.1):
        for sign in (1, -1):
            other = flow_matching_loss(lambda x, t: to_gaussian(x, t) + sign * change(x, t), x, data, t).mean()  # noqa: B023
            assert other > least


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_solvers_carry_a_gaussian_to_a_gaussian_with_their_order(solver, order):
    x, errors = noise(50, 3), []
    for steps in (32, 64):
        found = integrate(to_gaussian, x, torch.linspace(0, 1, steps + 1), solver)
        errors.append((found - (MEAN + DEVIATION * x)).abs().max().item())
    assert errors[0] / errors[1] > 0.75 * 2**order
    assert errors[1] < (0.25 if order == 1 else 0.01)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun"])
def test_backward_in_time_is_back_again(solver):
    x = noise(50, 3)
    there = integrate(to_gaussian, x, torch.linspace(0, 1, 257), solver)
    back = integrate(to_gaussian, there, torch.linspace(1, 0, 257), solver)
    torch.testing.assert_close(back, x, atol=0.1 if solver == "euler" else 1e-3, rtol=0)


def test_noise_becomes_a_mixture_in_one_dimension():
    """The Wasserstein distance of order 1 is that of the sorted values; of two samples it is some 0.03."""
    n = 4000
    drawn = integrate(to_mixture, noise(n, 1), torch.linspace(0, 1, 33), "midpoint").flatten().sort().values
    side = torch.sign(torch.rand(n, dtype=torch.float64, generator=make_rng(1)) - 0.5)
    exact = (2 * side + 0.3 * noise(n, seed=2)).sort().values
    assert (drawn - exact).abs().mean() < 0.1
    assert (noise(n).sort().values - exact).abs().mean() > 0.8, "the noise itself is far away"


def test_pairs_have_the_least_squared_distance():
    for seed in range(5):
        start, end = noise(5, 1, 2, 2, seed=seed), noise(5, 1, 2, 2, seed=seed + 10)
        cost = lambda order: (start[order] - end).square().sum().item()  # noqa: E731, B023
        best = min(cost(list(order)) for order in permutations(range(5)))
        assert cost(nearest_pairs(start, end)) == pytest.approx(best)


def test_times_have_normal_logits():
    logits = torch.logit(logit_normal(noise(20_000), 0.5, 2.0))
    assert (logits.mean().item(), logits.std().item()) == (pytest.approx(0.5, abs=0.05), pytest.approx(2, abs=0.05))


# FlowMatching

SHAPE = (1, 4, 4)


class OfGaussian(nn.Module):
    """The velocity to images whose values are N(mean, 0.5²); classes, or a given image's mean, shift it."""

    def __init__(self, class_dim: int = 0, given: bool = False) -> None:
        super().__init__()
        self.image_shape, self.class_dim, self.given, self.init_args = SHAPE, class_dim, given, {}
        self.classes = nn.Embedding(5, class_dim) if class_dim else None
        self.asked = 0

    def forward(self, x, level, condition=None):
        self.asked += len(x)
        t = level.view(-1, 1, 1, 1)
        shift = 0 if condition is None else condition.flatten(1).mean(1).view(-1, 1, 1, 1)
        variance = (1 - t) ** 2 + (0.5 * t) ** 2
        return shift + (0.25 * t - (1 - t)) / variance * (x - t * shift)


@pytest.mark.parametrize("solver", ["midpoint", "heun"])
def test_codes_become_images_and_images_their_codes_again(solver):
    ode = FlowMatching(OfGaussian(), steps=64, solver=solver, encoding_steps=64)
    z = 0.5 * noise(100, 16)  # images inside [0, 1], where nothing is cut off
    images = ODEDecoder(ode).decode(z)
    torch.testing.assert_close(images.flatten(1), (1 + 0.5 * z) / 2, atol=1e-3, rtol=0)
    mean, log_var = ODEEncoder(ode)(images)
    torch.testing.assert_close(mean, z, atol=1e-2, rtol=0)
    assert log_var.shape == mean.shape


def test_steps_are_what_the_network_is_asked():
    for solver, each in (("euler", 1), ("midpoint", 2), ("heun", 2)):
        ode = FlowMatching(OfGaussian(), steps=3, solver=solver, encoding_steps=5)
        ODEDecoder(ode).decode(noise(2, 16))
        assert ode.network.asked == 2 * 3 * each
        ODEEncoder(ode)(torch.rand(1, *SHAPE))
        assert ode.network.asked == 2 * 3 * each + 5 * each


def test_redrawing_depends_on_the_image_and_guidance_goes_beyond_it():
    x, z = torch.full((50, *SHAPE), 0.7, dtype=torch.float64), 0.5 * noise(50, 16)
    drawn = [
        ODERedrawer(FlowMatching(OfGaussian(given=True), 64, guidance=w)).redraw(x, z).mean().item() for w in (1, 1.5)
    ]
    start = ((1 + 0.5 * z) / 2).mean().item()
    assert drawn[0] - start == pytest.approx(0.2, abs=0.01), "the given image is 0.4 above grey in [-1, 1]"
    assert drawn[1] - start > 0.25


def test_gradients_of_the_loss_and_of_images_in_float64():
    torch.manual_seed(0)
    network = UNet((1, 8, 8), (4, 4), class_dim=2, max_classes=3).double()
    for layer in network.modules():  # the last layer begins at 0, and lets nothing through
        if isinstance(layer, nn.Conv2d) and not layer.weight.any():
            nn.init.normal_(layer.weight, std=0.3)
    ode = FlowMatching(network, steps=2, coupled=True, guidance=1.5)
    x, vectors = noise(2, 1, 8, 8).requires_grad_(), noise(2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, v: ode.loss(x, v, make_rng(1)), (x, vectors), fast_mode=True)
    assert torch.autograd.gradcheck(ode.images, (x, vectors), fast_mode=True)
    assert torch.autograd.gradcheck(lambda w: _with_weight(ode, w, x.detach(), vectors.detach()), (_weight(ode),))


def _weight(ode):
    return ode.network.of_class.weight.detach().clone().requires_grad_()


def _with_weight(ode, weight, x, vectors):
    state = {"network.of_class.weight": weight}
    return torch.func.functional_call(_Loss(ode), {f"ode.{k}": v for k, v in state.items()}, (x, vectors))


class _Loss(nn.Module):
    def __init__(self, ode):
        super().__init__()
        self.ode = ode

    def forward(self, x, vectors):
        return self.ode.loss(x, vectors, make_rng(1))


def test_a_network_learns_to_carry_noise_to_a_gaussian():
    """Energy distance (Székely and Rizzo 2013) of 500 samples to as many of the data, trained for a second."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 2))
    velocity = lambda x, t: layers(torch.cat([x, t[:, None]], 1))  # noqa: E731
    rng, spread = make_rng("data"), torch.tensor([0.3, 1.0])
    data = lambda n: torch.tensor([2.0, -1.0]) + spread * torch.randn(n, 2, generator=rng)  # noqa: E731
    optimizer = torch.optim.Adam(layers.parameters(), 0.01)
    for _ in range(150):
        x, t = data(256), torch.rand(256, generator=rng)
        loss = flow_matching_loss(velocity, torch.randn(256, 2, generator=rng), x, t).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        start = torch.randn(500, 2, generator=rng)
        drawn, exact = integrate(velocity, start, torch.linspace(0, 1, 9), "midpoint"), data(500)
    energy = lambda a, b: (2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()).item()  # noqa: E731
    assert energy(drawn, exact) < 0.05
    assert energy(start, exact) > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FlowMatching(OfGaussian(), steps=0), "steps=0"),
        (lambda: FlowMatching(OfGaussian(), solver="rk4"), "solver must be one of euler, midpoint, heun; found 'rk4'"),
        (lambda: FlowMatching(OfGaussian(), time_std=-1.0), "time_std must be at least 0"),
        (lambda: FlowMatching(OfGaussian(), guidance=2.0), "knows no classes"),
        (lambda: UNet((1, 8, 8), class_dim=2, given=True), "0 where an image is given"),
        (lambda: UNet((1, 2, 8)), "leave nothing"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 35, 21), (1, 8, 8), (3, 84, 84), (1, 9, 11)])
@pytest.mark.parametrize("given", [False, True])
def test_the_network_takes_any_size_and_another_image(shape, given):
    torch.manual_seed(0)
    network = UNet(shape, (4, 4, 4) if min(shape[1:]) > 20 else (4, 8), given=given)
    x, t = torch.randn(1, *shape), torch.tensor([0.3])
    condition = torch.randn(1, *shape) if given else None
    assert torch.equal(network(x, t, condition), torch.zeros(1, *shape)), "begins at 0"
    nn.init.normal_(network.last[2].weight)
    drawn = network(x, t, condition)
    assert drawn.shape == x.shape
    if given:
        assert not torch.equal(drawn, network(x, t, torch.zeros_like(x)))
