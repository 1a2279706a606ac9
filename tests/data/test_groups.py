"""Episodes within one group, across groups, or of any; and what sampling costs."""

import pytest
import torch
from conftest import OMNIGLOT, ROOT, make_table
from torch.utils._python_dispatch import TorchDispatchMode

from genmeta.data.omniglot_minimal import OmniglotMinimal
from genmeta.data.source import DataSource
from genmeta.data.splits import load_split
from genmeta.data.table import ImageTable
from genmeta.episode import EpisodeShape, plan_hash
from genmeta.errors import UserError
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.rng import make_rng
from genmeta.tasks.evaluated import Episodes
from genmeta.tasks.real import RealTasks
from genmeta.tasks.render import gather, render, table_of_turns
from genmeta.tasks.sampler import TaskPool
from genmeta.tasks.sampling import argsort_rows

SIZES = {"small": 3, "middle": 5, "large": 9}  # classes of each group


def grouped_table(sizes=SIZES, per_class=6) -> ImageTable:
    """Groups whose classes do not stand together, so that a group is no range of classes."""
    names = [f"{group}/{i}" for i in range(max(sizes.values())) for group, n in sizes.items() if i < n]
    images = torch.randint(0, 256, (len(names) * per_class, 1, 4, 4), dtype=torch.uint8, generator=make_rng(0))
    ids = torch.arange(len(names)).repeat_interleave(per_class)
    return ImageTable("grouped", images, ids, tuple(names), tuple(name.split("/")[0] for name in names))


TABLE = grouped_table()
POOL = TaskPool.of(TABLE, torch.arange(len(TABLE.class_names)))


def classes_and_groups(plan):
    classes = TABLE.class_ids[plan.rows[..., 0]]
    assert (TABLE.class_ids[plan.rows] == classes[..., None]).all(), "a slot holds one class"
    return classes.tolist(), [[TABLE.groups[c] for c in task] for task in classes.tolist()]


@pytest.mark.parametrize("rotations", [False, True])
def test_within_takes_all_classes_and_their_turn_from_one_group_with_enough_classes(rotations):
    plan = RealTasks(rotations, "within").sample(POOL, EpisodeShape(4, 1, 2), 3000, 0, make_rng(1))
    classes, groups = classes_and_groups(plan)
    assert all(len(set(task)) == 4 for task in classes)
    assert {tuple(sorted(set(task))) for task in groups} == {("middle",), ("large",)}, "small has only 3 classes"
    assert (plan.turns == plan.turns[:, :1]).all(), "an alphabet is turned as a whole"
    of_group = [task[0] for task in groups]
    assert 1350 < of_group.count("middle") < 1650, "groups are drawn uniformly, whatever their size"
    assert len({c for task in classes for c in task}) == 14, "every class of the two groups comes up"
    counts = torch.bincount(plan.turns[:, 0], minlength=4)
    assert (counts > 600).all() if rotations else counts.tolist() == [3000, 0, 0, 0]
    assert (plan.rows.sort(2).values.diff(dim=2) > 0).all(), "no image is both support and query"


@pytest.mark.parametrize("rotations", [False, True])
def test_across_takes_each_class_from_another_group(rotations):
    plan = RealTasks(rotations, "across").sample(POOL, EpisodeShape(3, 1, 2), 3000, 0, make_rng(1))
    classes, groups = classes_and_groups(plan)
    turned = [list(zip(g, t, strict=True)) for g, t in zip(groups, plan.turns.tolist(), strict=True)]
    assert all(len(set(task)) == 3 for task in turned)
    if not rotations:
        assert all(len(set(task)) == 3 for task in groups)
    counts = torch.bincount(torch.tensor(classes).flatten(), minlength=17)
    for group, size in SIZES.items():  # groups uniformly, then the classes of a group uniformly
        expected = 3000 / size
        members = counts[[g == group for g in TABLE.groups]]
        assert (members > 0.75 * expected).all()
        assert (members < 1.25 * expected).all()


def test_across_with_rotations_counts_a_turned_group_as_another():
    sampler = RealTasks(rotations=True, groups="across")
    sampler.check(POOL, EpisodeShape(12, 1, 2))
    plan = sampler.sample(POOL, EpisodeShape(12, 1, 2), 10, 0, make_rng(0))
    _, groups = classes_and_groups(plan)
    for task, turns in zip(groups, plan.turns.tolist(), strict=True):
        assert sorted(zip(task, turns, strict=True)) == [(g, t) for g in sorted(SIZES) for t in range(4)]


