"""Memory-based learners, R2D2 and LEO: slow references from the papers' equations, and what each promises."""

import math

import pytest
import torch
from promises import order_of_support_does_not_matter, permuted_labels_permute_logits
from test_learners import make_batch, replaced
from torch import nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.cnp import CNP
from genmeta.learners.draws import Draws, support_order
from genmeta.learners.leo import LEO
from genmeta.learners.mann import MANN, Memory, access, least_used
from genmeta.learners.ridge import R2D2
from genmeta.learners.snail import SNAIL, AttentionBlock, DenseBlock, TCBlock
from genmeta.learners.transformer import InContextTransformer, orthonormal
from genmeta.models.backbones import Conv4
from genmeta.rng import make_rng


class Features(nn.Sequential):
    """A small network without batch norm, before which a bias has no gradient."""

    n_features = 8

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(256, 8), nn.Tanh())


MAKE = {
    "r2d2": R2D2,
    "leo": lambda backbone: LEO(backbone, latent_dim=4, latent_steps=2, finetuning_steps=2),
    "mann": lambda backbone: MANN(backbone, 3, hidden=10, n_slots=6, slot_size=5, n_heads=2),
    "snail": lambda backbone: SNAIL(backbone, 3, length=7, width=4),
    "cnp": lambda backbone: CNP(backbone, 3, encoding_dim=4, hidden=8),
    "transformer": lambda backbone: InContextTransformer(
        backbone, max_way=4, image_dim=6, label_dim=6, n_layers=2, n_heads=2
    ),
}
ANY_ORDER = ["r2d2", "leo", "cnp", "transformer"]  # a sequence has an order: MANN and SNAIL do not promise it


def make(name, backbone=None):
    torch.manual_seed(0)
    return MAKE[name](backbone or Features()).double().eval()


def slow_access(cells, usage, read_weights, keys, gates, decay, sharpness):
    """One step of MANN's memory for one sequence, number by number, in the paper's order."""
    n_slots, n_heads, size = len(cells), len(keys), len(keys[0])
    order = sorted(range(n_slots), key=lambda i: (usage[i], i))
    unused = [1.0 if i in order[:n_heads] else 0.0 for i in range(n_slots)]
    write = [
        [gates[h] * read_weights[h][i] + (1 - gates[h]) * unused[i] for i in range(n_slots)] for h in range(n_heads)
    ]
    cells = [[0.0 if unused[i] else cells[i][j] for j in range(size)] for i in range(n_slots)]  # zeroed before writing
    for i in range(n_slots):
        for j in range(size):
            cells[i][j] += sum(write[h][i] * keys[h][j] for h in range(n_heads))
    read_weights, reads = [], []
    for key in keys:
        cosines = []
        for cell in cells:
            norms = math.hypot(*key) * math.hypot(*cell)
            cosines.append(sum(a * b for a, b in zip(key, cell, strict=True)) / norms if norms else 0.0)
        total = sum(math.exp(sharpness * c) for c in cosines)
        read_weights.append([math.exp(sharpness * c) / total for c in cosines])
        reads.append([sum(read_weights[-1][i] * cells[i][j] for i in range(n_slots)) for j in range(size)])
    usage = [
        decay * usage[i] + sum(w[i] for w in read_weights) + sum(write[h][i] for h in range(n_heads))
        for i in range(n_slots)
    ]
    return cells, usage, read_weights, reads


@pytest.mark.parametrize("sharpness", [1.0, 10.0])
def test_mann_addresses_its_memory_as_a_slow_loop(sharpness):
    """Five steps from an empty memory, two heads on four slots: slots are used up and written over."""
    rng = make_rng("mann")
    memory = Memory(*(torch.zeros(2, *shape, dtype=torch.float64) for shape in ((4, 3), (4,), (2, 4))))
    slow = [[value[b].tolist() for value in memory] for b in range(2)]
    for _ in range(5):
        keys = torch.randn(2, 2, 3, generator=rng, dtype=torch.float64)
        gates = torch.rand(2, 2, generator=rng, dtype=torch.float64)
        memory, read = access(memory, keys, gates, 0.9, sharpness)
        for b in range(2):
            *slow[b], reads = slow_access(*slow[b], keys[b].tolist(), gates[b].tolist(), 0.9, sharpness)
            for ours, theirs in zip((*memory, read), (*slow[b], reads), strict=True):
                torch.testing.assert_close(ours[b], torch.tensor(theirs, dtype=torch.float64))


