"""Learners that adapt by gradient descent, against learn2learn, closed forms and loops over the papers' equations."""

import pytest
import torch
from promises import order_of_support_does_not_matter, permuted_labels_permute_logits
from test_engine import LEARNERS, assert_same, loss_and_gradient, make
from test_learners import make_batch, replaced
from torch import nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch
from genmeta.errors import UserError
from genmeta.learn2learn_import import import_learn2learn
from genmeta.learners.implicit_maml import ImplicitMAML, conjugate_gradient
from genmeta.learners.inner_loop import weighted_cross_entropy
from genmeta.learners.low_rank_maml import LowRankMAML
from genmeta.learners.maml import MAML, MetaSGD
from genmeta.learners.maml_plus_plus import MAMLPlusPlus, step_weights
from genmeta.learners.reptile import Reptile
from genmeta.learners.task_norm import TaskBatchNorm
from genmeta.models.backbones import Conv4
from genmeta.models.fully_connected import FullyConnected
from genmeta.models.patches import PatchConv2d, use_patches
from genmeta.rng import make_rng

EXACT = {"atol": 1e-8, "rtol": 1e-8}


def weighted(batch, weight):
    parts = (batch.support_x, batch.support_y, batch.query_x, batch.query_y, batch.is_generated)
    return EpisodeBatch(*parts, support_weight=weight)


def theirs_of_each_task(batch, clone, steps=3):
    """Mean query loss of learn2learn's algorithms; `clone()` returns features, head and what adapts."""
    total = 0
    for support_x, support_y, query_x, query_y in zip(
        batch.support_x, batch.support_y, batch.query_x, batch.query_y, strict=True
    ):
        features, head = clone()
        for _ in range(steps):
            head.adapt(F.cross_entropy(head(features(support_x)), support_y))
        total = total + F.cross_entropy(head(features(query_x)), query_y) / len(batch.query_y)
    return total


@pytest.mark.parametrize("first_order", [False, True])
def test_anil_agrees_with_learn2learn(first_order):
    batch = make_batch()
    ours = make("anil", first_order=first_order)
    features, head = ours.network
    maml = import_learn2learn().algorithms.MAML(head, lr=0.1, first_order=first_order)
    loss, _, gradients = loss_and_gradient(ours, batch)
    expected = theirs_of_each_task(batch, lambda: (features, maml.clone()))
    torch.testing.assert_close(loss, expected, **EXACT)
    for mine, other in zip(gradients, torch.autograd.grad(expected, list(ours.parameters())), strict=True):
        torch.testing.assert_close(mine, other, **EXACT)


@pytest.mark.parametrize("first_order", [False, True])
def test_meta_sgd_agrees_with_learn2learn(first_order):
    batch = make_batch()
    ours = make("meta_sgd", first_order=first_order)
    rng = make_rng("rates")
    for rate in ours.rates:
        rate.data += 0.05 * torch.randn(rate.shape, generator=rng, dtype=rate.dtype)
    theirs = import_learn2learn().algorithms.MetaSGD(ours.network, first_order=first_order, lrs=list(ours.rates))
    loss, _, gradients = loss_and_gradient(ours, batch)
    expected = theirs_of_each_task(batch, lambda: (nn.Identity(), theirs.clone()))
    torch.testing.assert_close(loss, expected, **EXACT)
    for mine, other in zip(gradients, torch.autograd.grad(expected, list(ours.parameters())), strict=True):
        torch.testing.assert_close(mine, other, **EXACT)
    assert gradients[-1].abs().max() > 1e-3, "rates are learned"


def test_first_order_maml_is_not_maml():
    batch = make_batch()
    second, first = (loss_and_gradient(make("maml", first_order=first), batch) for first in (False, True))
    torch.testing.assert_close(second[0], first[0])
    assert max((a - b).abs().max() for a, b in zip(second[2], first[2], strict=True)) > 1e-3


