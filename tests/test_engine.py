"""How tasks of a meta-batch are computed changes nothing: loop or vmap, steps kept or computed again, precision."""

import pytest
import torch
from test_learners import make_batch
from torch import nn
from torch.nn import functional as F

from genmeta.errors import UserError
from genmeta.learners.implicit_maml import ImplicitMAML
from genmeta.learners.inner_loop import adapt, chosen_engine
from genmeta.learners.maml import ANIL, MAML, MetaSGD
from genmeta.learners.maml_plus_plus import MAMLPlusPlus
from genmeta.learners.reptile import Reptile
from genmeta.models.backbones import Conv4

LEARNERS = {
    "maml": MAML,
    "anil": ANIL,
    "meta_sgd": MetaSGD,
    "maml_plus_plus": MAMLPlusPlus,
    "reptile": Reptile,
    "imaml": ImplicitMAML,
}


def make(kind, norm="batch", **options):
    torch.manual_seed(0)
    learner = LEARNERS[kind](Conv4(1, 6, 16, norm), 3, **{"inner_lr": 0.1, "inner_steps": 3, **options}).double()
    for name, parameter in learner.network.named_parameters():
        if name.endswith("1.weight") and parameter.ndim == 1:  # scales of 1 and shifts of 0 would hide mistakes in them
            nn.init.uniform_(parameter, 0.5, 1.5)
    return learner


def loss_and_gradient(learner, batch):
    loss, logits = learner.loss(batch)
    parameters = list(learner.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return loss, logits, [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]


def assert_same(one, other, tolerance=1e-10):
    torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)
    assert max(g.abs().max() for g in one[2]) > 1e-3, "the comparison must not be of zeros"


@pytest.mark.parametrize("statistics", ["batch", "support"])
@pytest.mark.parametrize("kind", LEARNERS)
def test_vmap_equals_the_loop_in_second_order_over_three_steps(kind, statistics):
    batch = make_batch(n_tasks=3)
    loop, vmap = (
        loss_and_gradient(make(kind, engine=engine, chunk=2, query_statistics=statistics), batch)
        for engine in ("loop", "vmap")
    )
    assert_same(loop, vmap)


@pytest.mark.parametrize("kind", ["maml", "imaml"])
def test_vmap_equals_the_loop_with_group_norm(kind):
    batch = make_batch(n_tasks=3)
    loop, vmap = (loss_and_gradient(make(kind, "group", engine=engine), batch) for engine in ("loop", "vmap"))
    assert_same(loop, vmap)


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("kind", ["maml", "anil", "meta_sgd", "maml_plus_plus"])
def test_steps_computed_again_have_the_same_gradients(kind, engine):
    batch = make_batch()
    kept, again = (
        loss_and_gradient(make(kind, engine=engine, checkpoint=checkpoint), batch) for checkpoint in (False, True)
    )
    assert_same(kept, again)