def test_mann_writes_where_nothing_was_used_or_where_it_read():
    assert least_used(torch.tensor([[0.3, 0.1, 0.0, 0.1]]), 2).tolist() == [[0, 1, 1, 0]]
    cells = torch.tensor([[[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]])
    memory = Memory(cells, torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([[[0.0, 0.0, 1.0]]]))
    key = torch.tensor([[[10.0, 20.0]]])
    unused, _ = access(memory, key, torch.tensor([[0.0]]), 0.9)
    assert unused.cells.tolist() == [[[10, 20], [2, 2], [3, 3]]]
    read, _ = access(memory, key, torch.tensor([[1.0]]), 0.9)
    assert read.cells.tolist() == [[[0, 0], [2, 2], [13, 23]]], "the least used slot is emptied all the same"


def test_mann_reads_a_label_one_step_after_its_image():
    """What the network is given at each step, image by image: labels come late, the query brings the last one."""
    learner = make("mann")
    batch = make_batch(n_tasks=1)
    seen = []
    learner.lstm.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, : 8 + 3]))
    learner(batch)
    order = support_order(learner.draws, batch, training=False)[0]
    features = learner.backbone(batch.support_x[0])[order]
    labels = F.one_hot(batch.support_y[0][order], 3).double()
    zero = torch.zeros(3, dtype=torch.float64)
    for t in range(6):
        torch.testing.assert_close(seen[t][0], torch.cat([features[t], labels[t - 1] if t else zero]))
    for q in range(12):
        expected = torch.cat([learner.backbone(batch.query_x[0, q][None])[0], labels[-1]])
        torch.testing.assert_close(seen[6][q], expected)


def sequence(length=7, channels=3):
    return torch.randn(2, length, channels, generator=make_rng("sequence"), dtype=torch.float64)


def slow_tc_block(block, x):
    """Algorithm 1: for each dilation 1, 2, 4 …, tanh(W x) · σ(V x) of now and of `dilation` ago, appended."""
    for number, dense in enumerate(block):
        dilation, out = 2**number, []
        weight, bias = dense.conv.weight, dense.conv.bias
        half = len(bias) // 2
        for t in range(len(x)):
            before = x[t - dilation] if t >= dilation else torch.zeros_like(x[t])
            a = weight[:, :, 1] @ x[t] + weight[:, :, 0] @ before + bias
            out.append(torch.cat([x[t], torch.tanh(a[:half]) * torch.sigmoid(a[half:])]))
        x = torch.stack(out)
    return x


def test_snail_tc_block_equals_a_loop():
    torch.manual_seed(0)
    block = TCBlock(3, 7, 2).double()
    x = sequence()
    out = block(x)
    assert len(block) == 3, "ceil(log2(7)) dilations: 1, 2, 4"
    assert out.shape == (2, 7, block.channels)
    for b in range(2):
        torch.testing.assert_close(out[b], slow_tc_block(block, x[b]))


def test_snail_attention_equals_a_loop():
    torch.manual_seed(0)
    block = AttentionBlock(3, 4, 2).double()
    x = sequence()
    out = block(x)
    for b in range(2):
        for t in range(7):
            query = block.query(x[b, t])
            weights = torch.stack([(query @ block.key(x[b, s]) / 2).exp() for s in range(t + 1)])
            read = sum(w * block.value(x[b, s]) for s, w in enumerate(weights)) / weights.sum()
            torch.testing.assert_close(out[b, t], torch.cat([x[b, t], read]))


@pytest.mark.parametrize("part", ["dense", "tc", "attention", "network"])
def test_snail_does_not_look_ahead(part):
    torch.manual_seed(0)
    module = {
        "dense": DenseBlock(11, 2, 4),
        "tc": TCBlock(11, 7, 4),
        "attention": AttentionBlock(11, 4, 4),
        "network": SNAIL(Features(), 3, length=7, width=4).network,
    }[part].double()
    x = sequence(channels=11)
    changed = x.clone()
    changed[:, 4] += 1.0
    before, after = module(x), module(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4], atol=0, rtol=0)
    assert (before[:, 4] - after[:, 4]).abs().min(0).values.max() > 1e-3


