"""Classes joined from halves of real ones, and mirror images as classes."""

import itertools
from dataclasses import replace

import pytest
import torch
from conftest import make_table
from test_groups import POOL as GROUPED_POOL
from test_groups import TABLE as GROUPED

from genmeta.data.table import ImageTable
from genmeta.episode import REAL, EpisodePlan, EpisodeShape, concatenate, plan_hash
from genmeta.rng import make_rng
from genmeta.tasks.cut_and_paste import CutAndPasteTasks
from genmeta.tasks.effects import Pasting
from genmeta.tasks.elastic import Elastic
from genmeta.tasks.mixed import MixedTasks
from genmeta.tasks.real import RealTasks
from genmeta.tasks.redrawn import Redraw, RedrawnTasks
from genmeta.tasks.render import gather, render, table_of_turns, turned
from genmeta.tasks.sampler import TaskPool

TABLE = make_table(counts=(20, 7, 12))
CLASSES = [3, 4, 8, 9, 11, 14, 20, 21]
POOL = TaskPool.of(TABLE, torch.tensor(CLASSES))
SHAPE = EpisodeShape(4, 1, 3)


def four_by_four() -> ImageTable:
    """Two classes of two images of 4×4: those of a are 1 and 2, of b 101 and 102, plus 10 times the row of a pixel."""
    rows = 10 * torch.arange(4)[:, None].expand(4, 4)
    images = torch.stack([number + rows for number in (1, 2, 101, 102)])[:, None].to(torch.uint8)
    return ImageTable("hand made", images, torch.tensor([0, 0, 1, 1]), ("g/a", "g/b"), ("g", "g"))


def test_halves_are_joined_as_worked_out_by_hand():
    """Left of a beside right of b, in the second slot top of b above bottom of a, turned once."""
    table = four_by_four()
    plan = EpisodePlan.of_rows(1, torch.tensor([[[0, 1], [2, 3]]]), torch.tensor([[0, 0]]), torch.tensor([[1, 0]]))
    others = torch.tensor([[[2, 3], [0, -1]]])
    plan = plan.having(Pasting(others, torch.tensor([[0, 1]]), torch.tensor([[False, True]])))
    batch = render(plan, table.images)
    assert (batch.support_x[0, 0, 0] * 255).round().int().tolist() == [
        [1, 1, 101, 101],
        [11, 11, 111, 111],
        [21, 21, 121, 121],
        [31, 31, 131, 131],
    ]
    assert (batch.query_x[0, 0, 0] * 255).round().int()[0].tolist() == [2, 2, 102, 102], "the same hand on both sides"
    assert (batch.support_x[0, 1, 0] * 255).round().int().tolist() == [
        [101, 101, 101, 101],
        [111, 111, 111, 111],
        [1, 11, 21, 31],
        [1, 11, 21, 31],
    ]
    assert (batch.query_x[0, 1, 0] * 255).round().int()[3].tolist() == [132] * 4, "nothing is pasted here"
    assert batch.support_y.tolist() == [[1, 0]]


@pytest.mark.parametrize("groups", ["any", "within"])
def test_halves_are_of_two_classes_of_the_pool_and_of_the_same_hand(groups):
    """Leak: only train classes. Were a class its own partner, a real class would have a second label."""
    tasks = CutAndPasteTasks(groups=groups)
    plan = tasks.sample(GROUPED_POOL, SHAPE, 300, 0, make_rng(0))
    first, second = GROUPED.class_ids[plan.rows], GROUPED.class_ids[plan.pasted]
    for classes in (first, second):
        assert (classes == classes[..., :1]).all(), "all images of a class have halves of the same two"
        assert all(len(set(task)) == 4 for task in classes[..., 0].tolist())
    assert (first != second).all()
    assert torch.equal(plan.rows - GROUPED.starts[first], plan.pasted - GROUPED.starts[second])
    if groups == "within":
        of_class = torch.tensor([sorted(set(GROUPED.groups)).index(group) for group in GROUPED.groups])
        assert (of_class[first] == of_class[first[:, :1, :1]]).all()
        assert torch.equal(of_class[first], of_class[second])
    assert plan.is_generated.all()
    assert (plan.provenance() == REAL).all()
    assert 0.4 < plan.pasted_below.float().mean() < 0.6
    some = tasks.sample(POOL, EpisodeShape(4, 1, 1), 200, 0, make_rng(0)) if groups == "any" else None
    if some is not None:
        seen = set(TABLE.class_ids[torch.cat([some.rows, some.pasted])].flatten().tolist())
        assert seen == set(CLASSES), "classes of the pool only, of few and of many images"