@pytest.mark.parametrize("groups", ["within", "across"])
def test_a_meta_batch_follows_from_its_generator_alone(groups):
    sampler, shape = RealTasks(True, groups), EpisodeShape(3, 1, 2)
    state = torch.get_rng_state()
    first = plan_hash(sampler.sample(POOL, shape, 6, 3, make_rng(0, 3)))
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert plan_hash(sampler.sample(POOL, shape, 6, 9, make_rng(0, 3))) == first
    assert plan_hash(sampler.sample(POOL, shape, 6, 3, make_rng(0, 4))) != first


def test_draws_never_change():
    """Changing these changes every experiment and every figure in the documents."""
    hashes = {"any": "79ccfdee4090229e", "within": "8e3e8fc9989d78b9", "across": "f516bb262ec82fec"}
    for groups, expected in hashes.items():
        plan = RealTasks(True, groups).sample(POOL, EpisodeShape(3, 1, 2), 6, 0, make_rng(0))
        assert plan_hash(plan) == expected, groups


@pytest.mark.parametrize(
    ("sampler", "n_way", "message"),
    [
        (RealTasks(groups="within"), 10, "n_way is 10 within one group, but the largest of the 3 groups has only 9"),
        (RealTasks(True, "within"), 10, "largest of the 3 groups has only 9"),
        (RealTasks(groups="across"), 4, "n_way is 4, but there are only 3 groups"),
        (RealTasks(True, "across"), 13, "n_way is 13, but there are only 12 groups"),
    ],
)
def test_too_few_classes_or_groups_are_refused_with_the_numbers(sampler, n_way, message):
    with pytest.raises(UserError, match=message):
        sampler.check(POOL, EpisodeShape(n_way, 1, 2))


def test_another_word_for_groups_is_refused():
    with pytest.raises(UserError, match="one of any, within, across, found 'inside'"):
        RealTasks(groups="inside")


