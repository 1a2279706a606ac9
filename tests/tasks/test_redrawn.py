"""Images drawn again, deformations, generated support images."""

from dataclasses import replace

import pytest
import torch
from conftest import make_table
from torch import nn

from genmeta.episode import EpisodeShape, concatenate, plan_hash
from genmeta.errors import UserError
from genmeta.learners.metric import ProtoNet
from genmeta.rng import make_rng
from genmeta.tasks.effects import Deformation
from genmeta.tasks.elastic import Elastic, deform
from genmeta.tasks.real import RealTasks
from genmeta.tasks.redrawn import DeformedClasses, Redraw, RedrawnSupport, RedrawnTasks, SingleImageTasks
from genmeta.tasks.render import render
from genmeta.tasks.sampler import TaskPool

K = 3
TABLE = make_table(counts=(20, 7, 12))
POOL = replace(TaskPool.of(TABLE, torch.tensor([3, 4, 8, 9, 11, 14, 20, 21])), redraw_dim=K)
SHAPE = EpisodeShape(4, 1, 3)
REDRAW = Redraw(1.0)
ELASTIC = Redraw(0.0, Elastic())


def redraw(x, z):
    """Stand-in for a network: half of the image, and the first number of the code everywhere."""
    return 0.5 * x + 0.1 * torch.sigmoid(z[:, 0])[:, None, None, None]


def test_redrawn_images_are_the_redrawers_and_the_others_are_left_alone():
    tasks = RedrawnTasks(RealTasks(rotations=True), REDRAW, share=0.5)
    plan = tasks.sample(POOL, SHAPE, 6, 0, make_rng(0))
    plain = replace(plan, effects=())
    new, old = (render(p, TABLE.images, redraw=redraw) for p in (plan, plain))
    redrawn = ~plan.redraw_codes[..., 0].isnan()
    assert int(redrawn.sum()) == 6 * 4 * 4 // 2
    expected = 0.5 * old.query_x + 0.1 * torch.sigmoid(plan.redraw_codes[..., 1:, 0]).flatten(1)[..., None, None, None]
    queries = redrawn[..., 1:].flatten(1)
    torch.testing.assert_close(new.query_x[queries], expected[queries])
    assert torch.equal(new.query_x[~queries], old.query_x[~queries])
    assert plan.redraw_codes[redrawn].std() == pytest.approx(1.0, abs=0.15)
    assert torch.equal(plan.rows, RealTasks(rotations=True).sample(POOL, SHAPE, 6, 0, make_rng(0)).rows)
    assert not plan.is_generated.any(), "the classes are real"


@pytest.mark.parametrize(("which", "where"), [("support", slice(1)), ("query", slice(1, None)), ("all", slice(None))])
def test_only_the_images_asked_for_are_redrawn(which, where):
    plan = RedrawnTasks(RealTasks(), Redraw(2.0, Elastic()), which=which).sample(POOL, SHAPE, 5, 0, make_rng(0))
    expected = torch.zeros(plan.rows.shape, dtype=torch.bool)
    expected[..., where] = True
    assert torch.equal(~plan.redraw_codes[..., 0].isnan(), expected)
    assert torch.equal((plan.elastic != 0).any(3), expected)


def test_the_share_of_redrawn_images_is_exact_over_the_steps():
    tasks = RedrawnTasks(RealTasks(), REDRAW, share=0.3)
    total = 0
    for step in range(30):
        total += int((~tasks.sample(POOL, SHAPE, 1, step, make_rng(step)).redraw_codes[..., 0].isnan()).sum())
        assert total == int((step + 1) * 16 * 0.3 + 1e-6)


def test_a_deformation_of_zero_is_the_identity_and_translations_move_by_half_widths():
    images = torch.rand(3, 2, 12, 12, generator=make_rng(0))
    nothing = torch.zeros(3, Elastic().n_parameters)
    torch.testing.assert_close(deform(images, nothing), images, atol=1e-5, rtol=0)
    right = nothing.clone()
    right[:, 2] = 2 * 2 / 12  # sampled two pixels further right: the image moves two to the left
    torch.testing.assert_close(deform(images, right)[..., :-2], images[..., 2:], atol=1e-5, rtol=0)
    assert deform(images, right)[..., -2:].abs().max() < 1e-5, "outside there is no ink"
    field = nothing.clone()
    field[:, 6:22] = 2 / 12  # all control points of the 4×4 of x: one pixel
    torch.testing.assert_close(deform(images, field)[..., :-1], images[..., 1:], atol=1e-4, rtol=0)