def test_turned_halves_are_those_of_turned_classes():
    """With rotations each half has the turn of its class, with and without the table of turns."""
    plan = CutAndPasteTasks(rotations=True, mirrors=True).sample(POOL, SHAPE, 40, 0, make_rng(0))
    assert len(plan.pasted_turns.unique()) == 8
    assert any(a != b for a, b in zip(plan.turns.flatten(), plan.pasted_turns.flatten(), strict=True))
    batch = render(plan, TABLE.images)
    support = batch.support_x.unflatten(1, (4, 1))
    for task, way in itertools.product(range(40), range(4)):
        first = turned(TABLE.images[plan.rows[task, way, 0]], int(plan.turns[task, way])).float() / 255
        second = turned(TABLE.images[plan.pasted[task, way, 0]], int(plan.pasted_turns[task, way])).float() / 255
        expected = first.clone()
        if plan.pasted_below[task, way]:
            expected[:, 8:] = second[:, 8:]
        else:
            expected[:, :, 8:] = second[:, :, 8:]
        assert torch.equal(support[task, way, 0], expected)
    assert torch.equal(render(plan, table_of_turns(TABLE.images, 8)).query_x, batch.query_x)


def test_cut_and_paste_is_a_share_of_mixed_tasks_and_its_images_can_be_deformed():
    """The share is exact over steps, and what is drawn again is the joined image, not its halves."""
    tasks = MixedTasks(RealTasks(rotations=True), CutAndPasteTasks(rotations=True), 0.3, "class")
    assert tasks.latent_range == (0.3, 0.3)
    assert tasks.needs == {"turns"}
    total = 0
    for step in range(20):
        plan = tasks.sample(POOL, SHAPE, 2, step, make_rng(step))
        if plan.pasted is not None:
            assert torch.equal((plan.pasted >= 0).all(2), plan.is_generated)
        total += int(plan.is_generated.sum())
        assert total == int((step + 1) * 8 * 0.3 + 1e-6)
    redrawn = RedrawnTasks(CutAndPasteTasks(), Redraw(1.0, None))
    plan = redrawn.sample(replace(POOL, redraw_dim=2), SHAPE, 3, 0, make_rng(0))
    plain = replace(plan, effects=(plan.effect(Pasting),))
    joined = render(plain, TABLE.images).query_x
    assert torch.equal(render(plan, TABLE.images, redraw=lambda x, z: 1 - x).query_x, 1 - joined)
    deformed = RedrawnTasks(CutAndPasteTasks(), Redraw(0.0, Elastic())).sample(POOL, SHAPE, 3, 0, make_rng(0))
    assert (deformed.pasted >= 0).all()
    assert (deformed.elastic != 0).any(3).all()


def test_draws_follow_from_the_generator_alone_and_plans_stay_whole():
    tasks = CutAndPasteTasks(rotations=True, groups="within")
    first = tasks.sample(GROUPED_POOL, SHAPE, 6, 3, make_rng(0, 3))
    torch.manual_seed(99)
    assert plan_hash(tasks.sample(GROUPED_POOL, SHAPE, 6, 9, make_rng(0, 3))) == plan_hash(first)
    below = replace(first.effect(Pasting), pasted_below=~first.pasted_below)
    assert plan_hash(first.having(below)) != plan_hash(first)
    both = concatenate([RealTasks().sample(GROUPED_POOL, SHAPE, 2, 0, make_rng(1)), first])
    assert (both.pasted[:2] == -1).all()
    assert torch.equal(both[2:8].pasted, first.pasted)
    assert torch.equal(both.has_generated.any(1), torch.tensor([False] * 2 + [True] * 6))
    whole = render(both, GROUPED.images).query_x
    assert torch.equal(render(both[2:5], GROUPED.images).query_x, whole[2:5])