def test_snail_sees_the_whole_sequence():
    """The first step reaches the last through one TC block alone: the dilations cover `length`."""
    torch.manual_seed(0)
    for length in (2, 5, 8, 9):
        x = torch.randn(1, length, 3, requires_grad=True)
        TCBlock(3, length, 2)(x)[0, -1].sum().backward()
        assert x.grad[0, 0].abs().max() > 0


def test_cnp_equals_a_loop():
    learner = make("cnp")
    batch = make_batch()
    weight = torch.rand(2, 6, generator=make_rng("weight"), dtype=torch.float64)
    weighted = EpisodeBatch(**{**vars(batch), "support_weight": weight})
    for given, w in ((batch, torch.ones_like(weight)), (weighted, weight)):
        logits = learner(given)
        for t in range(2):
            r = []
            for c in range(3):
                members = [i for i in range(6) if batch.support_y[t, i] == c]
                encodings = [w[t, i] * learner.h(learner.backbone(batch.support_x[t, i][None]))[0] for i in members]
                r.append(sum(encodings) / sum(w[t, i] for i in members))
            for q in range(12):
                x = learner.backbone(batch.query_x[t, q][None])[0]
                torch.testing.assert_close(logits[t, q], learner.g(torch.cat([x, *r])))


def test_transformer_class_embeddings_are_orthonormal_and_fixed():
    embeddings = orthonormal(5, 8)
    torch.testing.assert_close(embeddings @ embeddings.T, torch.eye(5))
    assert torch.equal(embeddings, orthonormal(5, 8))


def test_transformer_in_training_gives_classes_other_embeddings():
    learner = make("transformer").train()
    batch = make_batch()
    chosen = [learner._chosen(batch) for _ in range(50)]
    assert all(len(set(row.tolist())) == 3 for each in chosen for row in each), "two classes must not share one"
    assert {int(c) for each in chosen for c in each.flatten()} == {0, 1, 2, 3}, "all of max_way are trained"


def test_transformer_answers_with_the_embedding_that_the_labels_had():
    """Labels and answers use the same embeddings: another choice of them is a permutation of labels in between."""
    learner = make("transformer")
    batch = make_batch()
    permutation = torch.tensor([2, 0, 1])
    permuted = replaced(batch, support_y=permutation[batch.support_y])
    expected = learner(permuted)[..., permutation]
    learner._chosen = lambda batch: permutation.expand(2, 3)
    torch.testing.assert_close(learner(batch), expected)