def test_anil_adapts_the_head_alone_and_learns_the_features():
    batch = make_batch()
    learner = make("anil", inner_steps=2)
    _, _, gradients = loss_and_gradient(learner, batch)
    assert all(
        g.abs().max() > 1e-6 for g, (n, _) in zip(gradients, learner.named_parameters(), strict=True) if "0.weight" in n
    )
    head = learner.network[1]
    support, queries = (learner.network[0](x[0]).detach() for x in (batch.support_x, batch.query_x))
    w, b = head.weight.detach(), head.bias.detach()
    for _ in range(2):  # the gradient of softmax regression, by hand
        error = (support @ w.T + b).softmax(1) - F.one_hot(batch.support_y[0], 3)
        w, b = w - 0.1 * error.T @ support / len(support), b - 0.1 * error.mean(0)
    torch.testing.assert_close(learner(batch)[0].detach(), queries @ w.T + b)


def plain_descent(learner, x, y, steps, lr, loss_of=None):
    """A copy of the network after descent with torch's own optimiser."""
    torch.manual_seed(0)
    copy = nn.Sequential(Conv4(1, 6, 16, "batch"), nn.Linear(6, 3)).double()
    copy.load_state_dict(learner.network.state_dict())
    optimiser = torch.optim.SGD(copy.parameters(), lr)
    for step in range(steps):
        optimiser.zero_grad()
        chosen = slice(None) if loss_of is None else loss_of(step)
        F.cross_entropy(copy(x[chosen]), y[chosen]).backward()
        optimiser.step()
    return copy


def test_reptile_moves_towards_where_a_tasks_images_lead():
    """Gradient: initial minus adapted parameters, mean over tasks; minibatches of one image a class in turn."""
    batch = make_batch(n_tasks=2, n_shot=1, n_query=2)
    learner = make("reptile", inner_steps=4)
    _, _, gradients = loss_and_gradient(learner, batch)
    moved = []
    for t in range(2):
        x, y = torch.cat([batch.support_x[t], batch.query_x[t]]), torch.cat([batch.support_y[t], batch.query_y[t]])
        of_class = [(y == c).nonzero()[:, 0] for c in range(3)]
        adapted = plain_descent(learner, x, y, 4, 0.1, lambda s: torch.stack([i[s % 3] for i in of_class]))  # noqa: B023
        moved.append([p - q for p, q in zip(learner.network.parameters(), adapted.parameters(), strict=True)])
    for mine, *others in zip(gradients, *moved, strict=True):
        torch.testing.assert_close(mine, torch.stack(others).mean(0), **EXACT)


def test_reptile_tests_on_the_support_set_alone():
    batch = make_batch(n_shot=1)
    learner = make("reptile", eval_inner_steps=6).eval()
    adapted = plain_descent(learner, batch.support_x[1], batch.support_y[1], 6, 0.1)
    torch.testing.assert_close(learner(batch)[1], adapted(batch.query_x[1]), **EXACT)


def test_conjugate_gradients_are_exact_after_as_many_steps_as_unknowns():
    rng = make_rng("cg")
    root = torch.randn(5, 5, generator=rng, dtype=torch.float64)
    matrix, b = root @ root.T + torch.eye(5, dtype=torch.float64), torch.randn(5, generator=rng, dtype=torch.float64)

    def product(v):
        image = matrix @ torch.cat([v["a"], v["b"]])
        return {"a": image[:2], "b": image[2:]}

    for steps in (5, 9):  # more than enough do no harm
        x = conjugate_gradient(product, {"a": b[:2], "b": b[2:]}, steps)
        torch.testing.assert_close(torch.cat([x["a"], x["b"]]), torch.linalg.solve(matrix, b), atol=1e-9, rtol=1e-9)
    downhill = conjugate_gradient(lambda v: {"a": -v["a"]}, {"a": b}, 3)
    torch.testing.assert_close(downhill["a"], b)