def test_elastic_parameters_have_the_sizes_that_were_asked_for():
    elastic = Elastic(field=0.2, cells=3, rotation=0.0, scale=0.0, aspect=0.0, shear=0.3, shift=0.1)
    drawn = elastic.draw(20_000, rng=make_rng(0))
    assert drawn.shape == (20_000, 6 + 18)
    assert drawn[:, 6:].std() == pytest.approx(0.2, rel=0.02)
    assert drawn[:, [2, 5]].std() == pytest.approx(0.1, rel=0.02)
    assert drawn[:, 1].std() == pytest.approx(0.3, rel=0.03), "the slant"
    assert drawn[:, [0, 3, 4]].abs().max() == 0
    turned = Elastic(field=0, rotation=0.5, scale=0, aspect=0, shear=0, shift=0).draw(100, rng=make_rng(1))
    matrices = turned[:, :6].view(-1, 2, 3)[:, :, :2] + torch.eye(2)
    torch.testing.assert_close(matrices @ matrices.mT, torch.eye(2).expand(100, 2, 2), atol=1e-5, rtol=0)


def test_deformed_classes_deform_all_images_of_a_class_alike_and_count_as_generated():
    plan = DeformedClasses(RealTasks(), Elastic()).sample(POOL, SHAPE, 5, 0, make_rng(0))
    assert plan.is_generated.all()
    assert (plan.elastic == plan.elastic[:, :, :1]).all()
    assert (plan.elastic[:, 0, 0] != plan.elastic[:, 1, 0]).any(1).all()
    both = RedrawnTasks(DeformedClasses(RealTasks(), Elastic()), ELASTIC).sample(POOL, SHAPE, 5, 0, make_rng(0))
    of_image = both.elastic - plan.elastic
    assert of_image.std() > 0.05, "instances are deformed on top of their class"
    assert (of_image[:, :, 0] != of_image[:, :, 1]).any(2).all()


def test_umtra_classes_are_one_image_each_and_queries_its_augmented_copies():
    tasks = RedrawnTasks(SingleImageTasks(rotations=True), ELASTIC, which="query")
    plan = tasks.sample(POOL, SHAPE, 30, 0, make_rng(0))
    assert (plan.rows == plan.rows[..., :1]).all()
    assert all(len(set(task)) == 4 for task in plan.rows[..., 0].tolist())
    assert set(TABLE.class_ids[plan.rows].flatten().tolist()) <= {3, 4, 8, 9, 11, 14, 20, 21}
    assert any(len(set(TABLE.class_ids[task].tolist())) < 4 for task in plan.rows[..., 0]), "labels are not looked at"
    batch = render(plan, TABLE.images)
    original = TABLE.images[plan.rows[..., 0]].float() / 255
    for turn in (1, 2, 3):
        at = plan.turns == turn
        original[at] = torch.rot90(original[at], turn, (-2, -1))
    torch.testing.assert_close(batch.support_x, original, atol=1e-5, rtol=0)
    assert (batch.query_x.view(30, 4, 3, -1) - original.view(30, 4, 1, -1)).abs().mean((0, 1, 3)).min() > 0.01
    assert plan.is_generated.all()


