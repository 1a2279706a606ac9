"""Effects of a plan: one class says all of one, and hashes of plans stay what they were."""

import copy
import pickle
from dataclasses import dataclass, field

import pytest
import torch
from conftest import make_table

from genmeta.effect import Effect
from genmeta.episode import REAL, REDRAWN, EpisodePlan, choose_slots, concatenate, plan_hash
from genmeta.tasks.effects import Deformation, Pasting, Redrawing
from genmeta.tasks.render import render

SHAPE = (2, 2, 3)
IMAGES = make_table(counts=(12,)).images


def plan_of(*effects: Effect) -> EpisodePlan:
    turns, labels = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[0, 1], [1, 0]])
    plan = EpisodePlan.of_rows(1, torch.arange(12).view(SHAPE), turns, labels)
    for effect in effects:
        plan = plan.having(effect)
    return plan


def redrawing() -> Redrawing:
    codes = torch.arange(24.0).view(*SHAPE, 2)
    codes[0, 0] = torch.nan
    return Redrawing(codes)


def deformation() -> Deformation:
    return Deformation(torch.arange(12 * 14.0).view(*SHAPE, 14) / 256)


def pasting() -> Pasting:
    below = torch.tensor([[True, False], [False, False]])
    return Pasting(torch.arange(12).view(SHAPE) - 1, torch.tensor([[0, 5], [1, 2]]), below)


HASHES = {
    (): "3e34d9dd976df3c4",
    (redrawing,): "56ae0aa3be4032b5",
    (deformation,): "af04a6f15164fb11",
    (pasting,): "5d5ffbc0861331dd",
    (pasting, deformation, redrawing): "a96ce3adfd58d172",
}


@pytest.mark.parametrize("effects", HASHES, ids=lambda effects: "+".join(e.__name__ for e in effects) or "none")
def test_hashes_are_those_that_stand_in_results(effects):
    """They were written down when a plan had a field for each effect; the order in which effects come is no matter."""
    made = [effect() for effect in effects]
    assert plan_hash(plan_of(*made)) == HASHES[effects]
    assert plan_hash(plan_of(*reversed(made))) == HASHES[effects]


@dataclass(frozen=True)
class Inversion(Effect):
    """What a user might add: ink and paper exchanged, which counts as redrawn here. Nothing else knows of it."""

    rendered_at = 3
    hashed_at = 3
    inverted: torch.Tensor = field(metadata={"fill": False})

    @property
    def changes(self):
        return self.inverted

    def provenance(self, before):
        return torch.where(self.inverted, REDRAWN, before)

    def render(self, x, sources):
        return torch.where(self.inverted[..., None, None, None], 1 - x, x)


def test_a_new_effect_is_one_class():
    inverted = torch.tensor([[[True, False, True], [False] * 3], [[False, True, False], [True] * 3]])
    plain, plan = plan_of(), plan_of(Inversion(inverted))
    assert plain.is_plain
    assert not plan.is_plain
    assert plain.inverted is None
    assert plan.inverted is inverted
    assert torch.equal(plan.has_generated, torch.tensor([[True, False], [True, True]]))
    assert torch.equal(plan.provenance(), torch.where(inverted, REDRAWN, REAL))
    assert plan_hash(plan) not in {plan_hash(plain), plan_hash(plan_of(Inversion(~inverted)))}
    old, new = render(plain, IMAGES), render(plan, IMAGES)
    of_query = inverted[..., 1:].flatten(1)[..., None, None, None]
    torch.testing.assert_close(new.query_x, torch.where(of_query, 1 - old.query_x, old.query_x))

    both = concatenate([plain, plan])
    assert torch.equal(both.inverted, torch.cat([torch.zeros(SHAPE, dtype=torch.bool), inverted]))
    torch.testing.assert_close(render(both, IMAGES).query_x, torch.cat([old.query_x, new.query_x]))
    assert torch.equal(both[slice(2, 4)].inverted, inverted)
    assert torch.equal(plan.take_images(torch.tensor([2, 0]), 1).inverted, inverted[:, :, [2, 0]])
    second = torch.tensor([[False, True], [True, False]])
    assert torch.equal(choose_slots(plain, plan, second).inverted, inverted & second[..., None])
    assert plan.to("meta").inverted.is_meta


def test_effects_are_rendered_in_their_order_not_in_that_of_the_plan():
    """What is drawn again is the joined image; what is deformed is what was drawn."""
    seen = []

    def redraw(x, z):
        seen.append(x)
        return x.flip(-1)

    plan, pasted = plan_of(deformation(), redrawing(), pasting()), plan_of(pasting())
    assert [type(effect) for effect in plan.in_rendering_order] == [Pasting, Redrawing, Deformation]
    render(plan, IMAGES, redraw=redraw)
    joined = render(pasted, IMAGES)
    slots = [x.unflatten(1, (2, -1)) for x in (joined.support_x, joined.query_x)]
    torch.testing.assert_close(seen[0], torch.cat(slots, 2)[redrawing().changes])


def test_a_plan_has_one_effect_of_a_kind_and_says_what_it_has_not():
    plan = plan_of(redrawing(), deformation())
    again = plan.having(Redrawing(torch.zeros(*SHAPE, 2)))
    assert len(again.effects) == 2
    assert (again.redraw_codes == 0).all()
    assert plan.effect(Pasting) is None
    assert plan.pasted_below is None
    with pytest.raises(AttributeError, match="a plan has no 'inverse', nor has an effect"):
        _ = plan.inverse
    for other in (pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan)):  # loader workers send plans
        assert plan_hash(other) == plan_hash(plan)
