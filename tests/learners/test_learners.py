"""Learners against slow references, golden values and learn2learn."""

import pytest
import torch
from promises import order_of_support_does_not_matter, permuted_labels_permute_logits
from torch import nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError
from genmeta.evaluation.accuracy import EpisodeAccuracy, mean_and_ci95
from genmeta.experiments.results import Arm, check_same_episodes, paired
from genmeta.experiments.tables import over_episodes_rows
from genmeta.experiments.words import credit, in_one_line
from genmeta.learn2learn_import import import_learn2learn
from genmeta.learners.inner_loop import adapt
from genmeta.learners.maml import MAML
from genmeta.learners.metric import PixelNearestNeighbour, ProtoNet
from genmeta.models.backbones import Conv4
from genmeta.rng import make_rng


def make_batch(n_tasks=2, n_way=3, n_shot=2, n_query=4, size=16, dtype=torch.float64, noise=0.3) -> EpisodeBatch:
    """Classes with patterns of their own, slots and labels in random order."""
    rng = make_rng("batch", n_tasks, n_way)
    patterns = torch.rand(n_tasks, n_way, 1, size, size, generator=rng, dtype=dtype)

    def part(n):
        y = torch.stack(
            [torch.arange(n_way).repeat(n)[torch.randperm(n * n_way, generator=rng)] for _ in range(n_tasks)]
        )
        x = torch.stack([p[labels] for p, labels in zip(patterns, y, strict=True)])
        return (x + noise * torch.rand(x.shape, generator=rng, dtype=dtype)) / (1 + noise), y

    (support_x, support_y), (query_x, query_y) = part(n_shot), part(n_query)
    return EpisodeBatch(support_x, support_y, query_x, query_y, torch.zeros(n_tasks, n_way, dtype=torch.bool))


def replaced(batch, **changes):
    fields = ("support_x", "support_y", "query_x", "query_y", "is_generated")
    return EpisodeBatch(**{f: changes.get(f, getattr(batch, f)) for f in fields})


def seeded(make):
    torch.manual_seed(0)
    return make()


LEARNERS = {
    "protonet": lambda: ProtoNet(Conv4(1, 8, 16)).double().eval(),
    "maml": lambda: MAML(Conv4(1, 8, 16, norm="batch"), n_way=3, inner_steps=2).double(),
    "pixels": lambda: PixelNearestNeighbour(),
}


def test_protonet_equals_a_slow_loop():
    batch = make_batch()
    learner = seeded(LEARNERS["protonet"])
    logits = learner(batch)
    for t in range(2):
        centres = [
            torch.stack([learner.backbone(x[None])[0] for x in batch.support_x[t][batch.support_y[t] == c]]).mean(0)
            for c in range(3)
        ]
        for q in range(12):
            f = learner.backbone(batch.query_x[t, q][None])[0]
            expected = torch.stack([-(f - c).square().sum() for c in centres])
            torch.testing.assert_close(logits[t, q], expected, atol=1e-9, rtol=1e-9)


def test_protonet_agrees_with_learn2learn():
    batch = make_batch()
    learner = seeded(LEARNERS["protonet"])
    classifier = import_learn2learn().nn.PrototypicalClassifier(distance="euclidean")
    for t in range(2):
        features = learner.backbone(batch.support_x[t])
        classifier.fit_(features, batch.support_y[t])
        expected = classifier(learner.backbone(batch.query_x[t]))
        torch.testing.assert_close(learner(batch)[t], expected, atol=1e-8, rtol=1e-8)


def test_protonet_prototypes_with_unequal_class_counts():
    learner = ProtoNet(nn.Flatten())
    x = torch.tensor([[0.0], [2.0], [10.0]]).view(1, 3, 1, 1, 1)
    query = torch.tensor([[1.0], [9.0]]).view(1, 2, 1, 1, 1)
    batch = EpisodeBatch(
        x, torch.tensor([[1, 1, 0]]), query, torch.tensor([[1, 0]]), torch.zeros(1, 2, dtype=torch.bool)
    )
    assert learner(batch).tolist() == [[[-81.0, 0.0], [-1.0, -64.0]]]


