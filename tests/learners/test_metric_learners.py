"""Metric-based learners against slow references written from their papers' equations, and what they promise."""

import math
from dataclasses import replace

import pytest
import torch
from promises import order_of_support_does_not_matter, permuted_labels_permute_logits
from test_learners import make_batch
from torch import nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.matching import MatchingNet
from genmeta.learners.metric import CosineProtoNet, ProtoNet, TransductiveProtoNet
from genmeta.learners.pretrained import BaselinePlusPlus, SimpleShot
from genmeta.learners.relation import RelationNet
from genmeta.learners.siamese import SiameseNet
from genmeta.models.backbones import Conv4
from genmeta.rng import make_rng


def conv(pools: int = 4) -> Conv4:
    """Its running statistics are not those of a new network, so that a mistake with them shows."""
    backbone = Conv4(1, 6, 16, pools=pools)
    backbone.train()(torch.rand(40, 1, 16, 16, generator=make_rng("statistics")))
    return backbone


INDUCTIVE = {
    "protonet": lambda: ProtoNet(conv()),
    "cosine": lambda: CosineProtoNet(conv(), 7.0),
    "matching": lambda: MatchingNet(conv(), scale=3.0),
    "matching_context": lambda: MatchingNet(conv(), context_steps=3),
    "relation": lambda: RelationNet(conv(2)),
    "siamese": lambda: SiameseNet(conv(), 10),
    "simpleshot": lambda: SimpleShot(conv(), 20),
    "baseline_plus_plus": lambda: BaselinePlusPlus(conv(), 20, steps=5, lr=0.5),
}
LEARNERS = {**INDUCTIVE, "transductive": lambda: TransductiveProtoNet(conv(), steps=2)}
PRETRAINED = ("simpleshot", "baseline_plus_plus")  # their training: tests/learners/test_baselines.py
ORDERED = "matching_context"  # an LSTM reads the support set
WEIGHTED = [name for name in LEARNERS if name != "siamese"]


def made(name):
    torch.manual_seed(0)
    learner = LEARNERS[name]().double().eval()
    if name == "simpleshot":
        learner.base_mean += 0.1
    return learner


def with_weights(batch: EpisodeBatch, weight: torch.Tensor) -> EpisodeBatch:
    return replace(batch, support_weight=weight)


def features(learner, x):
    """One image after the other."""
    return torch.stack([learner.backbone(image[None])[0] for image in x])


def each_query(learner, batch):
    """Yield task, support features, labels, number of the query, its features."""
    for t in range(len(batch.support_x)):
        support = features(learner, batch.support_x[t])
        for q, x in enumerate(batch.query_x[t]):
            yield t, support, batch.support_y[t], q, features(learner, x[None])[0]


def test_cosine_protonet_equals_a_loop():
    batch, learner = make_batch(), made("cosine")
    logits = learner(batch)
    for t, support, labels, q, f in each_query(learner, batch):
        for c in range(3):
            centre = support[labels == c].mean(0)
            cosine = f @ centre / (f.norm() * centre.norm())
            torch.testing.assert_close(logits[t, q, c], 7 * cosine, atol=1e-9, rtol=1e-9)


def test_matching_equals_its_equations():
    """Eq. 1: P(y | x) = Σ_i a(x, x_i) y_i, a = softmax of cosines, here times 3."""
    batch, learner = make_batch(), made("matching")
    logits = learner(batch)
    for t, support, labels, q, f in each_query(learner, batch):
        kernel = [(3 * f @ g / (f.norm() * g.norm())).exp().item() for g in support]
        for c in range(3):
            probability = sum(k for k, y in zip(kernel, labels, strict=True) if y == c) / sum(kernel)
            assert logits[t, q, c].exp().item() == pytest.approx(probability, rel=1e-9)