def test_orders_in_training_and_evaluation():
    labels = torch.arange(6).expand(3, 6)
    batch = replaced(make_batch(n_tasks=3), support_y=labels)
    draws = Draws()
    state = torch.get_rng_state()
    one, two = (support_order(draws, batch, training=True) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert torch.equal(one.sort(1).values, labels)
    assert not torch.equal(one, two)
    assert not torch.equal(one[0], one[1])
    again = Draws()
    again.load_state_dict({"count": torch.tensor(1)})
    assert torch.equal(support_order(again, batch, training=True), two), "a resumed run goes on with the same orders"
    evaluation = support_order(draws, batch, training=False)
    other = replaced(batch, support_y=labels.flip(1))
    assert torch.equal(evaluation, support_order(Draws(), other, training=False))
    assert int(draws.count) == 2, "evaluation draws nothing"
    parts = [support_order(Draws(), part, training=True) for part in (batch[:2], batch[2:])]
    assert torch.equal(torch.cat(parts), one), "a task's order does not depend on the tasks beside it"
    assert not torch.equal(support_order(Draws(), other, training=True), one), (
        "another seed, other labels, other orders"
    )


@pytest.mark.parametrize("name", ANY_ORDER)
def test_shuffled_support_gives_the_same_logits(name):
    order_of_support_does_not_matter(make(name), make_batch())


@pytest.mark.parametrize("name", ["r2d2", "leo"])
def test_permuted_labels_give_permuted_logits(name):
    permuted_labels_permute_logits(make(name), make_batch())


@pytest.mark.parametrize("name", MAKE)
def test_a_query_depends_on_its_own_support_set_alone(name):
    """Neither on other queries, nor on the tasks beside it, with a backbone that has batch norm."""
    batch, learner = make_batch(n_tasks=3), make(name, Conv4(1, 8, 16))
    expected = learner(batch)
    fewer = replaced(batch, query_x=batch.query_x[:, 3:5], query_y=batch.query_y[:, 3:5])
    torch.testing.assert_close(learner(fewer), expected[:, 3:5])
    alone = replaced(
        batch, **{f: getattr(batch, f)[1:2] for f in ("support_x", "support_y", "query_x", "query_y", "is_generated")}
    )
    torch.testing.assert_close(learner(alone), expected[1:2])
    other = replaced(batch, support_x=batch.support_x.flip(1))
    assert not torch.allclose(learner(other), expected), "the support set must matter"


@pytest.mark.parametrize("name", MAKE)
def test_logits_are_the_same_with_gradients_without_and_in_inference_mode(name):
    batch, learner = make_batch(), make(name, Conv4(1, 8, 16))
    expected = learner(batch).detach()
    with torch.no_grad():
        torch.testing.assert_close(learner(batch), expected)
    with torch.inference_mode():
        inside = replaced(batch, support_x=batch.support_x.clone(), query_x=batch.query_x.clone())
        torch.testing.assert_close(learner(inside), expected)


@pytest.mark.parametrize("name", MAKE)
def test_gradients_reach_every_parameter(name):
    learner = make(name).train()
    state = torch.get_rng_state()
    loss, _ = learner.loss(make_batch())
    loss.backward()
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    without = [n for n, p in learner.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert without == []


@pytest.mark.parametrize("name", MAKE)
def test_noise_gives_chance(name):
    x = torch.rand(60, 18, 1, 16, 16, generator=make_rng("noise"), dtype=torch.float64)
    y = torch.arange(3).repeat(2).expand(60, -1)
    query_y = torch.arange(3).repeat(4).expand(60, -1)
    batch = EpisodeBatch(x[:, :6], y, x[:, 6:], query_y, torch.zeros(60, 3, dtype=torch.bool))
    accuracy = (make(name)(batch).argmax(2) == query_y).double().mean().item()
    assert abs(accuracy - 1 / 3) < 4 * (2 / 9 / 720) ** 0.5


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        *(
            (lambda name=name: MAKE[name](Conv4(norm="batch")), "norm: running or group")
            for name in ("r2d2", "leo", "mann", "snail", "cnp", "transformer")
        ),
        *(
            (lambda name=name: MAKE[name](nn.Flatten()), "n_features")
            for name in ("r2d2", "leo", "mann", "snail", "cnp")
        ),
        *(
            (lambda name=name: make(name).check(EpisodeShape(5, 1, 1), (1, 16, 16)), "n_way=3, but .* n_way=5")
            for name in ("mann", "snail", "cnp")
        ),
        (lambda: make("transformer").check(EpisodeShape(5, 1, 1), (1, 16, 16)), "max_way=4, .* n_way=5"),
        (lambda: make("snail").check(EpisodeShape(3, 3, 1), (1, 16, 16)), "length=7, .* sequences of 10"),
        *(
            (lambda name=name: make(name, Conv4(1, 8, 16)).check(EpisodeShape(3, 1, 1), (3, 84, 84)), r"\[3, 84, 84\]")
            for name in MAKE
        ),
        (lambda: MANN(Features(), n_slots=4, n_heads=4), "n_heads < n_slots"),
        (lambda: MANN(Features(), decay=1.5), "decay=1.5"),
        (lambda: CNP(Features(), hidden=0), "hidden=0"),
        (lambda: InContextTransformer(Features(), max_way=20, label_dim=10), "label_dim >= max_way"),
        (lambda: InContextTransformer(Features(), n_heads=3), "n_heads that divide"),
    ],
)
def test_learners_refuse_what_they_cannot_do(make_it, message):
    with pytest.raises(UserError, match=message):
        make_it()
