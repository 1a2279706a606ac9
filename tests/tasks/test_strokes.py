"""Characters made of the strokes of others: thinning, tracing, editing, drawing."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_table

from genmeta.data.glyphs import Glyphs
from genmeta.data.low_data import LowData
from genmeta.data.source import DataSource
from genmeta.data.splits import Split
from genmeta.data.table import ImageTable
from genmeta.episode import DECODED, EpisodeShape
from genmeta.errors import UserError
from genmeta.models.skeleton import length, resample, thin, trace
from genmeta.models.strokes import characters_of, draw_strokes
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.rng import make_rng
from genmeta.tasks.evaluated import Episodes
from genmeta.tasks.mixed import MixedTasks
from genmeta.tasks.real import RealTasks
from genmeta.tasks.render import render
from genmeta.tasks.sampler import TaskPool
from genmeta.tasks.strokes import CODE, N_POINTS, N_STROKES, Characters, StrokeTasks, draw_characters, edited

SHAPE = EpisodeShape(6, 1, 2)


def drawing(*lines: str) -> np.ndarray:
    """An image of lines, `#` is ink."""
    return np.array([[sign == "#" for sign in line] for line in lines])


def polyline(*corners: tuple[float, float]) -> np.ndarray:
    return resample(np.array(corners, float), N_POINTS)


def code(*paths: np.ndarray, pen: float = 0.75) -> torch.Tensor:
    points = np.zeros((N_STROKES, N_POINTS, 2))
    points[: len(paths)] = np.stack(paths)
    return torch.cat([torch.from_numpy(points).float().flatten(), torch.tensor([float(len(paths)), pen])])[None]


T = (polyline((-0.5, -0.5), (0.5, -0.5)), polyline((0.0, -0.5), (0.0, 0.6)))
SLANTED = polyline((-0.4, -0.6), (0.6, 0.5))
L = (polyline((-0.4, -0.6), (-0.4, 0.5), (0.5, 0.5)),)
RING = (polyline(*[(0.5 * math.cos(a), 0.5 * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 40)]),)


def pieces(ink: np.ndarray) -> list[set[tuple[int, int]]]:
    """Pieces of ink that touch, corners too, by flooding: slow and plain."""
    left, found = {(int(row), int(column)) for row, column in np.argwhere(ink)}, []
    while left:
        edge = [left.pop()]
        found.append(set(edge))
        while edge:
            row, column = edge.pop()
            near = {(row + a, column + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            edge += near
            found[-1] |= near
    return found


def test_a_bar_becomes_a_line():
    bar = np.zeros((1, 9, 20), bool)
    bar[0, 3:6, 2:18] = True
    thinned = thin(bar)[0]
    assert thinned.sum(0).max() == 1
    assert thinned[4].sum() >= 12, "of the bar's length but for its ends"
    assert thinned.sum() == thinned[4].sum()


def test_thinning_keeps_what_is_connected_and_is_done_at_once():
    images = Glyphs().load().images[::400, 0].numpy() > 110
    thinned = thin(images)
    assert len(images) > 20
    assert np.array_equal(thin(thinned), thinned)
    assert not (thinned & ~images).any()
    for line, image in zip(thinned, images, strict=True):
        lines = pieces(line)
        for piece in pieces(image):  # a dot, a square of few pixels, may vanish
            assert sum(bool(piece & part) for part in lines) == 1 or len(piece) <= 16
    assert np.array_equal(thin(images[3:4])[0], thinned[3]), "other images do not matter"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (drawing("....#....", "....#....", "....#....", "....#....", ".#######.", "........."), [6, 4]),
        (drawing(".#.......", ".#.......", ".#.......", ".#######."), [9]),
        (drawing("....#....", "....#....", ".#######.", "....#....", "....#...."), [6, 4]),
        (drawing("#####.", "#...#.", "#...#.", "#####."), [14]),
    ],
    ids=["T upside down", "L goes round its corner", "+ goes straight on", "ring ends where it began"],
)
def test_strokes_of_thin_lines(image, expected):
    paths = trace(image, 1.0)
    # a corner of one pixel is cut by a diagonal link
    assert [len(path) - 1 for path in paths] == pytest.approx(expected, abs=4)
    assert len(paths) == len(expected)
    walked = {tuple(p) for path in paths for p in path[:, ::-1].astype(int)}
    missed = {tuple(p) for p in np.argwhere(image)} - walked
    assert len(missed) <= 4


def test_short_spurs_are_left_out():
    image = drawing("..#......", "..#......", "#########")
    assert [length(path) for path in trace(image, 3.0)] == [pytest.approx(8.0)]


def test_points_lie_at_equal_distances():
    path = np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0]])
    assert resample(path, 5) == pytest.approx(np.array([[0, 0], [1, 0], [2, 0], [3, 0], [3, 1]], float))


def test_ink_falls_with_the_exact_distance_from_the_line():
    """Against segments' exact distances, pixel by pixel."""
    images = draw_strokes(torch.cat([code(*T), code(SLANTED, pen=1.2)]), 28)
    assert images.shape == (2, 1, 28, 28)
    for image, corners, pen in (
        (images[0, 0], [[(-0.5, -0.5), (0.5, -0.5)], [(0.0, -0.5), (0.0, 0.6)]], 0.75),
        (images[1, 0], [[(-0.4, -0.6), (0.6, 0.5)]], 1.2),
    ):
        for row in range(28):
            for column in range(28):
                p = np.array([(2 * column + 1) / 28 - 1, (2 * row + 1) / 28 - 1])
                distances = []
                for a, b in np.array(corners):
                    t = np.clip((p - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
                    distances.append(np.linalg.norm(p - a - t * (b - a)) * 14)
                assert image[row, column].item() == pytest.approx(np.clip(pen - min(distances) + 0.5, 0, 1), abs=0.12)


def test_what_is_drawn_is_found_again():
    found = characters_of(draw_strokes(torch.cat([code(*T), code(*L), code(*RING)]), 28))
    assert found.count.tolist() == [2, 1, 1]
    again = torch.cat([draw_strokes(c, 28) for c in _undeformed(found)])
    drawn = draw_strokes(torch.cat([code(*T), code(*L), code(*RING)]), 28)
    for a, b in zip(again, drawn, strict=True):  # up to size and place, which are fitted
        assert a.sum() / b.sum() == pytest.approx(1.1, abs=0.35)


def _undeformed(characters: Characters) -> list[torch.Tensor]:
    codes = StrokeTasks(bend=0, stretch=0, gap=0).drawn(characters, 1, make_rng(0))
    return list(codes)


def test_a_stroke_touches_what_it_is_bound_to():
    """A T whose bar grows: its stem still begins in the middle of the bar."""
    found = characters_of(draw_strokes(code(*T), 28))
    assert found.parent[0, 1] == 0
    bar = found.paths[None, :, 0]
    paths = found.paths[:, None].clone()
    paths[:, :, 0] *= 3.0
    points = found.placed(paths, torch.zeros(1, 1, N_STROKES, 2))
    on, own = found.on[0, 1], found.own[0, 1]
    gap = (points[0, 0, 1, own] - points[0, 0, 0, on] - found.offset[0, 1]).abs().max()
    assert gap < 1e-6
    assert bar.shape[-2:] == (N_POINTS, 2)


@pytest.fixture(scope="module")
def bank() -> Characters:
    table = Glyphs().load()
    return characters_of(table.images[::60].float() / 255)


def same(a: Characters, b: Characters, i: int) -> list[bool]:
    """Which counted strokes of two characters are alike, with what they touch."""
    n = int(min(a.count[i], b.count[i]))
    return [
        torch.equal(a.paths[i, s], b.paths[i, s])
        and (s == 0 or (a.parent[i, s] == b.parent[i, s] and a.on[i, s] == b.on[i, s]).item())
        for s in range(n)
    ]


def test_an_edit_changes_one_stroke(bank):
    characters = draw_characters(bank, 300, make_rng("characters"))
    near = edited(characters, bank, make_rng("edit"))
    changed_count = near.count - characters.count
    assert set(changed_count.tolist()) == {-1, 0, 1}
    for i in range(300):
        alike = same(characters, near, i)
        if changed_count[i]:
            assert all(alike), "a stroke more or less, the others as they were"
        else:
            assert sum(not x for x in alike) <= 1
    one_changed = [sum(not x for x in same(characters, near, i)) for i in range(300) if not changed_count[i]]
    assert sum(one_changed) > 0.8 * len(one_changed), "hardly an edit changes nothing (a symmetric stroke mirrored)"


def test_edited_characters_are_possible_ones(bank):
    made = draw_characters(bank, 200, make_rng("characters"))
    for step in range(6):
        made = edited(made, bank, make_rng(step))
    assert made.count.min() >= 1
    assert made.count.max() <= N_STROKES
    assert (made.parent[:, 1:] < torch.arange(1, N_STROKES)).all()
    assert made.on.max() < N_POINTS
    assert made.own.max() < N_POINTS


def test_editing_leaves_the_bank_alone(bank):
    before = bank.paths.clone(), bank.count.clone()
    edited(draw_characters(bank, 50, make_rng(0)), bank, make_rng(1))
    assert torch.equal(bank.paths, before[0])
    assert torch.equal(bank.count, before[1])


def pool_of(bank: Characters) -> TaskPool:
    return replace(TaskPool.of(make_table(), torch.arange(4)), strokes=bank)


def test_plans_are_of_the_step_alone_and_leave_the_global_generator_alone(bank):
    state = torch.get_rng_state()
    first, second = (StrokeTasks().sample(pool_of(bank), SHAPE, 2, 0, make_rng("plan")) for _ in range(2))
    assert torch.equal(first.z, second.z)
    assert first.z.shape == (2 * 6 * 3, CODE)
    assert not torch.equal(first.z, StrokeTasks().sample(pool_of(bank), SHAPE, 2, 0, make_rng("other")).z)
    assert torch.equal(torch.get_rng_state(), state)


def test_images_of_a_class_are_nearer_to_each_other_than_to_other_classes(bank):
    """Else there is nothing to learn; in blurred pixels, which forgive the hands' differences."""
    plan = StrokeTasks().sample(pool_of(bank), EpisodeShape(8, 1, 1), 20, 0, make_rng("near"))
    images = torch.nn.functional.avg_pool2d(draw_strokes(plan.z, 28), 4).view(20, 8, 2, -1)
    nearest = torch.cdist(images[:, :, 1], images[:, :, 0]).argmin(2)
    assert (nearest == torch.arange(8)).float().mean() > 0.5
    assert ((images[:, :, 0] - images[:, :, 1]).abs().amax(2) > 0.02).all(), "no image twice"


class Letters(DataSource):
    """A few scripts of glyphs, whose last classes, those tested on, can be exchanged for noise."""

    def __init__(self, noise: bool = False, channels: int = 1) -> None:
        self.noise, self.channels = noise, channels

    def load(self) -> ImageTable:
        table = Glyphs().load()
        images = table.images[:240].expand(-1, self.channels, -1, -1).clone()
        if self.noise:
            images[120:] = torch.randint(0, 256, images[120:].shape, generator=make_rng("noise")).to(torch.uint8)
        names = tuple(f"g/{i}" for i in range(12))
        return ImageTable("letters", images, torch.arange(240) // 20, names, ("g",) * 12)


def data_of(tmp_path, monkeypatch, source: DataSource, tasks, **options) -> EpisodicDataModule:
    names = tuple(f"g/{i}" for i in range(12))
    split = Split("letters", "letters", names[:6], names[6:9], names[9:])
    monkeypatch.setattr("genmeta.modules.table_data.read_split", lambda name: split)
    shape = EpisodeShape(3, 1, 1)
    data = EpisodicDataModule(source, "letters", tasks, shape, Episodes(3, 1, 1, 2), [Episodes(3, 1, 1, 2)], **options)
    data.setup("fit")
    return data


def test_strokes_are_those_of_the_training_classes(tmp_path, monkeypatch):
    """Exchange the images of validation and test classes: the same tasks."""
    plans = [data_of(tmp_path, monkeypatch, Letters(noise), StrokeTasks()).train_plan(3) for noise in (False, True)]
    assert torch.equal(plans[0].z, plans[1].z)


def test_strokes_are_those_of_the_images_that_are_kept(tmp_path, monkeypatch):
    few = data_of(tmp_path, monkeypatch, Letters(), StrokeTasks(), low_data=LowData(images_per_class=3))
    assert few.pools["train"].strokes is not None
    assert len(few.pools["train"].strokes) <= 6 * 3


def test_they_are_mixed_with_real_tasks_and_say_what_they_are(tmp_path, monkeypatch):
    data = data_of(tmp_path, monkeypatch, Letters(), MixedTasks(RealTasks(), StrokeTasks(), share=0.5))
    batch = data.on_after_batch_transfer(data.train_plan(0), 0)
    assert batch.is_generated.all(1).sum() == 2
    generated = batch.is_generated.all(1)
    assert (batch.query_provenance[generated] == DECODED).all()
    assert (batch.query_provenance[~generated] != DECODED).all()
    assert batch.query_x.min() >= 0
    assert 0.01 < batch.query_x[generated].mean() < 0.4
    plan = data.train_plan(0)
    halves = [render(part, data.images, lambda z: draw_strokes(z, 28)).query_x for part in (plan[:2], plan[2:])]
    assert torch.equal(torch.cat(halves), batch.query_x), "two processes draw what one does"


def test_colours_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"data.train_tasks: .*one channel, found \[3, 28, 28\]"):
        data_of(tmp_path, monkeypatch, Letters(channels=3), StrokeTasks())


@pytest.mark.parametrize("options", [{"founders": 0.0}, {"bend": -1.0}, {"founders": 1.5}])
def test_numbers_out_of_range(options):
    with pytest.raises(UserError, match="StrokeTasks: founders must be in"):
        StrokeTasks(**options)