def lstm_step(weights, x, h, c):
    """One step from the equations of the LSTM: gates in the order input, forget, cell, output."""
    w_x, w_h, b_x, b_h = weights
    i, forget, g, o = (w_x @ x + b_x + w_h @ h + b_h).chunk(4)
    c = forget.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def test_full_context_embeddings_equal_their_equations():
    """Appendix A: g = →h + ←h + g'; f by K steps of an LSTM that reads the support set with attention."""
    batch, learner = make_batch(n_tasks=1), made("matching_context")
    logits = learner(batch)
    context, d = learner.context, 6
    plain = features(learner, batch.support_x[0])
    of_support = dict(context.of_support.named_parameters())
    embedded = plain.clone()
    for suffix, order in (("", range(6)), ("_reverse", reversed(range(6)))):
        weights = [of_support[f"{kind}_l0{suffix}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        h = c = torch.zeros(d, dtype=torch.float64)
        for i in order:
            h, c = lstm_step(weights, plain[i], h, c)
            embedded[i] += h
    cell = [getattr(context.of_query, kind) for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    for q, f in enumerate(features(learner, batch.query_x[0])):
        h = c = torch.zeros(d, dtype=torch.float64)
        for _ in range(3):
            attention = torch.stack([h @ g for g in embedded]).softmax(0)
            read = sum(a * g for a, g in zip(attention, embedded, strict=True))
            h, c = lstm_step(cell, torch.cat([f, read]), h, c)
            h = h + f
        kernel = torch.stack([h @ g / (h.norm() * g.norm()) for g in embedded]).softmax(0)
        for label in range(3):
            torch.testing.assert_close(logits[0, q, label].exp(), kernel[batch.support_y[0] == label].sum())


def test_relation_equals_its_equations():
    """Maps of the class (their mean over its images) and of the query are joined and convolved, pair by pair."""
    batch, learner = make_batch(), made("relation")
    with torch.no_grad():
        for norm in (m for m in learner.relation if isinstance(m, nn.BatchNorm2d)):
            norm.running_mean.uniform_(-0.1, 0.1)
            norm.running_var.uniform_(0.5, 2)
    one, two = learner.of_class, learner.of_query
    joined_weight = torch.cat([one.weight, two.weight], 1)  # class first, query second
    first, _, _, second_conv, second, _, _, _, hidden, _, out = learner.relation

    def normalised(x, norm):
        mean, std = norm.running_mean[:, None, None], (norm.running_var + norm.eps).sqrt()[:, None, None]
        return (x - mean) / std

    logits = learner(batch)
    for t in range(2):
        maps = torch.stack([learner.backbone.maps(x[None])[0] for x in batch.support_x[t]])
        for q in range(12):
            of_query = learner.backbone.maps(batch.query_x[t, q][None])[0]
            for c in range(3):
                of_class = maps[batch.support_y[t] == c].mean(0)
                x = F.conv2d(torch.cat([of_class, of_query])[None], joined_weight, one.bias, padding=1)
                x = F.max_pool2d(F.relu(normalised(x, first)), 2)
                x = F.conv2d(x, second_conv.weight, second_conv.bias, padding=1)
                x = F.max_pool2d(F.relu(normalised(x, second)), 2).flatten(1)
                score = out(F.relu(hidden(x)))
                torch.testing.assert_close(logits[t, q, c], score[0, 0], atol=1e-9, rtol=1e-9)
    loss, same_logits = learner.loss(batch)
    expected = [
        (logits[t, q, c].sigmoid() - (batch.query_y[t, q] == c).double()) ** 2
        for t in range(2)
        for q in range(12)
        for c in range(3)
    ]
    torch.testing.assert_close(loss, sum(expected) / len(expected))
    torch.testing.assert_close(same_logits, logits)


def test_relation_in_training_normalises_all_pairs_together():
    batch, learner = make_batch(), made("relation").train()
    trained = learner(batch)
    alone = torch.cat([learner(slice_of(batch, slice(t, t + 1))) for t in range(2)])
    assert not torch.allclose(trained, alone)


def test_siamese_equals_its_equations():
    batch, learner = make_batch(), made("siamese")
    logits = learner(batch)
    alpha, bias = learner.similarity.weight[0], learner.similarity.bias
    same, other = [], []
    for t, support, labels, q, f in each_query(learner, batch):
        p = [((alpha * (f - g).abs()).sum() + bias).sigmoid().item() for g in support]
        for c in range(3):
            best = max(value for value, y in zip(p, labels, strict=True) if y == c)
            assert logits[t, q, c].sigmoid().item() == pytest.approx(best, rel=1e-9)
        for value, y in zip(p, labels, strict=True):
            is_same = y == batch.query_y[t, q]
            (same if is_same else other).append(-math.log(value if is_same else 1 - value))
    expected = (sum(same) / len(same) + sum(other) / len(other)) / 2
    loss, same_logits = learner.loss(batch)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(same_logits, logits)


def test_refined_class_means_by_hand():
    """Ren et al., eq. 2 and 3, with one support image a class at 0 and 4 and one query at 1."""
    learner = TransductiveProtoNet(nn.Flatten())
    place = lambda *values: torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1, 1)  # noqa: E731
    batch = EpisodeBatch(
        place(0, 4), torch.tensor([[0, 1]]), place(1), torch.tensor([[0]]), torch.zeros(1, 2, dtype=torch.bool)
    )
    share = 1 / (1 + math.exp(1 - 9))  # of the query in the first class, at distances 1 and 9
    centres = share * 1 / (1 + share), (4 + (1 - share)) / (2 - share)
    expected = [-((1 - centres[0]) ** 2), -((1 - centres[1]) ** 2)]
    assert learner(batch)[0, 0].tolist() == pytest.approx(expected, rel=1e-9)
    # a support image that counts twice holds its class where it was more strongly
    centre = share / (2 + share)
    weighted = with_weights(batch, torch.tensor([[2.0, 2.0]], dtype=torch.float64))
    assert learner(weighted)[0, 0, 0].item() == pytest.approx(-((1 - centre) ** 2), rel=1e-9)


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != ORDERED])
def test_shuffled_support_gives_the_same_logits(name):
    order_of_support_does_not_matter(made(name), make_batch())


