"""Samplers draw what they promise; rendering equals a slow loop."""

import itertools
from dataclasses import replace

import pytest
import torch
from conftest import make_table

from genmeta.episode import DECODER, EpisodeShape, concatenate, plan_hash
from genmeta.errors import UserError
from genmeta.rng import derived_seed, make_rng
from genmeta.tasks.latent import LatentTasks
from genmeta.tasks.mixed import MixedTasks
from genmeta.tasks.policies import OtherClass, PriorNoise, RandomOther, draw_classes
from genmeta.tasks.prior import GaussianMixture
from genmeta.tasks.real import RealTasks
from genmeta.tasks.render import render
from genmeta.tasks.sampler import TaskPool
from genmeta.tasks.sampling import draw_distinct
from genmeta.tasks.space import LatentSpace

DIM = 8
TABLE = make_table(counts=(20, 7, 12))
POOL = replace(TaskPool.of(TABLE, torch.tensor([3, 4, 8, 9, 11, 14, 20, 21])), prior=GaussianMixture.standard(DIM))
SHAPE = EpisodeShape(5, 2, 3)
POLICIES = [PriorNoise(0.3), RandomOther(0.3), OtherClass(0.4)]
SAMPLERS = [
    RealTasks(),
    RealTasks(rotations=True),
    *(LatentTasks(policy, separation=0.5) for policy in POLICIES),
    MixedTasks(RealTasks(), LatentTasks(PriorNoise(), 0.5), 0.5),
]


def decode(z):
    """Stand-in for a network: a picture of the first two numbers of a code that no turn leaves alone."""
    return torch.sigmoid(z[:, :1, None, None] + z[:, 1:2, None, None] * torch.linspace(-1, 1, 256).view(16, 16))


@pytest.mark.parametrize(("n", "k"), [(6, 3), (1000, 3), (40, 6), (37, 6)])
def test_draw_distinct_is_distinct_and_uniform_with_few_and_with_many_candidates(n, k):
    picks = draw_distinct(torch.full((20000,), n), k, make_rng(1))
    assert (picks.sort(1).values.diff(dim=1) > 0).all()
    assert picks.min() >= 0
    assert picks.max() < n
    counts = torch.bincount(picks.flatten(), minlength=n).double()
    expected = 20000 * k / n
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    assert chi2 < n + 5 * (2 * n) ** 0.5  # mean n, deviation sqrt(2n); drawing without replacement is below that
    first = torch.bincount(picks[:, 0], minlength=n).double()  # the order is random too
    assert ((first - 20000 / n) ** 2 / (20000 / n)).sum() < n + 5 * (2 * n) ** 0.5


def test_draw_distinct_honours_each_count():
    counts = torch.tensor([[3, 50], [1000, 7]])
    picks = draw_distinct(counts, 3, make_rng(0))
    assert picks.shape == (2, 2, 3)
    assert (picks < counts[..., None]).all()


def test_every_order_of_labels_comes_up():
    plan = RealTasks().sample(POOL, EpisodeShape(3, 1, 1), 3000, 0, make_rng(5))
    orders = [tuple(row) for row in plan.labels.tolist()]
    for order in itertools.permutations(range(3)):
        assert 400 < orders.count(order) < 600


def test_real_tasks_hold_distinct_classes_and_images_of_the_pool():
    plan = RealTasks().sample(POOL, SHAPE, 200, 0, make_rng(0))
    assert plan.rows.shape == (200, 5, 5)
    classes = TABLE.class_ids[plan.rows]
    assert (classes == classes[..., :1]).all(), "a slot holds one class"
    assert all(len(set(task)) == 5 for task in classes[..., 0].tolist())
    assert set(classes.flatten().tolist()) == {3, 4, 8, 9, 11, 14, 20, 21}
    assert (plan.rows.sort(2).values.diff(dim=2) > 0).all(), "no image is both support and query"


def test_rotations_are_classes_of_their_own():
    plan = RealTasks(rotations=True).sample(POOL, SHAPE, 500, 0, make_rng(0))
    classes = TABLE.class_ids[plan.rows[..., 0]]
    virtual = classes * 4 + plan.turns
    assert all(len(set(task)) == 5 for task in virtual.tolist())
    assert any(len(set(task)) < 5 for task in classes.tolist()), "a class may stand beside its own rotation"
    assert (torch.bincount(plan.turns.flatten()) > 500).all()
    assert any(len(set(task)) > 1 for task in plan.turns.tolist()), "the turn is the class's, not the task's"


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: repr(s)[:40])
def test_a_meta_batch_follows_from_its_generator_alone(sampler):
    state = torch.get_rng_state()
    first = sampler.sample(POOL, SHAPE, 6, 3, make_rng(0, "train", 3))
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    torch.manual_seed(99)
    assert plan_hash(sampler.sample(POOL, SHAPE, 6, 3, make_rng(0, "train", 3))) == plan_hash(first)
    assert plan_hash(sampler.sample(POOL, SHAPE, 6, 3, make_rng(0, "train", 4))) != plan_hash(first)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(("n_way", "n_images"), [(2, 2), (5, 16), (7, 3), (20, 20)])