# mirrors

LETTER = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.uint8)  # an F


def test_the_eight_turns_of_an_asymmetric_letter_are_all_different():
    """By hand: 4 is the mirror image, 5 that turned once to the left, so that the F's stem lies at the top."""
    eight = [turned(LETTER, turn) for turn in range(8)]
    for one, other in itertools.combinations(eight, 2):
        assert not torch.equal(one, other)
    assert eight[4].tolist() == [[1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1]]
    assert eight[5].tolist() == [[1, 1, 1, 1], [1, 0, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert torch.equal(table_of_turns(LETTER[None, None], 8)[:, 0, 0], torch.stack(eight))


@pytest.mark.parametrize(("rotations", "expected"), [(True, list(range(8))), (False, [0, 4])])
@pytest.mark.parametrize("groups", ["any", "within", "across"])
def test_mirror_images_are_classes_and_a_slot_has_one_turn(rotations, expected, groups):
    """Rendered: were support and query of a slot turned otherwise, the class would have two faces."""
    images = LETTER.expand(len(GROUPED.class_ids), 1, 4, 4)
    table = replace(GROUPED, images=images)
    tasks = RealTasks(rotations, groups, mirrors=True)
    plan = tasks.sample(GROUPED_POOL, EpisodeShape(3, 2, 2), 400, 0, make_rng(0))
    assert plan.turns.unique().tolist() == expected
    assert tasks.needs == ({"turns", "mirrors"} if rotations else {"mirrors"})
    one, table_gave = gather(plan, table.images), gather(plan, table_of_turns(table.images, 8))
    x = torch.cat(one, 2)
    assert torch.equal(x, torch.cat(table_gave, 2))
    assert (x == x[:, :, :1]).all()
    number = torch.tensor([[int(torch.equal(turned(LETTER, t), image)) for t in range(8)] for image in x[:, 0, 0, 0]])
    assert torch.equal(number.argmax(1), plan.turns[:, 0])
    if groups == "within":
        assert (plan.turns == plan.turns[:, :1]).all(), "an alphabet is mirrored as a whole"
    virtual = GROUPED.class_ids[plan.rows[..., 0]] * 8 + plan.turns
    assert all(len(set(task)) == 3 for task in virtual.tolist())


def test_mirrors_of_oblong_images_are_drawn_without_a_table_of_turns(toy_data):
    toy_data.setup("fit")
    table = replace(toy_data.table, images=toy_data.table.images[..., :8].contiguous())
    toy_data.table, toy_data.images, toy_data.train_tasks = table, table.images, RealTasks(mirrors=True)
    toy_data._prepared = False
    toy_data.setup("fit")
    plan = toy_data.train_plan(0)
    assert set(plan.turns.unique().tolist()) == {0, 4}
    batch = toy_data.on_after_batch_transfer(plan, 0)
    slot = int((plan.turns[0] == 4).nonzero()[0]) if (plan.turns[0] == 4).any() else 0
    expected = turned(table.images[plan.rows[0, slot, 0]], int(plan.turns[0, slot])).float() / 255
    assert torch.equal(batch.support_x[0, slot], expected)


def test_training_with_mirrors_renders_the_same_with_and_without_the_table(toy_data, monkeypatch):
    toy_data.train_tasks = RealTasks(rotations=True, mirrors=True)
    toy_data.setup("fit")
    assert toy_data.images.shape[0] == 8
    plan = toy_data.train_plan(0)
    assert plan.turns.max() > 3
    assert torch.equal(toy_data.on_after_batch_transfer(plan, 0).query_x, render(plan, toy_data.table.images).query_x)
