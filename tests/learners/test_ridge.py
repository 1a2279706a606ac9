"""R2D2: ridge regression in both its forms, and the learner against the minimum it stands for."""

import pytest
import torch
from test_learners import make_batch
from torch import nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch
from genmeta.errors import UserError
from genmeta.learners.ridge import R2D2, ridge_by_features, ridge_by_images
from genmeta.models.backbones import Conv4
from genmeta.rng import make_rng


def problem(n, d, n_way=3):
    rng = make_rng("ridge", n, d)
    x = torch.randn(2, n, d, generator=rng, dtype=torch.float64)
    y = torch.randn(2, n, n_way, generator=rng, dtype=torch.float64)
    weight = torch.rand(2, n, generator=rng, dtype=torch.float64)
    return x, y, torch.tensor(0.3, dtype=torch.float64), weight


@pytest.mark.parametrize(("n", "d"), [(4, 9), (9, 4), (5, 5)])
def test_both_forms_are_the_minimum(n, d):
    """At the minimum of the objective its gradient, written out in loops, is zero; both forms give that point."""
    x, y, penalty, weight = problem(n, d)
    w = ridge_by_features(x, y, penalty, weight)
    torch.testing.assert_close(ridge_by_images(x, y, penalty, weight), w, atol=1e-10, rtol=1e-10)
    for task in range(2):
        for c in range(3):
            gradient = penalty * w[task, :, c]
            for i in range(n):
                gradient = gradient + weight[task, i] * (x[task, i] @ w[task, :, c] - y[task, i, c]) * x[task, i]
            assert gradient.abs().max() < 1e-10


def test_both_forms_have_the_same_gradients():
    """Training goes through the solution: to features, weights of images and penalty."""

    def gradients(solve):
        inputs = [value.clone().requires_grad_() for value in problem(4, 9)]
        return torch.autograd.grad(solve(*inputs).square().sum(), inputs)

    for one, other in zip(gradients(ridge_by_features), gradients(ridge_by_images), strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-8)
        assert one.abs().max() > 1e-3


def test_gradients_are_finite_at_weight_zero():
    x, y, penalty, weight = problem(4, 9)
    weight = torch.zeros_like(weight).requires_grad_()
    (gradient,) = torch.autograd.grad(ridge_by_images(x, y, penalty, weight).square().sum(), weight)
    assert gradient.isfinite().all()


class Identity(nn.Flatten):
    """Pixels as features."""

    def __init__(self, n_features):
        super().__init__()
        self.n_features = n_features


def one_task(x, y, query, n_way=2, weight=None):
    shape = (1, -1, 1, 1, 1)
    x, query = (torch.tensor(v, dtype=torch.float64).view(shape) for v in (x, query))
    labels = torch.tensor([y])
    is_generated = torch.zeros(1, n_way, dtype=torch.bool)
    return EpisodeBatch(x, labels, query, torch.zeros(1, query.shape[1], dtype=torch.int64), is_generated, weight)


def test_r2d2_by_hand():
    """One feature: class 0 at 1 and 2, class 1 at 3. w = Σxy / (Σx² + λ) = [3, 3] / (14 + 1); logits α x w."""
    learner = R2D2(Identity(1), penalty=1.0, scale=10.0).double()
    logits = learner(one_task([1, 2, 3], [0, 0, 1], [1.0, 4.0]))
    expected = torch.tensor([[[2.0, 2.0], [8.0, 8.0]]], dtype=torch.float64)
    torch.testing.assert_close(logits, expected)


def test_support_weight_is_as_good_as_copies():
    """An image of weight 2 counts as two of it."""
    learner = R2D2(Identity(1), penalty=1.0, scale=10.0).double()
    weight = torch.tensor([[1.0, 2.0, 1.0]], dtype=torch.float64)
    weighted = learner(one_task([1, 2, 3], [0, 0, 1], [1.0], weight=weight))
    torch.testing.assert_close(weighted, learner(one_task([1, 2, 2, 3], [0, 0, 0, 1], [1.0])))


@pytest.mark.parametrize("n_shot", [2, 30])  # fewer images than features, and more
def test_r2d2_equals_a_slow_loop(n_shot):
    torch.manual_seed(0)
    learner = R2D2(Conv4(1, 8, 16), penalty=0.5, scale=3.0).double().eval()
    batch = make_batch(n_shot=n_shot)
    logits = learner(batch)
    for t in range(2):
        x = torch.cat([learner.backbone(image[None]) for image in batch.support_x[t]])
        y = F.one_hot(batch.support_y[t], 3).double()
        w = torch.linalg.inv(x.T @ x + 0.5 * torch.eye(8)) @ x.T @ y
        expected = 3 * torch.cat([learner.backbone(image[None]) for image in batch.query_x[t]]) @ w
        torch.testing.assert_close(logits[t], expected, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("options", [{"penalty": 0.0}, {"scale": -1.0}])
def test_r2d2_refuses(options):
    with pytest.raises(UserError, match=f"{next(iter(options))} > 0"):
        R2D2(Identity(1), **options)
