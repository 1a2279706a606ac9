"""The share of generated classes: schedules, hybrid episodes, the bank."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import make_table

from genmeta.episode import BANK, DECODER, TABLE, EpisodeShape, plan_hash
from genmeta.errors import UserError
from genmeta.rng import make_rng
from genmeta.tasks.bank import BankedTasks
from genmeta.tasks.latent import LatentTasks
from genmeta.tasks.mixed import MixedTasks
from genmeta.tasks.policies import PriorNoise, RandomOther
from genmeta.tasks.prior import GaussianMixture
from genmeta.tasks.real import RealTasks
from genmeta.tasks.render import render
from genmeta.tasks.sampler import TaskPool
from genmeta.tasks.share import Adaptive, Constant, Cosine, Linear, Steps, WarmupThenAnneal

DIM = 8
IMAGES = make_table(counts=(20, 7, 12))
POOL = replace(TaskPool.of(IMAGES, torch.tensor([3, 4, 8, 9, 11, 14, 20, 21])), prior=GaussianMixture.standard(DIM))
SHAPE = EpisodeShape(5, 1, 3)
LATENT = LatentTasks(PriorNoise(0.3), 0.4)


def decode(z):
    return torch.sigmoid(z[:, :1, None, None] + z[:, 1:2, None, None] * torch.linspace(-1, 1, 256).view(16, 16))


SCHEDULES = {
    "constant": (Constant(0.3), lambda t: 0.3),
    "linear": (Linear(0.8, 0.2, 40), lambda t: 0.8 - 0.6 * min(t / 40, 1)),
    "cosine": (Cosine(0.1, 0.9, 40), lambda t: 0.5 - 0.4 * math.cos(math.pi * min(t / 40, 1))),
    "steps": (Steps([0.0, 0.5, 0.25], [10, 30]), lambda t: 0.0 if t < 10 else 0.5 if t < 30 else 0.25),
    "warm-up": (
        WarmupThenAnneal(0.6, 10, 30, 0.1),
        lambda t: 0.06 * t if t < 10 else 0.35 + 0.25 * math.cos(math.pi * min((t - 10) / 30, 1)),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_the_integral_of_its_formula(name):
    schedule, share = SCHEDULES[name]
    fine = 200
    total = 0.0
    assert schedule.until(0) == 0
    for step in range(60):
        total += sum(share(step + (i + 0.5) / fine) for i in range(fine)) / fine
        assert schedule.until(step + 1) == pytest.approx(total, abs=1e-3)
        low, high = schedule.range
        assert low - 1e-9 <= schedule.until(step + 1) - schedule.until(step) <= high + 1e-9


@pytest.mark.parametrize("per", ["task", "class"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_mixing_follows_the_schedule_exactly(name, per):
    schedule, _ = SCHEDULES[name]
    tasks = MixedTasks(RealTasks(rotations=True), LATENT, schedule, per)
    unit = 5 if per == "task" else 1
    generated = 0
    for step in range(50):
        plan = tasks.sample(POOL, SHAPE, 3, step, make_rng(step))
        generated += int(plan.is_generated.sum()) // unit
        assert generated == math.floor(schedule.until(step + 1) * 3 * 5 / unit + 1e-6)


def test_hybrid_tasks_say_which_classes_are_generated_and_keep_codes_in_their_places():
    tasks = MixedTasks(RealTasks(), LATENT, 0.5, "class")
    counts = torch.zeros(5)
    for step in range(40):
        plan = tasks.sample(POOL, SHAPE, 3, step, make_rng(step))
        per_task = plan.is_generated.sum(1)
        assert per_task.max() - per_task.min() <= 1, "spread evenly over the tasks"
        assert ((plan.source == DECODER) == plan.is_generated[..., None]).all()
        assert all(sorted(labels) == list(range(5)) for labels in plan.labels.tolist())
        counts += plan.is_generated.float().sum(0)
        batch = render(plan, IMAGES.images, decode)
        code = 0
        for t in range(3):
            for w in range(5):
                label = int(plan.labels[t, w])
                assert batch.is_generated[t, label] == plan.is_generated[t, w]
                images = [batch.support_x[t, w], *batch.query_x[t, 3 * w : 3 * w + 3]]
                assert batch.support_y[t, w] == label
                for i, image in enumerate(images):
                    if plan.is_generated[t, w]:
                        expected = decode(plan.z[code : code + 1])[0]
                        code += 1
                    else:
                        expected = IMAGES.images[plan.rows[t, w, i]].float() / 255
                    torch.testing.assert_close(image, expected)
        assert torch.equal(batch.query_is_generated, batch.is_generated.gather(1, batch.query_y))
    assert counts.min() > 0.4 * 120, "every place of a task has its turn"


def test_what_is_not_used_is_not_needed():
    tasks = MixedTasks(RealTasks(rotations=True), LatentTasks(RandomOther(0.2, anchors="images")), 0.0)
    assert tasks.needs == {"turns"}
    assert replace(tasks, share=1.0).needs == {"decoder", "encoder"}
    assert replace(tasks, share=Linear(0.0, 0.5, 10)).needs == {"turns", "decoder", "encoder"}
    assert tasks.latent_range == (0.0, 0.0)
    assert replace(tasks, share=Steps([0.25, 0.75], [3])).latent_range == (0.25, 0.75)
    tasks.check(replace(POOL, prior=None), SHAPE)
    with pytest.raises(UserError, match=r"data\.generator is not set"):
        replace(tasks, share=0.5).check(replace(POOL, prior=None), SHAPE)


def test_the_adaptive_share_follows_the_gap_and_goes_on_exactly_from_a_saved_state():
    schedule = Adaptive(0.3, low=0.1, high=0.4, change=0.1)
    assert schedule.until(10) == pytest.approx(3.0)
    schedule.update(10, acc_real=0.8, acc_latent=0.6, val_acc=0.5)  # generated classes are harder: more of them
    assert schedule.share == pytest.approx(0.4)
    assert schedule.until(10) == pytest.approx(3.0)
    assert schedule.until(20) == pytest.approx(7.0)
    schedule.update(20, 0.8, 0.6, 0.5)
    assert schedule.share == 0.4, "stays in its range"
    schedule.update(30, 0.7, 0.9, 0.5)
    assert schedule.share == pytest.approx(0.3)
    schedule.update(40, 0.7, float("nan"), 0.5)
    assert schedule.share == pytest.approx(0.3), "nothing was seen"
    other = Adaptive(0.3, low=0.1, high=0.4, change=0.1)
    other.load_state_dict(schedule.state_dict())
    for step in (45, 50):
        for one in (schedule, other):
            one.update(step, 0.9, 0.5, 0.5)
        assert other.until(step + 7) == schedule.until(step + 7)


def test_the_adaptive_share_climbs_the_validation_accuracy():
    schedule = Adaptive(0.3, low=0.0, high=1.0, change=0.1, by="validation")
    shares = []
    for step, accuracy in enumerate([0.5, 0.6, 0.55, 0.7, 0.6]):
        schedule.update(step, 0, 0, accuracy)
        shares.append(round(schedule.share, 6))
    assert shares == [0.4, 0.5, 0.4, 0.3, 0.4]


def test_a_bank_deals_episodes_of_its_own_filling():
    tasks = BankedTasks(LATENT, episodes=6, refresh=10)
    filling = tasks.fill(POOL, SHAPE, 2, make_rng("bank", 2))
    filled = render(filling, IMAGES.images, decode)
    n = filled.support_x.shape[1] // 5
    assert n == 1
    bank = torch.cat([filled.support_x.view(6, 5, 1, 1, 16, 16), filled.query_x.view(6, 5, 3, 1, 16, 16)], 2)
    bank = (bank.flatten(0, 2) * 255).round().to(torch.uint8)
    seen = set()
    for step in range(20, 30):
        plan = tasks.sample(POOL, SHAPE, 4, step, make_rng(step))
        assert plan.period == 2
        assert (plan.source == BANK).all()
        assert plan.is_generated.all()
        assert len({task[0] // 20 for task in plan.rows[:, 0].tolist()}) == 4, "four different episodes"
        assert all(len({row // 4 for row in task.flatten().tolist()}) == 5 for task in plan.rows), "with their classes"
        assert all(len(set(task.flatten().tolist())) == 20 for task in plan.rows), "and each image once"
        seen |= set(plan.rows[..., 0].flatten().tolist())
        batch = render(plan, IMAGES.images, bank=bank)
        torch.testing.assert_close(batch.support_x, bank[plan.rows[..., 0]].float() / 255)
    assert len(seen) > 90, "every image can be the support image"
    assert tasks.sample(POOL, SHAPE, 4, 30, make_rng(0)).period == 3
    assert len(tasks.sample(POOL, SHAPE, 9, 0, make_rng(0))) == 9, "more tasks than episodes"


def test_banked_and_fresh_tasks_have_the_same_distribution():
    """Pixels, and differences within and between the classes of an episode, over many fillings."""
    shape = EpisodeShape(3, 1, 2)
    banked = BankedTasks(LATENT, episodes=8, refresh=1)

    def statistics(fresh):
        found = []
        for step in range(150):
            if fresh:
                batch = render(LATENT.sample(POOL, shape, 4, step, make_rng("a", step)), IMAGES.images, decode)
            else:
                filling = render(banked.fill(POOL, shape, step, make_rng("b", step)), IMAGES.images, decode)
                by_slot = [x.view(8, 3, -1, 1, 16, 16) for x in (filling.support_x, filling.query_x)]
                bank = (torch.cat(by_slot, 2).flatten(0, 2) * 255).round().to(torch.uint8)
                batch = render(banked.sample(POOL, shape, 4, step, make_rng("c", step)), IMAGES.images, bank=bank)
            support, query = batch.support_x.view(4, 3, 1, -1), batch.query_x.view(4, 3, 2, -1)
            within = (support - query).square().mean((1, 2, 3))
            between = (support[:, :1] - support[:, 1:]).square().mean((1, 2, 3))
            found.append(torch.stack([query.mean((1, 2, 3)), within, between], 1))
        return torch.cat(found)

    fresh, dealt = statistics(True), statistics(False)
    error = (fresh.var(0) / len(fresh) + dealt.var(0) / len(dealt)).sqrt()
    assert ((fresh.mean(0) - dealt.mean(0)).abs() < 4 * error).all()
    assert (fresh.std(0) / dealt.std(0) - 1).abs().max() < 0.15


def test_a_hybrid_plan_can_take_its_generated_classes_from_the_bank():
    tasks = MixedTasks(RealTasks(), BankedTasks(LATENT, 4, 5), 0.4, "class")
    plan = tasks.sample(POOL, SHAPE, 3, 7, make_rng(0))
    assert plan.period == 1
    assert ((plan.source == BANK) == plan.is_generated[..., None]).all()
    assert (plan.source[~plan.is_generated] == TABLE).all()
    assert int(plan.is_generated.sum()) == 6
    assert plan_hash(plan) == plan_hash(tasks.sample(POOL, SHAPE, 3, 7, make_rng(0)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(0.0, 1.2, 10), r"1\.2"),
        (lambda: Cosine(0.0, 1.0, 0), "steps must be at least 1"),
        (lambda: Steps([0.1, 0.2], [5, 3]), "milestones"),
        (lambda: Steps([0.1], []).__class__([0.1], [0]), "one share more"),
        (lambda: WarmupThenAnneal(0.5, 0, 10), "steps must be at least 1"),
        (lambda: Adaptive(0.9, high=0.5), "start=0.9"),
        (lambda: Adaptive(by="luck"), "found 'luck'"),
        (lambda: MixedTasks(RealTasks(), LATENT, 0.5, "image"), "found 'image'"),
        (lambda: BankedTasks(LATENT, 0), "found 0"),
        (lambda: BankedTasks(MixedTasks(RealTasks(), LATENT, 0.5)), "all generated or all real"),
        (lambda: BankedTasks(BankedTasks(LATENT)), "not themselves from a bank"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