def test_implicit_gradient_is_the_derivative_of_the_end_of_adaptation():
    """With a convex inner problem solved to the end: finite differences of the query loss of argmin, by direction."""
    batch = make_batch(n_tasks=1, size=16)

    class Blur(nn.Module):
        n_features = 4

        def forward(self, x):
            return F.adaptive_avg_pool2d(x, 2).flatten(1)

    torch.manual_seed(0)
    learner = ImplicitMAML(Blur(), 3, inner_lr=0.8, inner_steps=60, proximity=0.5, cg_steps=15).double()
    loss, _ = learner.loss(batch)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(learner.parameters()))])
    direction = torch.randn(len(gradient), generator=make_rng(1), dtype=torch.float64)
    start = nn.utils.parameters_to_vector(learner.parameters()).detach()
    sides = []
    for sign in (1, -1):
        nn.utils.vector_to_parameters(start + sign * 1e-5 * direction, learner.parameters())
        sides.append(F.cross_entropy(learner(batch)[0], batch.query_y[0]).item())
    assert (gradient @ direction).item() == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-6)


def test_weights_of_the_steps_begin_alike_and_end_with_the_last():
    assert step_weights(4, 0) == [0.25] * 4
    assert step_weights(4, 0.5) == pytest.approx([0.125, 0.125, 0.125, 0.625])
    assert step_weights(4, 7) == pytest.approx([0.0075, 0.0075, 0.0075, 0.9775])
    assert step_weights(1, 0.3) == [1]


def test_maml_plus_plus_is_a_sum_of_query_losses_with_a_rate_for_each_layer_and_step():
    batch = make_batch(n_tasks=2)
    learner = make("maml_plus_plus", inner_steps=2, anneal_steps=4)
    learner.rates.data = torch.rand(2, len(learner.layers), generator=make_rng(0), dtype=torch.float64) / 5
    learner.steps_done += 1  # a quarter of the way: weights 0.375 and 0.625
    expected = 0
    for t in range(2):
        values = dict(learner.network.named_parameters())
        for step, weight in enumerate((0.375, 0.625)):
            support = torch.func.functional_call(learner.network, values, (batch.support_x[t],))
            found = torch.autograd.grad(
                F.cross_entropy(support, batch.support_y[t]), list(values.values()), create_graph=True
            )
            values = {
                name: value - learner.rates[step][learner.layers.index(name.rpartition(".")[0])] * gradient
                for (name, value), gradient in zip(values.items(), found, strict=True)
            }
            queries = torch.func.functional_call(learner.network, values, (batch.query_x[t],))
            expected = expected + weight * F.cross_entropy(queries, batch.query_y[t]) / 2
    loss, _, gradients = loss_and_gradient(learner, batch)
    torch.testing.assert_close(loss, expected, **EXACT)
    for mine, other in zip(gradients, torch.autograd.grad(expected, list(learner.parameters())), strict=True):
        torch.testing.assert_close(mine, other, **EXACT)
    assert int(learner.steps_done) == 2
    assert int(make("maml_plus_plus").eval().steps_done) == 0


def test_rates_of_maml_plus_plus_reach_over_more_steps_in_evaluation():
    batch = make_batch()
    learner = make("maml_plus_plus", inner_steps=1, eval_inner_steps=4).eval()
    torch.testing.assert_close(learner(batch), make("maml", inner_steps=4).eval()(batch))


@pytest.mark.parametrize("kind", LEARNERS)
def test_a_support_image_of_weight_0_is_as_good_as_absent(kind):
    """With group norm, since batch statistics are of all images. A weight of 2 is the image twice."""
    batch = make_batch(n_shot=2)
    options = {"images_per_class": 3} if kind == "reptile" else {}
    learner = make(kind, "group", **options).eval()
    weight = torch.ones_like(batch.support_y, dtype=torch.float64)
    torch.testing.assert_close(learner(weighted(batch, 3 * weight)), learner(batch))
    weight[:, 0] = 0
    other = batch.support_x.clone()
    other[:, 0] = 0.5
    left_out = learner(weighted(replaced(batch, support_x=other), weight))
    torch.testing.assert_close(left_out, learner(weighted(batch, weight)))
    assert not torch.allclose(left_out, learner(batch))