def test_policies_work_for_any_way_and_shot_and_give_class_structure(policy, n_way, n_images):
    anchors = torch.randn(30, n_way, 64, generator=make_rng(1))
    codes = policy.instances({"centre": anchors}, n_images, LatentSpace(GaussianMixture.standard(64)), make_rng(2))
    assert codes.shape == (30, n_way, n_images, 64)
    own = (codes - anchors[:, :, None]).norm(dim=3)
    others = (codes[:, :, :, None] - anchors[:, None, None]).norm(dim=4)
    nearest_is_own = others.argmin(3) == torch.arange(n_way)[:, None]
    assert nearest_is_own.float().mean() > 0.99
    assert own.mean() < 0.75 * torch.cdist(anchors, anchors)[:, ~torch.eye(n_way, dtype=torch.bool)].mean()
    assert (codes.flatten(0, 1).std(1).mean(1) > 0.01).all(), "the images of a class differ"


def test_policies_follow_their_formulas():
    space = LatentSpace(GaussianMixture.standard(64))
    anchors = torch.randn(400, 3, 64, generator=make_rng(1))
    classes = {"centre": anchors}
    noise = PriorNoise(0.5).instances(classes, 4, space, make_rng(2)) - anchors[:, :, None]
    assert abs(noise.std().item() - 0.5) < 0.01
    codes = RandomOther(0.25).instances(classes, 4, space, make_rng(2))
    v = (codes - 0.75 * anchors[:, :, None]) / 0.25
    assert abs(v.std().item() - 1) < 0.01
    assert abs(v.mean().item()) < 0.01
    # with two other classes and two images, each image lies 0.4 of the way to another of them
    codes = OtherClass(0.4).instances(classes, 2, space, make_rng(2))
    for c in range(3):
        others = [d for d in range(3) if d != c]
        expected = torch.stack([anchors[:, c] + 0.4 * (anchors[:, d] - anchors[:, c]) for d in others], 1)
        assert torch.cdist(codes[:, c], expected).min(2).values.max() < 1e-3
        assert torch.cdist(expected, codes[:, c]).min(2).values.max() < 1e-3


def test_anchors_keep_their_separation_and_impossible_ones_are_refused():
    space = LatentSpace(GaussianMixture.standard(16))
    anchors = draw_classes(PriorNoise(), space, 500, 5, 0.9, make_rng(0))["centre"]
    distances = torch.cdist(anchors, anchors)[:, ~torch.eye(5, dtype=torch.bool)]
    assert distances.min() >= 0.9 * (2 * 16) ** 0.5 - 1e-4
    assert abs(anchors.mean()) < 0.02, "still centred"
    with pytest.raises(UserError, match="separation 3"):
        draw_classes(PriorNoise(), space, 4, 5, 3.0, make_rng(0))


