"""Whether each image of a batch is real, redrawn or decoded: what the batch says is what was rendered."""

from dataclasses import replace

import pytest
import torch
from conftest import make_table

from genmeta.episode import DECODED, PROVENANCE, REAL, REDRAWN, EpisodeBatch, EpisodeShape
from genmeta.modules.pictures import FRAMES, draw_episode, support_width, with_legend
from genmeta.rng import make_rng
from genmeta.tasks.bank import BankedTasks
from genmeta.tasks.elastic import Elastic
from genmeta.tasks.latent import GeneratedInstances, LatentTasks
from genmeta.tasks.mixed import MixedTasks
from genmeta.tasks.policies import EncodedNoise, PriorNoise
from genmeta.tasks.prior import GaussianMixture
from genmeta.tasks.real import RealTasks
from genmeta.tasks.redrawn import DeformedClasses, Redraw, RedrawnSupport, RedrawnTasks, SingleImageTasks
from genmeta.tasks.render import render
from genmeta.tasks.sampler import TaskPool
from genmeta.tasks.share import Linear
from genmeta.tasks.space import Encodings

DIM, K = 4, 3
TABLE = replace(make_table(counts=(20,)), images=make_table(counts=(20,)).images.clamp(max=127))  # below 0.5
POOL = replace(TaskPool.of(TABLE, torch.arange(12)), prior=GaussianMixture.standard(DIM), redraw_dim=K)
CODES = torch.randn(240, DIM, generator=make_rng(0))
POOL = replace(POOL, encodings=Encodings(CODES, CODES.abs(), POOL.all_rows, POOL.starts, POOL.counts))
SHAPE = EpisodeShape(4, 2, 3)
REDRAW, ELASTIC = Redraw(1.0), Redraw(0.0, Elastic())
REAL_TASKS = RealTasks(rotations=True)
CODED = LatentTasks(PriorNoise(), 0.0)


def decode(z: torch.Tensor) -> torch.Tensor:
    """Grey that no real and no redrawn image has."""
    return torch.full((len(z), 1, 16, 16), 0.9)


