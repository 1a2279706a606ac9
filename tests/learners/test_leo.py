"""LEO against its algorithm written in loops, one task and one class at a time."""

import pytest
import torch
from test_learners import make_batch
from test_memory_learners import Features
from torch.nn import functional as F

from genmeta.errors import UserError
from genmeta.learners.leo import LEO, decorrelation, kl_to_standard_normal


def make_leo(**options):
    torch.manual_seed(0)
    defaults = {"latent_dim": 4, "latent_steps": 2, "finetuning_steps": 2, "latent_lr": 0.7, "finetuning_lr": 0.3}
    return LEO(Features(), **{**defaults, **options}).double()


def slow_encode(learner, x, y, n_way):
    """Equation 2 with its sums written out."""
    h = [learner.encoder(f) for f in x]
    rows = []
    for c in range(n_way):
        members = [i for i in range(len(x)) if y[i] == c]
        total = sum(learner.relation(torch.cat([h[i], h[j]])) for i in members for j in range(len(x)))
        rows.append(total / (len(members) * len(x)))
    return torch.stack(rows)[:, :4], torch.stack(rows)[:, 4:]


def slow_logits(learner, x, y, query, n_way):
    """Algorithm 1 for one task without noise; gradients by autograd of a sum over the support images."""
    z = slow_encode(learner, x, y, n_way)[0].detach().requires_grad_()

    def loss(w):
        return sum(-w[y[i]] @ x[i] + (w @ x[i]).exp().sum().log() for i in range(len(x))) / len(x)

    for _ in range(2):
        (gradient,) = torch.autograd.grad(loss(learner.decoder(z)[:, :8]), z)
        z = (z - 0.7 * gradient).detach().requires_grad_()
    w = learner.decoder(z)[:, :8].detach().requires_grad_()
    for _ in range(2):
        w = (w - 0.3 * torch.autograd.grad(loss(w), w)[0]).detach().requires_grad_()
    return query @ w.T


def test_leo_equals_a_slow_loop():
    learner = make_leo().eval()
    batch = make_batch()
    logits = learner(batch)
    for t in range(2):
        x, query = learner.backbone(batch.support_x[t]).detach(), learner.backbone(batch.query_x[t])
        x, query = x / x.norm(dim=1, keepdim=True), query / query.norm(dim=1, keepdim=True)
        expected = slow_logits(learner, x, batch.support_y[t], query, 3)
        torch.testing.assert_close(logits[t], expected, atol=1e-7, rtol=1e-7)  # step sizes are stored in float32
    still = make_leo(latent_lr=1e-9, finetuning_lr=1e-9).eval()
    assert not torch.allclose(logits, still(batch), atol=1e-3), "the comparison must not be of unadapted logits"


def test_kl_is_that_of_torch():
    mean, log_std = torch.tensor([0.5, -1.0, 0.0]), torch.tensor([0.3, -0.7, 0.0])
    p, q = torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_std), torch.distributions.kl_divergence(p, q))


def test_decorrelation_by_hand():
    assert decorrelation(torch.tensor([[3.0, 0.0], [0.0, 0.1]])).item() == pytest.approx(0)
    assert decorrelation(torch.tensor([[1.0, 0.0], [5.0, 0.0]])).item() == pytest.approx(0.5)  # C = 1: 2 of 4 are off
    assert decorrelation(torch.tensor([[1.0, 0.0], [1.0, 1.0]])).item() == pytest.approx(0.25)  # cosine² = 1/2


def test_loss_is_the_sum_of_its_terms():
    """In evaluation mode, where codes are their means: each weight adds its own term to the cross-entropy."""
    batch = make_batch()
    none = {"kl_weight": 0.0, "encoder_penalty": 0.0, "orthogonality": 0.0}
    bare, logits = make_leo(**none).eval().loss(batch)
    torch.testing.assert_close(bare, F.cross_entropy(logits.flatten(0, 1), batch.query_y.flatten()))
    run = make_leo().eval().adapt(batch)
    z, log_std = run.mean, run.log_std
    terms = {
        "kl_weight": (0.5 * (z**2 + log_std.exp() ** 2 - 1) - log_std).sum() / 6,  # 2 tasks of 3 classes
        "encoder_penalty": ((run.adapted_z - run.z) ** 2).sum() / 6,
        "orthogonality": decorrelation(make_leo().decoder.weight.T),
    }
    for name, term in terms.items():
        loss, _ = make_leo(**{**none, name: 2.0}).eval().loss(batch)
        torch.testing.assert_close(loss, bare + 2 * term)
        assert term > 1e-6


def test_the_encoder_penalty_draws_the_code_to_the_adapted_one_and_not_back():
    """Stop-gradient: the penalty's gradient with respect to z is 2 (z - z'), z' held fixed."""
    learner = make_leo(kl_weight=0.0, orthogonality=0.0, encoder_penalty=1.0)
    batch = make_batch()
    without = make_leo(kl_weight=0.0, orthogonality=0.0, encoder_penalty=0.0)
    for each in (learner, without):
        each.eval().loss(batch)[0].backward()
    assert torch.equal(learner.latent_lr.grad, without.latent_lr.grad), "z' moves with the step size; it is held fixed"
    assert not torch.allclose(learner.encoder.weight.grad, without.encoder.weight.grad)


def test_training_draws_anew_each_step_and_repeats():
    batch = make_batch()
    one, other = make_leo(), make_leo()
    first, second = one(batch), one(batch)
    assert not torch.allclose(first, second)
    assert torch.equal(other(batch), first)
    resumed = make_leo()
    resumed.draws.count.fill_(1)  # as from a checkpoint of the first step
    assert torch.equal(resumed(batch), second)


def test_gradients_flow_through_the_adaptation():
    """Second order: by finite differences along the encoder's weights."""
    learner = make_leo().eval()
    batch = make_batch(n_tasks=1)
    learner.loss(batch)[0].backward()
    weight = learner.encoder.weight
    direction = torch.ones_like(weight)
    with torch.no_grad():
        values = []
        for step in (1e-6, -2e-6):
            weight += step * direction
            values.append(learner.loss(batch)[0].item())
    # the penalty's stop-gradient is the one place where the gradient is not that of the value: its weight is 1e-9
    assert (weight.grad * direction).sum().item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_steps": 0}, "latent_steps=0"),
        ({"finetuning_steps": -1}, "finetuning_steps >= 0"),
        ({"latent_lr": 0.0}, "learning rates > 0"),
        ({"kl_weight": -1.0}, "penalties >= 0"),
    ],
)
def test_leo_refuses(options, message):
    with pytest.raises(UserError, match=message):
        make_leo(**options)