def test_pixel_nearest_neighbour_equals_a_loop():
    batch = make_batch(noise=2.0)
    logits = PixelNearestNeighbour()(batch)
    for t in range(2):
        for q in range(12):
            d = (batch.support_x[t] - batch.query_x[t, q]).square().sum((1, 2, 3))
            expected = torch.stack([-d[batch.support_y[t] == c].min() for c in range(3)])
            torch.testing.assert_close(logits[t, q], expected)


@pytest.mark.parametrize("name", LEARNERS)
def test_shuffled_support_gives_the_same_logits(name):
    order_of_support_does_not_matter(seeded(LEARNERS[name]), make_batch())


@pytest.mark.parametrize("name", ["protonet", "pixels"])
def test_permuted_labels_give_permuted_logits(name):
    permuted_labels_permute_logits(seeded(LEARNERS[name]), make_batch())


@pytest.mark.parametrize("name", LEARNERS)
def test_a_task_does_not_depend_on_the_tasks_beside_it(name):
    batch = make_batch(n_tasks=3)
    learner = seeded(LEARNERS[name])
    alone = replaced(
        batch, **{f: getattr(batch, f)[1:2] for f in ("support_x", "support_y", "query_x", "query_y", "is_generated")}
    )
    torch.testing.assert_close(learner(batch)[1:2], learner(alone))


@pytest.mark.parametrize("name", LEARNERS)
def test_logits_are_the_same_with_gradients_without_and_in_inference_mode(name):
    batch = make_batch()
    learner = seeded(LEARNERS[name]).eval()
    expected = learner(batch).detach()
    with torch.no_grad():
        torch.testing.assert_close(learner(batch), expected)
    with torch.inference_mode():
        inside = replaced(batch, support_x=batch.support_x.clone(), query_x=batch.query_x.clone())
        torch.testing.assert_close(learner(inside), expected)


@pytest.mark.parametrize("name", LEARNERS)
def test_noise_gives_chance(name):
    rng = make_rng("noise")
    x = torch.rand(60, 18, 1, 16, 16, generator=rng, dtype=torch.float64)
    y = torch.arange(3).repeat(2).expand(60, -1)
    query_y = torch.arange(3).repeat(4).expand(60, -1)
    batch = EpisodeBatch(x[:, :6], y, x[:, 6:], query_y, torch.zeros(60, 3, dtype=torch.bool))
    accuracy = (seeded(LEARNERS[name])(batch).argmax(2) == query_y).double().mean().item()
    assert abs(accuracy - 1 / 3) < 4 * (2 / 9 / 720) ** 0.5


def linear_maml(support, query, first_order):
    """One step of size 0.5 on ½ (w·support)², then ½ (w'·query)²; w = [2, 3, 5]."""
    w = torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64, requires_grad=True)
    adapted = adapt(lambda p: 0.5 * (p["w"] @ support) ** 2, {"w": w}, 0.5, 1, first_order)
    loss = 0.5 * (adapted["w"] @ query) ** 2
    return loss.item(), torch.autograd.grad(loss, w)[0].tolist()


def test_maml_golden_values():
    """Derived by hand; the same numbers stand in the tests of pytorch-meta."""
    a, b = torch.tensor([[1.0, 2, 3], [4, 5, 6]], dtype=torch.float64)
    # w·a = 23, w' = w - 11.5 a = [-9.5, -20, -29.5], w'·b = -315; gradient -315 (b - 0.5 (a·b) a)
    assert linear_maml(a, b, first_order=False) == (49612.5, [3780.0, 8505.0, 13230.0])
    # w·b = 53, w' = w - 26.5 b = [-104, -129.5, -154], w'·a = -825; gradient -825 a
    assert linear_maml(b, a, first_order=True) == (340312.5, [-825.0, -1650.0, -2475.0])