@pytest.mark.parametrize("name", LEARNERS)
def test_permuted_labels_give_permuted_logits(name):
    permuted_labels_permute_logits(made(name), make_batch())


def slice_of(batch, tasks=slice(None), queries=slice(None)):
    return EpisodeBatch(
        batch.support_x[tasks],
        batch.support_y[tasks],
        batch.query_x[tasks, queries],
        batch.query_y[tasks, queries],
        batch.is_generated[tasks],
    )


@pytest.mark.parametrize("name", LEARNERS)
def test_queries_do_not_depend_on_each_other_unless_transductive_and_tasks_never_do(name):
    batch, learner = make_batch(n_tasks=3), made(name)
    logits = learner(batch)
    torch.testing.assert_close(learner(slice_of(batch, slice(1, 2))), logits[1:2])
    alone = learner(slice_of(batch, queries=slice(0, 1)))
    assert torch.allclose(alone, logits[:, :1], rtol=1e-6) == (name in INDUCTIVE)


@pytest.mark.parametrize("name", LEARNERS)
def test_logits_are_the_same_in_inference_mode(name):
    batch, learner = make_batch(), made(name)
    expected = learner(batch).detach()
    with torch.inference_mode():
        inside = replace(batch, support_x=batch.support_x.clone(), query_x=batch.query_x.clone())
        torch.testing.assert_close(learner(inside), expected)


@pytest.mark.parametrize("name", LEARNERS)
def test_noise_gives_chance(name):
    rng = make_rng("noise")
    x = torch.rand(60, 18, 1, 16, 16, generator=rng, dtype=torch.float64)
    y, query_y = torch.arange(3).repeat(2).expand(60, -1), torch.arange(3).repeat(4).expand(60, -1)
    batch = EpisodeBatch(x[:, :6], y, x[:, 6:], query_y, torch.zeros(60, 3, dtype=torch.bool))
    accuracy = (made(name)(batch).argmax(2) == query_y).double().mean().item()
    assert abs(accuracy - 1 / 3) < 4 * (2 / 9 / 720) ** 0.5


@pytest.mark.parametrize("name", [name for name in LEARNERS if name not in PRETRAINED])
def test_every_weight_learns(name):
    learner = made(name).train()
    learner.loss(make_batch())[0].backward()
    still = [n for n, p in learner.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_of_support_images(name):
    """Equal ones change nothing; one of 2 beside one of 0 is like the same image twice."""
    batch, learner = make_batch(n_shot=2), made(name)
    ones = torch.ones(batch.support_y.shape, dtype=torch.float64)
    torch.testing.assert_close(learner(with_weights(batch, ones)), learner(batch))
    if name == ORDERED:  # the LSTM reads also what does not count
        return
    slots = batch.support_y.argsort(dim=1, stable=True).view(2, 3, 2)  # places of each class's images
    weight, source = ones.clone(), torch.arange(6).repeat(2, 1)
    for t in range(2):
        weight[t, slots[t, :, 0]], weight[t, slots[t, :, 1]] = 0.0, 2.0
        source[t, slots[t, :, 0]] = slots[t, :, 1]
    twice = replace(batch, support_x=torch.stack([x[i] for x, i in zip(batch.support_x, source, strict=True)]))
    assert not torch.allclose(learner(twice), learner(batch))
    torch.testing.assert_close(learner(with_weights(batch, weight)), learner(twice))


def test_siamese_ignores_weights():
    batch, learner = make_batch(), made("siamese")
    weight = torch.rand(batch.support_y.shape, generator=make_rng(0), dtype=torch.float64)
    torch.testing.assert_close(learner(with_weights(batch, weight)), learner(batch))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MatchingNet(Conv4(norm="batch")), "MatchingNet needs a backbone .* norm: running or group"),
        (lambda: CosineProtoNet(Conv4(), 0.0), "scale > 0, found 0"),
        (lambda: TransductiveProtoNet(Conv4(), 0), "steps >= 1, found 0"),
        (lambda: MatchingNet(Conv4(), -1), "found context_steps=-1"),
        (lambda: MatchingNet(Conv4(), scale=0.0), "scale > 0; found .* scale=0"),
        (lambda: MatchingNet(nn.Flatten(), 1), "attribute n_features; Flatten has none"),
        (lambda: SiameseNet(nn.Flatten()), "attribute n_features; Flatten has none"),
        (lambda: SiameseNet(Conv4(), 0), "at least 1, found n_units=0"),
        (lambda: RelationNet(nn.Flatten()), "feature maps, .* Flatten has none"),
        (lambda: RelationNet(Conv4()), "at least 4 × 4, but those of Conv4 are 1 × 1"),
        (lambda: RelationNet(Conv4(pools=2)).check(EpisodeShape(5, 1, 1), (3, 84, 84)), r"but the data have \[3, 84"),
        (lambda: SiameseNet(Conv4()).check(EpisodeShape(5, 1, 1), (3, 84, 84)), r"but the data have \[3, 84"),
    ],
)
def test_learners_refuse_what_they_cannot_do(make, message):
    with pytest.raises(UserError, match=message):
        make()
