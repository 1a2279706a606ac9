"""How tasks of a meta-batch are computed changes nothing: loop or vmap, steps kept or computed again, precision."""

import pytest
import torch
from test_learners import make_batch
from torch import nn
from torch.profiler import profile

from genmeta.learners.implicit_maml import ImplicitMAML
from genmeta.learners.inner_loop import chosen_engine
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


def peak_bytes(function):
    """Most bytes of CPU tensors held at once while a function runs, beyond those held before."""
    with profile(profile_memory=True) as found:
        function()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def test_steps_computed_again_take_little_memory():
    batch = make_batch(n_tasks=1)

    def peak(steps, checkpoint):
        learner = make("maml", inner_steps=steps, checkpoint=checkpoint)
        return peak_bytes(lambda: learner.loss(batch)[0].backward())

    few, many, many_again = peak(1, False), peak(7, False), peak(7, True)
    assert many > 2 * few, "the measure must see what the steps keep"
    assert many_again < many / 2


def test_torch_s_own_batch_norm_under_vmap_is_still_wrong_in_second_order():
    """Why `TaskBatchNorm.by_hand` exists. If this fails, torch was mended, and a loop's batch norm will do for both."""
    batch = make_batch(n_tasks=3)

    def gradients(by_hand, first_order):
        learner = make("maml", engine="vmap", first_order=first_order)
        task = learner.task_logits
        for layer in learner.network.modules():
            if hasattr(layer, "by_hand"):
                layer.by_hand = by_hand
        weight = torch.ones_like(batch.support_y, dtype=torch.float64)
        logits = torch.func.vmap(task)(batch.support_x, batch.support_y, weight, batch.query_x)[0]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch.query_y.flatten())
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(learner.parameters()))])

    assert (gradients(True, False) - gradients(False, False)).abs().max() > 1e-3
    torch.testing.assert_close(gradients(True, True), gradients(False, True))


def test_auto_is_a_loop_on_the_cpu_and_vmap_elsewhere():
    assert chosen_engine("auto", torch.device("cpu")) == "loop"
    assert chosen_engine("auto", torch.device("cuda")) == "vmap"
    assert chosen_engine("vmap", torch.device("cpu")) == "vmap"


@pytest.mark.parametrize("kind", ["maml", "anil", "imaml"])
def test_mixed_precision_is_of_the_queries_alone(kind):
    """The adapted parameters are those of float32, and the second-order gradient keeps its direction."""
    batch = make_batch(n_tasks=2, dtype=torch.float32)
    learner = make(kind).float()
    seen = []
    learner.network[0].register_forward_hook(lambda _, args, out: seen.append((len(args[0]), out.dtype)))
    expected = torch.cat([g.flatten() for g in loss_and_gradient(learner, batch)[2]])
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.cat([g.flatten() for g in loss_and_gradient(learner, batch)[2]])
    assert {dtype for n, dtype in seen if n == 6} == {torch.float32}, "support images"
    assert torch.bfloat16 in {dtype for n, dtype in seen if n == 12}, "query images"
    assert torch.equal(found, expected) is False
    assert nn.functional.cosine_similarity(found, expected, dim=0) > 0.995