def test_groups_of_one_class_each_and_one_group_of_all():
    alone = TaskPool(torch.arange(5) * 4, torch.full((5,), 4), torch.arange(5))
    with pytest.raises(UserError, match="only 1 classes"):
        RealTasks(groups="within").check(alone, EpisodeShape(2, 1, 1))
    plan = RealTasks(groups="across").sample(alone, EpisodeShape(5, 1, 1), 20, 0, make_rng(0))
    assert all(sorted(task) == [0, 1, 2, 3, 4] for task in (plan.rows[..., 0] // 4).tolist())
    together = TaskPool(alone.starts, alone.counts, torch.zeros(5, dtype=torch.long))
    plan = RealTasks(groups="within").sample(together, EpisodeShape(5, 1, 1), 20, 0, make_rng(0))
    assert all(sorted(task) == [0, 1, 2, 3, 4] for task in (plan.rows[..., 0] // 4).tolist())


def test_evaluation_within_groups_has_a_name_of_its_own_and_leaves_the_other_episodes_alone(toy_data):
    toy_data.setup("test")
    before = toy_data.eval_hashes("test")
    assert set(before) == {"test/5w1s", "test/5w5s"}
    toy_data.test = (*toy_data.test, Episodes(7, 1, 5, n_episodes=21, groups="within"))
    toy_data.table = None
    with pytest.raises(UserError, match=r"data\.test\.2: n_way is 7 within .* only 6 classes.*part 'test'"):
        toy_data.setup("test")  # the toy's six test classes are one group
    toy_data.test = (*toy_data.test[:2], Episodes(5, 1, 5, n_episodes=21, groups="within"))
    toy_data.setup("test")
    after = toy_data.eval_hashes("test")
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"test/5w1s_within"}


def test_shipped_test_within_an_alphabet_can_be_drawn():
    if not OMNIGLOT.is_dir():
        pytest.skip("the Omniglot zip files are not here")
    import yaml

    entries = yaml.safe_load((ROOT / "configs/test/omniglot_minimal_within.yaml").read_text())["data"]["init_args"]
    (episodes,) = [Episodes(**entry) for entry in entries["test"]]
    assert episodes.name == "20w1s_within"
    images, split = OmniglotMinimal(str(OMNIGLOT)).load(), load_split("omniglot_minimal")
    pool = TaskPool.of(images, split.class_ids(images, "test"))
    episodes.tasks.check(pool, episodes.shape)
    plan = episodes.tasks.sample(pool, episodes.shape, 50, 0, make_rng(0))
    alphabets = [{images.groups[c] for c in task} for task in images.class_ids[plan.rows[..., 0]].tolist()]
    assert {tuple(a) for a in alphabets} == {("Japanese_(katakana)",), ("Sanskrit",)}


def test_the_table_of_four_rotations_gives_the_same_images_as_turning():
    sampler = RealTasks(rotations=True)
    plan = sampler.sample(POOL, EpisodeShape(5, 2, 3), 8, 0, make_rng(0))
    assert len(plan.turns.unique()) == 4
    one, other = gather(plan, TABLE.images), gather(plan, table_of_turns(TABLE.images))
    assert one[0].dtype == torch.uint8
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)
    slow = torch.stack(
        [
            torch.stack([torch.rot90(TABLE.images[row], int(turn), (1, 2)) for row in rows])
            for rows, turn in zip(plan.rows.flatten(0, 1), plan.turns.flatten(), strict=True)
        ]
    ).unflatten(0, (8, 5))
    assert torch.equal(torch.cat(one, 2), slow)
    batch = render(plan, table_of_turns(TABLE.images))
    assert torch.equal(batch.support_x, (slow[:, :, :2].float() / 255).flatten(1, 2)), "bit for bit"
    assert torch.equal(batch.query_x, (slow[:, :, 2:].float() / 255).flatten(1, 2))


@pytest.mark.parametrize("limit", [0, 2**30])
def test_training_with_rotations_is_the_same_with_and_without_the_table(toy_data, monkeypatch, limit):
    monkeypatch.setattr("genmeta.modules.episodic_data.TURNED_TABLE_BYTES", limit)
    toy_data.train_tasks = RealTasks(rotations=True)
    toy_data.setup("fit")
    assert toy_data.images.dim() == (5 if limit else 4)
    plan = toy_data.train_plan(0)
    batch = toy_data.on_after_batch_transfer(plan, 0)
    assert torch.equal(batch.query_x, render(plan, toy_data.table.images).query_x)


def test_rotations_of_oblong_images_are_refused(toy_data):
    class Oblong(DataSource):
        def load(self):
            table = make_table()
            return ImageTable("toy", table.images[..., :8], table.class_ids, table.class_names, table.groups)

    data = EpisodicDataModule(
        Oblong(), toy_data.split_name, RealTasks(rotations=True), EpisodeShape(5, 1, 4), Episodes(5, 1, 5, 20), []
    )
    with pytest.raises(UserError, match=r"rotations need square images, but the data have \[1, 16, 8\]"):
        data.setup("fit")


@pytest.mark.parametrize("shape", [(7,), (40, 3), (4, 5, 20)])
def test_argsort_rows_equals_a_stable_argsort_also_where_keys_are_equal(shape):
    keys = torch.rand(shape, generator=make_rng(0))
    assert torch.equal(argsort_rows(keys), keys.argsort(dim=-1, stable=True))
    coarse = (keys * 3).round()
    assert torch.equal(argsort_rows(coarse), coarse.argsort(dim=-1, stable=True))


class Work(TorchDispatchMode):
    """Counts torch operations and the numbers that they return."""

    def __init__(self):
        super().__init__()
        self.operations = self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        self.numbers += out.numel() if isinstance(out, torch.Tensor) else 0
        return out


@pytest.mark.parametrize("groups", ["any", "within", "across"])
@pytest.mark.parametrize("n_way", [5, 20])
def test_sampling_does_not_cost_more_with_more_classes(groups, n_way):
    work = {}
    for n_classes in (10**2, 10**5):
        counts = torch.full((n_classes,), 20)
        pool = TaskPool(counts.cumsum(0) - counts, counts, torch.arange(n_classes) // 25)
        sampler, shape = RealTasks(groups=groups, rotations=True), EpisodeShape(n_way, 1, 15)
        if groups == "across" and n_way > 16:
            pool = TaskPool(pool.starts, pool.counts, torch.arange(n_classes) // 10)
        assert len(pool.groups.sizes)  # made once, when a run starts
        with Work() as done:
            sampler.sample(pool, shape, 16, 0, make_rng(0))
        work[n_classes] = (done.operations, done.numbers)
    # more classes are drawn directly instead of ranked, so it may even be less; repetitions are drawn again
    assert work[10**5][0] <= work[10**2][0] + 12
    assert work[10**5][1] <= 1.2 * work[10**2][1]