def test_weighted_mean_by_hand():
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]]).log_softmax(1)
    ce = -logits[[0, 1], [0, 1]]
    found = weighted_cross_entropy(logits, torch.tensor([0, 1]), torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(found, (3 * ce[0] + ce[1]) / 4)


@pytest.mark.parametrize("kind", LEARNERS)
def test_only_transductive_predictions_depend_on_the_other_queries(kind):
    batch = make_batch()
    changed = batch.query_x.clone()
    changed[:, 1:] = changed[:, 1:].flip(1) ** 2
    other = replaced(batch, query_x=changed)
    for norm, statistics, depends in (
        ("batch", "batch", True),
        ("batch", "support", False),
        ("group", "batch", False),
        ("group", "support", False),
    ):
        learner = make(kind, norm, query_statistics=statistics).eval()
        one, two = learner(batch)[:, 0], learner(other)[:, 0]
        assert (not torch.allclose(one, two, atol=1e-6)) == depends, (norm, statistics)
        alone = learner(replaced(batch, query_x=batch.query_x[:, :1]))[:, 0]
        assert torch.allclose(one, alone, atol=1e-9) or depends, "one query at a time gives the same"


def keep_biased_variance(layer, args, output):
    """Torch keeps the unbiased one, but normalises with this."""
    if layer.training:
        layer.running_var.copy_(args[0].detach().var((0, 2, 3), correction=0))


def test_inductive_statistics_are_those_of_the_support_set_in_the_adapted_network():
    """The slow way: read mean and variance of each batch norm's input while the support set runs through it."""
    batch = make_batch(n_tasks=1)
    learner = make("maml", query_statistics="support", inner_steps=2)
    adapted = plain_descent(learner, batch.support_x[0], batch.support_y[0], 2, 0.1)
    for layer in [m for m in adapted.modules() if isinstance(m, nn.BatchNorm2d)]:
        layer.track_running_stats, layer.momentum = True, 1.0
        layer.running_mean, layer.running_var = torch.zeros(6).double(), torch.ones(6).double()
        layer.register_forward_hook(keep_biased_variance)
    adapted.train()(batch.support_x[0])
    torch.testing.assert_close(learner(batch)[0], adapted.eval()(batch.query_x[0]), **EXACT)


@pytest.mark.parametrize("kind", LEARNERS)
def test_permuted_labels_and_outputs_of_the_head_give_permuted_logits(kind):
    """The head has weights of its own for each label, so that they must be permuted with the labels."""
    learner = make(kind).eval()
    head = learner.network[1]
    parameters = [head.weight, head.bias]
    if kind == "meta_sgd":
        parameters += list(learner.rates)[-2:]

    def permute_the_head(permutation):
        for parameter in parameters:
            parameter.data[permutation] = parameter.data.clone()

    permuted_labels_permute_logits(learner, make_batch(n_shot=1), permute_the_head)


@pytest.mark.parametrize("kind", LEARNERS)
def test_shuffled_support_gives_the_same_logits(kind):
    learner = make(kind, **({"images_per_class": 2} if kind == "reptile" else {})).eval()
    order_of_support_does_not_matter(learner, make_batch())


@pytest.mark.parametrize("kind", LEARNERS)
def test_works_without_gradients_and_in_inference_mode(kind):
    batch = make_batch()
    learner = make(kind, query_statistics="support", checkpoint=kind not in ("reptile", "imaml")).eval()
    expected = learner(batch).detach()
    with torch.no_grad():
        torch.testing.assert_close(learner(batch), expected)
    with torch.inference_mode():
        inside = replaced(batch, support_x=batch.support_x.clone(), query_x=batch.query_x.clone())
        torch.testing.assert_close(learner(inside), expected)


@pytest.mark.parametrize("kind", LEARNERS)
def test_noise_gives_chance(kind):
    x = torch.rand(30, 15, 1, 16, 16, generator=make_rng("noise"), dtype=torch.float64)
    y = torch.arange(3).expand(30, -1)
    query_y = torch.arange(3).repeat(4).expand(30, -1)
    batch = EpisodeBatch(x[:, :3], y, x[:, 3:], query_y, torch.zeros(30, 3, dtype=torch.bool))
    with torch.no_grad():
        accuracy = (make(kind, inner_steps=1)(batch).argmax(2) == query_y).double().mean().item()
    assert abs(accuracy - 1 / 3) < 4 * (2 / 9 / 360) ** 0.5


def test_batch_norm_by_hand_is_batch_norm():
    layer = TaskBatchNorm(4, track_running_stats=False).double()
    nn.init.uniform_(layer.weight)
    nn.init.uniform_(layer.bias)
    for shape in ((7, 4), (5, 4, 3, 2)):
        x = torch.rand(shape, generator=make_rng(0), dtype=torch.float64)
        layer.by_hand = False
        expected = layer(x)
        layer.by_hand = True
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": (0, 2), "bias": False}, {"stride": 2}])
def test_convolution_by_patches_is_the_same_function(options):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, (3, 2), **options), nn.Tanh()).double()
    layer, x = network[0], torch.rand(3, 1, 6, 5, generator=make_rng(0), dtype=torch.float64)
    state = torch.get_rng_state()
    expected = [layer(x), *torch.autograd.grad(layer(x).tanh().sum(), list(layer.parameters()))]
    use_patches(network)
    assert torch.equal(torch.get_rng_state(), state), "random numbers were used up"
    assert isinstance(network[0], PatchConv2d) == ("stride" not in options)
    found = [network[0](x), *torch.autograd.grad(network(x).sum(), list(network.parameters()))]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("statistics", ["batch", "support"])