def redraw(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Another grey, but a decoded image stays one."""
    return torch.where(x > 0.8, x, torch.full_like(x, 0.6))


def kind_by_pixels(x: torch.Tensor) -> torch.Tensor:
    brightest = x.flatten(2).amax(2)
    return torch.where(brightest > 0.8, DECODED, torch.where(brightest > 0.55, REDRAWN, REAL))


def rendered(tasks, step: int = 0) -> EpisodeBatch:
    plan = tasks.sample(POOL, SHAPE, 6, step, make_rng(step))
    if plan.period is None:
        return render(plan, TABLE.images, decode, redraw)
    (banked,) = [part for part in tasks.walk() if isinstance(part, BankedTasks)]
    filling = banked.fill(POOL, SHAPE, 0, make_rng("bank"))
    filled = render(filling, TABLE.images, decode, redraw)
    by_slot = [x.unflatten(1, (SHAPE.n_way, -1)) for x in (filled.support_x, filled.query_x)]
    bank = (torch.cat(by_slot, 2).flatten(0, 2) * 255).round().to(torch.uint8)
    return render(plan, TABLE.images, decode, redraw, bank, filling.provenance().flatten())


R, H, D = "real", "redrawn", "decoded"
CASES = {
    # what support images may be, what query images may be, whether classes are made up
    "real": (REAL_TASKS, {R}, {R}, 0),
    "deformed images": (RedrawnTasks(REAL_TASKS, ELASTIC), {R}, {R}, 0),
    "a share redrawn": (RedrawnTasks(REAL_TASKS, REDRAW, 0.5), {R, H}, {R, H}, 0),
    "all redrawn": (RedrawnTasks(REAL_TASKS, REDRAW), {H}, {H}, 0),
    "queries redrawn": (RedrawnTasks(REAL_TASKS, REDRAW, 0.5, "query"), {R}, {R, H}, 0),
    "support redrawn": (RedrawnSupport(REAL_TASKS, REDRAW, 3), {R, H}, {R}, 0),
    "support deformed": (RedrawnSupport(REAL_TASKS, ELASTIC, 3), {R}, {R}, 0),
    "decoded": (CODED, {D}, {D}, 1),
    "decoded around a real one": (LatentTasks(EncodedNoise(keep_real=True), 0.0), {R, D}, {D}, 1),
    "decoded, then redrawn": (RedrawnTasks(CODED, REDRAW), {D}, {D}, 1),
    "mixed": (MixedTasks(REAL_TASKS, CODED), {R, D}, {R, D}, 0.5),
    "mixed within tasks": (MixedTasks(REAL_TASKS, CODED, per="class"), {R, D}, {R, D}, 0.5),
    "mixed, no share": (MixedTasks(REAL_TASKS, CODED, 0.0), {R}, {R}, 0),
    "all three": (MixedTasks(RedrawnTasks(REAL_TASKS, REDRAW, 0.5), CODED), {R, H, D}, {R, H, D}, 0.5),
    "decoded instances": (GeneratedInstances(REAL_TASKS, EncodedNoise(), 0.5), {R, D}, {R, D}, 0),
    "decoded instances of redrawn": (
        GeneratedInstances(RedrawnTasks(REAL_TASKS, REDRAW), EncodedNoise(), 0.5),
        {H, D},
        {H, D},
        0,
    ),
    "made-up classes of single images": (RedrawnTasks(SingleImageTasks(), ELASTIC, which="query"), {R}, {R}, 1),
    "deformed classes": (DeformedClasses(REAL_TASKS, Elastic()), {R}, {R}, 1),
    "a bank of decoded ones": (BankedTasks(CODED, 8), {D}, {D}, 1),
    "a bank of redrawn queries": (
        BankedTasks(RedrawnTasks(REAL_TASKS, REDRAW, which="query"), 8),
        {R, H},
        {R, H},
        0,
    ),
    "a bank, redrawn": (RedrawnTasks(BankedTasks(REAL_TASKS, 8), REDRAW, 0.5), {R, H}, {R, H}, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_the_batch_says_of_each_image_what_was_rendered(case):
    """Also for a redrawn image of a bank, and codes on an image that was redrawn before."""
    tasks, support, query, made_up = CASES[case]
    found: list[set[int]] = [set(), set()]
    for step in range(4):
        batch = rendered(tasks, step)
        for kinds, x, said in (
            (found[0], batch.support_x, batch.support_provenance),
            (found[1], batch.query_x, batch.query_provenance),
        ):
            assert said.dtype == torch.int8
            assert torch.equal(said.long(), kind_by_pixels(x))
            kinds |= set(said.flatten().tolist())
        assert batch.is_generated.float().mean() == made_up
    expected = tasks.provenances
    assert found == [expected.support, expected.query]
    assert [expected.support, expected.query] == [{PROVENANCE[name] for name in of} for of in (support, query)]


def test_a_schedule_that_begins_without_generated_tasks_may_have_them_later():
    tasks = MixedTasks(REAL_TASKS, CODED, Linear(0.0, 1.0, 100))
    assert tasks.provenances.query == {REAL, DECODED}


def test_parts_of_a_batch_keep_the_provenance_of_their_images():
    batch = rendered(CASES["all three"][0])
    part = batch[2:4].to("cpu")
    assert torch.equal(part.query_provenance, batch.query_provenance[2:4])
    assert torch.equal(part.support_provenance, batch.support_provenance[2:4])


def test_the_picture_frames_each_image_by_its_own_provenance_and_says_what_colours_mean():
    """Frames were by class: a class of redrawn images was all blue."""
    batch = rendered(RedrawnTasks(REAL_TASKS, REDRAW, 0.5))
    picture = draw_episode(batch, 0)
    tile, gap = 16 + 4, 8
    order = batch.support_y[0].argsort(stable=True)
    names = list(FRAMES)
    for place, i in enumerate(order.tolist()):
        colour = torch.tensor(FRAMES[names[int(batch.support_provenance[0, i])]])
        assert torch.equal(picture[:, 0, place * tile], colour)
        torch.testing.assert_close(
            picture[:, 2:-2, place * tile + 2 : place * tile + 18], batch.support_x[0, i].expand(3, -1, -1)
        )
    queries = batch.query_y[0].argsort(stable=True).tolist()
    start = len(order) * tile + gap
    colours = [picture[:, 0, start + place * tile] for place in range(len(queries))]
    assert [names[int(batch.query_provenance[0, i])] for i in queries] == [
        next(name for name in names if torch.equal(colour, torch.tensor(FRAMES[name]))) for colour in colours
    ]
    assert support_width(batch) == start - gap
    whole, head = with_legend([picture, picture], support_width(batch)), 14
    assert torch.equal(whole[:, head : head + 2 * tile, : picture.shape[2]], torch.cat([picture, picture], 1))
    written = (whole[0, :head] < 0.5).any(0).nonzero().flatten()
    assert written.min() < 10, "the word support, above the support images"
    assert ((written >= start) & (written < start + 10)).any(), "the word queries, where the queries begin"
    below = whole[:, head + 2 * tile :].flatten(1).mT
    for colour in FRAMES.values():
        assert (below - torch.tensor(colour)).abs().amax(1).lt(0.01).any()
    assert with_legend([picture[:, :, :30]], 20).shape[2] >= 160, "the legend has room beside small episodes"