@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_maml_agrees_with_learn2learn(first_order, steps):
    """Losses and meta-gradients of a whole network with batch norm, in float64."""
    l2l = import_learn2learn()
    batch = make_batch(n_tasks=2, size=16)
    ours = seeded(lambda: MAML(Conv4(1, 6, 16, "batch"), 3, 0.1, steps, first_order=first_order)).double()
    theirs = l2l.algorithms.MAML(ours.network, lr=0.1, first_order=first_order)
    loss = F.cross_entropy(ours(batch).flatten(0, 1), batch.query_y.flatten())
    expected_loss = 0
    for t in range(2):
        learner = theirs.clone()
        for _ in range(steps):
            learner.adapt(F.cross_entropy(learner(batch.support_x[t]), batch.support_y[t]))
        expected_loss = expected_loss + F.cross_entropy(learner(batch.query_x[t]), batch.query_y[t]) / 2
    parameters = list(ours.network.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    expected = torch.autograd.grad(expected_loss, parameters)
    torch.testing.assert_close(loss, expected_loss, atol=1e-8, rtol=1e-8)
    for mine, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-8, rtol=1e-8)
    assert max(g.abs().max() for g in gradients) > 1e-3, "the comparison must not be of zeros"


class Smooth(nn.Sequential):
    """Without the kinks of ReLU and max pooling, at which finite differences are wrong."""

    n_features = 8

    def __init__(self):
        conv = nn.Conv2d(1, 2, 5, stride=6)
        super().__init__(conv, nn.BatchNorm2d(2, track_running_stats=False), nn.Tanh(), nn.Flatten())


def test_first_and_second_order_differ_and_second_order_is_the_true_gradient():
    batch = make_batch(n_tasks=1, size=16)

    def loss_of(network_parameters, learner):
        names = [n for n, _ in learner.network.named_parameters()]
        adapted = adapt(
            lambda p: F.cross_entropy(
                torch.func.functional_call(learner.network, p, (batch.support_x[0],)), batch.support_y[0]
            ),
            dict(zip(names, network_parameters, strict=True)),
            0.1,
            2,
            first_order=False,
        )
        logits = torch.func.functional_call(learner.network, adapted, (batch.query_x[0],))
        return F.cross_entropy(logits, batch.query_y[0])

    learner = seeded(lambda: MAML(Smooth(), 3, 0.1, 2)).double()
    parameters = [p.detach().clone().requires_grad_() for p in learner.network.parameters()]
    loss = loss_of(parameters, learner)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
    direction = torch.randn(len(gradient), generator=make_rng(1), dtype=torch.float64)
    pieces = direction.split([p.numel() for p in parameters])
    h = 1e-6
    up, down = (
        loss_of([p.detach() + s * h * d.view_as(p) for p, d in zip(parameters, pieces, strict=True)], learner)
        for s in (1, -1)
    )
    assert (gradient @ direction).item() == pytest.approx(((up - down) / (2 * h)).item(), rel=1e-6)


