"""NT-Xent against a loop, a closed form and finite differences; the views of the learner."""

import math
from dataclasses import replace

import pytest
import torch
from promises import order_of_support_does_not_matter, permuted_labels_permute_logits
from test_learners import make_batch

from genmeta.errors import UserError
from genmeta.learners.contrastive import Contrastive, nt_xent
from genmeta.models.backbones import Conv4
from genmeta.rng import make_rng


def by_loop(first, second, temperature):
    views = [view / view.norm() for view in (*first, *second)]
    n, total = len(first), 0.0
    for i, view in enumerate(views):
        similarities = {j: float(view @ other) / temperature for j, other in enumerate(views) if j != i}
        total += math.log(sum(map(math.exp, similarities.values()))) - similarities[(i + n) % (2 * n)]
    return total / (2 * n)


def test_the_loss_is_that_of_a_loop():
    first, second = torch.randn(2, 5, 3, generator=make_rng("views"))
    assert nt_xent(first, second, 0.3).item() == pytest.approx(by_loop(first, second, 0.3), rel=1e-5)


def test_views_that_agree_and_are_orthogonal_to_others_have_a_closed_form():
    eye, tau = torch.eye(4), 0.5
    expected = math.log(math.exp(1 / tau) + 2 * 4 - 2) - 1 / tau
    assert nt_xent(3 * eye, eye, tau).item() == pytest.approx(expected, rel=1e-5), "lengths do not matter"
    assert nt_xent(eye, eye.roll(1, 0), tau) > expected, "views of other images are no positives"
    half = eye.to(torch.bfloat16)
    assert nt_xent(half, half, tau).dtype == torch.float32


def test_gradients_in_double_precision():
    """Bug: a mask that cuts the gradient, or a cast to single precision."""
    first, second = torch.randn(2, 3, 2, generator=make_rng("gradient"), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.4), (first, second))


def contrastive() -> Contrastive:
    torch.manual_seed(0)
    return Contrastive(Conv4(1, 6, 16), temperature=0.2)


def test_views_of_one_class_belong_together_whatever_the_order_of_the_labels():
    """Bug: the i-th query taken for the other view of the i-th support image, though labels are shuffled."""
    learner, batch = contrastive().double().eval(), make_batch(n_shot=1, n_query=1)
    loss, logits = learner.loss(batch)
    order = torch.randperm(batch.n_way, generator=make_rng("order"))
    shuffled = replace(batch, query_x=batch.query_x[:, order], query_y=batch.query_y[:, order])
    again, moved = learner.loss(shuffled)
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(moved, logits[:, order])
    torch.testing.assert_close(logits, learner(batch))
    wrong = replace(batch, query_y=batch.query_y.roll(1, 1))
    assert not torch.allclose(learner.loss(wrong)[0], loss)


def test_its_promises():
    learner = contrastive().double().eval()
    order_of_support_does_not_matter(learner, make_batch())
    permuted_labels_permute_logits(learner, make_batch())


def test_what_it_cannot_do_is_told():
    learner = contrastive().double()
    with pytest.raises(UserError, match="n_shot 1 and n_query 1, found 1 and 2"):
        learner.loss(make_batch(n_shot=1, n_query=2))
    with pytest.raises(UserError, match="temperature > 0, found 0"):
        Contrastive(Conv4(1, 6, 16), temperature=0)