def test_low_rank_form_is_maml(first_order, statistics):
    """Over three steps, with weighted support images."""
    batch = weighted(make_batch(), torch.rand(2, 6, generator=make_rng(4), dtype=torch.float64))
    results = []
    for kind in (MAML, LowRankMAML):
        torch.manual_seed(0)
        options = {"first_order": first_order, "query_statistics": statistics}
        learner = kind(FullyConnected(1, 16, (12, 10, 8)), 3, 0.4, 3, **options).double()
        for parameter in learner.parameters():
            nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3)
        results.append(loss_and_gradient(learner, batch))
    assert_same(*results)


def test_names_of_weights_do_not_change():
    """Checkpoints of earlier versions load."""
    backbone = Conv4(1, 6, 16, "batch")
    names = [f"network.0.{name}" for name, _ in backbone.named_parameters()]
    assert [n for n, _ in MAML(backbone, 3).named_parameters()] == [*names, "network.1.weight", "network.1.bias"]


BACKBONE = Conv4(1, 6, 16, "batch")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: MetaSGD(Conv4(1, 6, 16, "running")), "MetaSGD needs a backbone without running"),
        (lambda: MAML(BACKBONE, chunk=0), "chunk=0"),
        (lambda: MAMLPlusPlus(BACKBONE, inner_steps=0), "inner_steps=0"),
        (lambda: MAMLPlusPlus(BACKBONE, anneal_steps=0), "anneal_steps=0"),
        (lambda: Reptile(BACKBONE, images_per_class=0), "found 0"),
        (lambda: Reptile(BACKBONE, first_order=True), "leave first_order"),
        (lambda: ImplicitMAML(BACKBONE, proximity=0.0), "proximity=0.0"),
        (lambda: ImplicitMAML(BACKBONE, checkpoint=True), "checkpoint"),
        (lambda: LowRankMAML(BACKBONE), "found Conv4"),
        (lambda: LowRankMAML(FullyConnected(), checkpoint=True), "leave checkpoint"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        wrong()