def test_maml_adapts_more_in_evaluation_when_asked():
    batch = make_batch()
    learner = seeded(lambda: MAML(Conv4(1, 8, 16, "batch"), 3, 0.1, inner_steps=1, eval_inner_steps=5).double())
    training = learner.train()(batch)
    evaluation = learner.eval()(batch)
    assert not torch.allclose(training, evaluation)
    five = seeded(lambda: MAML(Conv4(1, 8, 16, "batch"), 3, 0.1, inner_steps=5).double())
    torch.testing.assert_close(evaluation, five(batch))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProtoNet(Conv4(norm="batch")), "norm: running or group"),
        (lambda: MAML(Conv4()), "norm: batch or group"),
        (lambda: MAML(nn.Flatten()), "n_features"),
        (lambda: MAML(Conv4(norm="batch"), inner_lr=-1), "inner_lr"),
        (
            lambda: MAML(Conv4(norm="batch"), 5).check(EpisodeShape(7, 1, 1), (1, 28, 28)),
            "n_way=5, but .* n_way=7",
        ),
        (
            lambda: ProtoNet(Conv4()).check(EpisodeShape(5, 1, 1), (3, 84, 84)),
            r"\[1, 28, 28\], but the data have \[3, 84",
        ),
    ],
)
def test_learners_refuse_what_they_cannot_do(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_interval_by_hand():
    mean, half = mean_and_ci95([0.2, 0.4, 0.6, 0.8])
    assert mean == pytest.approx(0.5)
    assert half == pytest.approx(1.959964 * (0.2 / 3) ** 0.5 / 2)
    assert mean_and_ci95([0.5])[1] == float("inf")


def test_interval_covers_the_truth_19_times_of_20():
    draws = torch.bernoulli(torch.full((2000, 600), 0.7), generator=make_rng(0))
    covered = [abs(mean - 0.7) <= half for mean, half in map(mean_and_ci95, draws)]
    assert 0.935 < sum(covered) / len(covered) < 0.965


def test_episode_accuracy_keeps_episodes_apart():
    metric = EpisodeAccuracy()
    logits = torch.eye(3).expand(2, 3, 3)
    metric.update(logits, torch.tensor([[0, 1, 2], [0, 2, 1]]))
    metric.update(logits[:1], torch.tensor([[1, 2, 0]]))
    assert metric.compute().tolist() == pytest.approx([1, 1 / 3, 0])


def test_comparison_is_paired_and_refuses_other_episodes():
    arms = {"a": Arm("a", {"5w1s": {0: [0.1, 0.5, 0.9, 0.7]}}), "b": Arm("b", {"5w1s": {0: [0.0, 0.4, 0.8, 0.6]}})}
    said = {(one, other): in_one_line(paired(arms, one, other)[0], arms) for one in arms for other in arms}
    assert "+10.00 ± 0.00 points (more)" in said["a", "b"]
    assert "-10.00 ± 0.00 points (less)" in said["b", "a"]
    assert "+0.00 ± 0.00 points (no difference" in said["a", "a"]
    assert over_episodes_rows(list(arms.values()))[1] == ["a", "55.00 ± 33.47"]
    tests = {name: {"episodes": {"test/5w1s": name}} for name in arms}
    with pytest.raises(UserError, match="different episodes"):
        check_same_episodes(tests)


def over_seeds(title, *seeds):
    """An arm whose seeds had these accuracies in percent, in all of three episodes but for what cancels out."""
    return Arm(title, {"5w1s": {i: [x / 100 - 0.01, x / 100, x / 100 + 0.01] for i, x in enumerate(seeds)}})


@pytest.mark.parametrize(
    ("arm", "controls", "said"),
    [
        ([90], [[80]], "one seed: undecided until `genmeta compare`"),
        ([90, 91], [[89, 89], [80, 82]], "more than each control with each of 2 seeds, at least +1.50 ± 0.00"),
        ([90, 91], [[80, 80], [88, 92]], "undecided: +0.50 ± 0.00 points against 'control 1' (the seeds disagree)"),
        ([90, 91], [[80, 80], [92, 92]], "-1.50 ± 0.00 points against 'control 1', less with each of 2 seeds"),
    ],
)
def test_credit_is_given_only_against_each_control_and_with_each_seed(arm, controls, said):
    """Bug: of one seed, with one control that has less, it was said that the generator is worth it."""
    arms = {"arm": over_seeds("arm", *arm)}
    arms |= {f"control {i}": over_seeds(f"control {i}", *control) for i, control in enumerate(controls)}
    found = [one for name in arms if name != "arm" for one in paired(arms, "arm", name)]
    assert said in credit(found, arms)