@pytest.mark.parametrize("how", [REDRAW, ELASTIC, Redraw(0.5, Elastic())])
def test_generated_support_images_stand_beside_the_same_real_ones(how):
    shape = EpisodeShape(4, 2, 3)
    plain = RealTasks().sample(POOL, shape, 5, 0, make_rng(0))
    plan = RedrawnSupport(RealTasks(), how, n=5, weight=0.7).sample(POOL, shape, 5, 0, make_rng(0))
    assert plan.n_shot == 12
    assert torch.equal(plan.rows[..., :2], plain.rows[..., :2])
    assert torch.equal(plan.rows[..., 12:], plain.rows[..., 2:]), "the queries are the same"
    assert torch.equal(plan.rows[..., 2:12], plain.rows[..., :2].repeat_interleave(5, 2))
    torch.testing.assert_close(plan.support_weight.sum(2), torch.full((5, 4), 2.0))
    old, new = (render(p, TABLE.images, redraw=redraw) for p in (plain, plan))
    torch.testing.assert_close(new.query_x, old.query_x)
    support = new.support_x.view(5, 4, 12, -1)
    torch.testing.assert_close(support[:, :, :2], old.support_x.view(5, 4, 2, -1))
    # a prototype is 0.3 of the mean of the real images and 0.7 of that of the generated ones
    learner = ProtoNet(nn.Flatten())
    prototype = 0.3 * support[:, :, :2].mean(2) + 0.7 * support[:, :, 2:].mean(2)
    expected = -(new.query_x.flatten(2)[:, :, None] - prototype[:, None]).square().sum(3)
    in_order = torch.stack([row[:, labels] for row, labels in zip(learner(new), plan.labels, strict=True)])
    torch.testing.assert_close(in_order, expected, atol=1e-3, rtol=1e-3)


def test_a_share_of_0_leaves_the_tasks_as_they_are_and_needs_no_redrawer():
    """The real arm of a comparison: the learner's own tasks with `share: 0`. Bug: it asks for a redrawer."""
    tasks, without = RedrawnTasks(RealTasks(rotations=True), REDRAW, share=0.0), replace(POOL, redraw_dim=0)
    assert "redrawer" not in tasks.needs
    tasks.check(without, SHAPE)
    plan = tasks.sample(without, SHAPE, 5, 0, make_rng(0))
    assert plan_hash(plan) == plan_hash(RealTasks(rotations=True).sample(POOL, SHAPE, 5, 0, make_rng(0)))
    assert plan.is_plain


def test_plans_with_and_without_redrawing_can_be_joined_cut_and_shuffled():
    with_redrawn = RedrawnTasks(RealTasks(), Redraw(1.0, Elastic())).sample(POOL, SHAPE, 2, 0, make_rng(0))
    joined = concatenate([RealTasks().sample(POOL, SHAPE, 3, 0, make_rng(1)), with_redrawn])
    assert joined.redraw_codes[:3].isnan().all()
    assert (joined.elastic[:3] == 0).all()
    order = torch.tensor([4, 0, 3, 2, 1])
    whole = render(joined.take(order), TABLE.images, redraw=redraw)
    for place, task in enumerate(order.tolist()):
        one = render(joined[slice(task, task + 1)], TABLE.images, redraw=redraw)
        torch.testing.assert_close(whole.query_x[place], one.query_x[0])
    parts = [joined[slice(0, 2)], joined[slice(2, 5)]]
    torch.testing.assert_close(concatenate(parts).elastic, joined.elastic)
    assert plan_hash(joined) != plan_hash(replace(joined, effects=(joined.effect(Deformation),)))


def test_what_is_missing_is_said():
    plan = RedrawnTasks(RealTasks(), REDRAW).sample(POOL, SHAPE, 2, 0, make_rng(0))
    with pytest.raises(ValueError, match="nothing to draw images again"):
        render(plan, TABLE.images)
    without = replace(POOL, redraw_dim=0)
    for tasks in (RedrawnTasks(RealTasks(), REDRAW), RedrawnSupport(RealTasks(), REDRAW)):
        with pytest.raises(UserError, match=r"data\.redrawer is not set"):
            tasks.check(without, SHAPE)
        assert tasks.needs == {"redrawer"}
    RedrawnTasks(RealTasks(), ELASTIC).check(without, SHAPE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Redraw(0.0),
        lambda: Redraw(-1.0, Elastic()),
        lambda: Elastic(field=-0.1),
        lambda: Elastic(cells=1),
        lambda: RedrawnTasks(RealTasks(), REDRAW, share=1.5),
        lambda: RedrawnTasks(RealTasks(), REDRAW, which="both"),
        lambda: RedrawnSupport(RealTasks(), REDRAW, n=0),
        lambda: RedrawnSupport(RealTasks(), REDRAW, weight=2.0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(UserError, match="found"):
        make()