def test_units_follow_the_spread_of_the_prior():
    """A prior ten times as wide gives ten times the distances for the same settings."""
    wide = GaussianMixture(torch.ones(1), torch.zeros(1, 16), torch.full((1, 16), 10.0))
    narrow = GaussianMixture.standard(16)
    spaces = [LatentSpace(prior) for prior in (narrow, wide)]
    classes = [draw_classes(PriorNoise(), space, 50, 5, 0.9, make_rng(0)) for space in spaces]
    torch.testing.assert_close(classes[1]["centre"], 10 * classes[0]["centre"])
    for policy in POLICIES:
        codes = [policy.instances(c, 6, s, make_rng(1)) for c, s in zip(classes, spaces, strict=True)]
        torch.testing.assert_close(codes[1], 10 * codes[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("share", "n_tasks"), [(0.0, 4), (0.25, 4), (0.5, 4), (0.1, 4), (0.3, 10), (1.0, 3)])
def test_mixing_ratio_is_exact(share, n_tasks):
    sampler = MixedTasks(RealTasks(), LatentTasks(PriorNoise(), 0.5), share)
    generated = 0
    for step in range(60):
        plan = sampler.sample(POOL, SHAPE, n_tasks, step, make_rng(0, step))
        assert len(plan) == n_tasks
        per_task = plan.is_generated.float().mean(1)
        assert set(per_task.tolist()) <= {0.0, 1.0}
        assert len(plan.z) == int(plan.is_generated.sum()) * SHAPE.n_images
        generated += int(per_task.sum())
        assert generated == int((step + 1) * n_tasks * share + 1e-6)


def test_shuffling_and_slicing_keep_codes_with_their_tasks():
    latent = LatentTasks(PriorNoise(), 0.5)
    plan = concatenate(
        [RealTasks().sample(POOL, SHAPE, 3, 0, make_rng(1)), latent.sample(POOL, SHAPE, 2, 0, make_rng(2))]
    )
    order = [4, 0, 3, 2, 1]
    shuffled = plan.take(torch.tensor(order))
    whole = render(shuffled, TABLE.images, decode)
    for place, task in enumerate(order):
        one = render(plan[slice(task, task + 1)], TABLE.images, decode)
        torch.testing.assert_close(whole.support_x[place], one.support_x[0])
        torch.testing.assert_close(whole.query_x[place], one.query_x[0])
        assert torch.equal(whole.query_y[place], one.query_y[0])
    parts = [shuffled[slice(0, 2)], shuffled[slice(2, 5)]]
    assert plan_hash(concatenate(parts)) == plan_hash(shuffled)


def test_render_equals_a_slow_loop():
    sampler = MixedTasks(RealTasks(rotations=True), LatentTasks(PriorNoise(), 0.5), 0.5)
    plan = sampler.sample(POOL, SHAPE, 4, 0, make_rng(0))
    # a hybrid episode: the first real task's second class becomes a generated one, and one image of its third
    hybrid, source = plan.is_generated.clone(), plan.source.clone()
    task = int((~plan.is_generated.any(1)).nonzero()[0])
    hybrid[task, 1] = True
    source[task, 1], source[task, 2, 3] = DECODER, DECODER
    before = int((plan.source[:task] == DECODER).sum())
    new = torch.randn(6, DIM, generator=make_rng(9))
    plan = replace(plan, is_generated=hybrid, source=source, z=torch.cat([plan.z[:before], new, plan.z[before:]]))
    batch = render(plan, TABLE.images, decode)
    code = 0
    for t in range(4):
        for w in range(5):
            label = plan.labels[t, w]
            assert batch.is_generated[t, label] == hybrid[t, w]
            for i in range(5):
                if source[t, w, i] == DECODER:
                    expected = torch.rot90(decode(plan.z[code][None])[0], int(plan.turns[t, w]), (1, 2))
                    code += 1
                else:
                    image = TABLE.images[plan.rows[t, w, i]].float() / 255
                    expected = torch.rot90(image, int(plan.turns[t, w]), (1, 2))
                x, y, k = (
                    (batch.support_x, batch.support_y, w * 2 + i)
                    if i < 2
                    else (batch.query_x, batch.query_y, w * 3 + i - 2)
                )
                torch.testing.assert_close(x[t, k], expected)
                assert y[t, k] == label
    assert torch.equal(batch.query_is_generated, hybrid.repeat_interleave(3, 1))
    assert batch.support_x.dtype == torch.float32
    assert 0 <= batch.query_x.min() <= batch.query_x.max() <= 1


def test_generated_slots_without_a_decoder_are_an_error():
    plan = LatentTasks(PriorNoise(), 0.5).sample(POOL, SHAPE, 2, 0, make_rng(0))
    with pytest.raises(ValueError, match="no decoder"):
        render(plan, TABLE.images)


@pytest.mark.parametrize(
    ("sampler", "shape", "message"),
    [
        (RealTasks(), EpisodeShape(9, 1, 1), "n_way is 9, but there are only 8 classes"),
        (RealTasks(rotations=True), EpisodeShape(33, 1, 1), "n_way is 33, but there are only 32"),
        (RealTasks(), EpisodeShape(5, 3, 5), r"3 \+ 5 = 8, but the smallest class has 7 images"),
        (LatentTasks(PriorNoise(), 5.0), SHAPE, "separation 5"),
    ],
)
def test_impossible_episodes_are_refused_with_the_numbers(sampler, shape, message):
    with pytest.raises(UserError, match=message):
        sampler.check(POOL, shape)


@pytest.mark.parametrize(
    "make",
    [
        lambda: EpisodeShape(1, 1, 1),
        lambda: PriorNoise(-1),
        lambda: RandomOther(1.5),
        lambda: MixedTasks(RealTasks(), RealTasks(), 1.1),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(UserError, match="found"):
        make()


def test_seeds_are_a_fixed_function_of_their_parts():
    assert derived_seed(0, "train", 1) == derived_seed(0, "train", 1)
    assert len({derived_seed(s, split, t) for s in range(3) for split in ("train", "val") for t in range(100)}) == 600
    assert derived_seed(0, "train", 0) == 2620609229, "changing this changes every experiment"
