"""How fast meta-batches of episodes are made, against learn2learn and easyfsl, on the same images in memory.

    python benchmarks/sampling.py        # or: make bench-sampling

Each makes what a training step needs: a number of tasks, split into support and query, in four tensors. The bare
`taskset.sample()` of learn2learn, one task after the other, unsplit and thrown away, is timed too. Every round times
all contestants one after the other, and a ratio is taken within a round, so that a machine that is busier for a while
slows all of them. Times are processor times, so that waiting for a turn on the processor does not count. Before
anything is timed the episodes of each are checked: shapes, distinct classes, distinct images, labels that follow the
classes. One thread, CPU, no loader processes.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from genmeta.data.table import ImageTable
from genmeta.episode import EpisodeShape
from genmeta.learn2learn_import import import_learn2learn
from genmeta.rng import make_rng
from genmeta.tasks.real import RealTasks
from genmeta.tasks.render import gather, render, table_of_turns
from genmeta.tasks.sampler import TaskPool

N_CLASSES, PER_CLASS, SIZE = 964, 20, 28  # as Omniglot's background set
TASKS = {5: 32, 20: 16}  # tasks of a training step by way, as in MAML's experiments on Omniglot (Finn et al., 2017)
SHAPES = (EpisodeShape(5, 1, 15), EpisodeShape(20, 1, 15))
MINIMUM = {"float32": 12, "uint8": 18, "rotations": 200}  # times learn2learn: what the project holds itself to


def make_images() -> ImageTable:
    """Return noise in which the first three pixels tell the row, so that an episode can be checked from its images."""
    rows = torch.arange(N_CLASSES * PER_CLASS)
    images = torch.randint(0, 256, (len(rows), 1, SIZE, SIZE), dtype=torch.uint8, generator=make_rng("bench"))
    images[:, 0, 0, :3] = torch.stack([rows // 65536, rows // 256 % 256, rows % 256], 1).to(torch.uint8)
    names = tuple(f"class{i}" for i in range(N_CLASSES))
    return ImageTable("bench", images, rows // PER_CLASS, names, names)


class InMemory(Dataset):
    """What learn2learn and easyfsl read: pairs of an image tensor and a label."""

    def __init__(self, images: Tensor, labels: list[int]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.labels[index]

    def get_labels(self) -> list[int]:
        """Called by easyfsl."""
        return self.labels


MetaBatch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Support images `[task, way * shot, C, H, W]` and labels `[task, way * shot]`, query images and labels."""


def ours(table: ImageTable, shape: EpisodeShape, kind: str) -> Callable[[], MetaBatch]:
    """Plan and render."""
    sampler = RealTasks(rotations=kind == "rotations")
    pool = TaskPool.of(table, torch.arange(N_CLASSES))
    images = table_of_turns(table.images) if kind == "rotations" else table.images
    rng = make_rng("bench", kind, str(shape))

    def make() -> MetaBatch:
        plan = sampler.sample(pool, shape, TASKS[shape.n_way], 0, rng)
        if kind == "uint8":
            support, query = (part.flatten(1, 2) for part in gather(plan, images))
            y = plan.labels[..., None]
            return support, repeated(y, shape.n_shot), query, repeated(y, shape.n_query)
        batch = render(plan, images)
        return batch.support_x, batch.support_y, batch.query_x, batch.query_y

    return make


def repeated(labels: Tensor, n: int) -> Tensor:
    """Return each class's label for its n images."""
    return labels.expand(-1, -1, n).flatten(1)


def learn2learn_sample(table: ImageTable, shape: EpisodeShape, kind: str) -> Callable[[], tuple[Tensor, Tensor]]:
    """One task of its Taskset, as its examples use it; images and labels, class after class."""
    l2l = import_learn2learn()
    images = table.images if kind == "uint8" else table.images.float() / 255
    data = l2l.data.MetaDataset(InMemory(images, table.class_ids.tolist()))
    transforms = l2l.data.transforms
    steps = [
        transforms.FusedNWaysKShots(data, n=shape.n_way, k=shape.n_images),
        transforms.LoadData(data),
        transforms.RemapLabels(data),
        transforms.ConsecutiveLabels(data),
    ]
    if kind == "rotations":  # turns images at each access; all classes of a task by one angle (a late-binding lambda)
        steps.append(l2l.vision.transforms.RandomClassRotation(data, [0.0, 90.0, 180.0, 270.0]))
    return l2l.data.Taskset(data, task_transforms=steps, num_tasks=-1).sample


def learn2learn(table: ImageTable, shape: EpisodeShape, kind: str) -> Callable[[], MetaBatch]:
    """Tasks of its Taskset, split and stacked."""
    sample = learn2learn_sample(table, shape, kind)
    k = shape.n_shot

    def make() -> MetaBatch:
        tasks = [sample() for _ in range(TASKS[shape.n_way])]
        x = [images.unflatten(0, (shape.n_way, -1)) for images, _ in tasks]
        y = [labels.unflatten(0, (shape.n_way, -1)) for _, labels in tasks]
        parts = ([v[:, :k] for v in x], [v[:, :k] for v in y], [v[:, k:] for v in x], [v[:, k:] for v in y])
        return tuple(torch.stack(part).flatten(1, 2) for part in parts)

    return make


def easyfsl(table: ImageTable, shape: EpisodeShape, kind: str) -> Callable[[], MetaBatch]:
    """Tasks of its TaskSampler in a DataLoader, as its documentation uses it, stacked."""
    Sampler.__init__ = lambda self, data_source=None: None  # torch >= 2.14 takes no argument any more
    from easyfsl.samplers import TaskSampler

    images = table.images if kind == "uint8" else table.images.float() / 255
    data = InMemory(images, table.class_ids.tolist())
    sampler = TaskSampler(data, shape.n_way, shape.n_shot, shape.n_query, n_tasks=1_000_000)
    loader = iter(DataLoader(data, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn))

    def make() -> MetaBatch:
        tasks = [next(loader)[:4] for _ in range(TASKS[shape.n_way])]
        return tuple(torch.stack(part) for part in zip(*tasks, strict=True))

    return make


def check(batch: MetaBatch, table: ImageTable, shape: EpisodeShape, kind: str) -> None:
    """Raise AssertionError unless the episodes are what was asked for."""
    for x, y, n in ((*batch[:2], shape.n_shot), (*batch[2:], shape.n_query)):
        assert x.shape == (TASKS[shape.n_way], shape.n_way * n, 1, SIZE, SIZE), x.shape
        assert x.dtype == (torch.uint8 if kind == "uint8" else torch.float32), x.dtype
        assert (y.sort(1).values == torch.arange(shape.n_way).repeat_interleave(n)).all(), "images per label"
    x, y = torch.cat(batch[::2], 1), torch.cat(batch[1::2], 1)
    pixels = (x if kind == "uint8" else (x * 255).round()).long()
    for task, labels in zip(pixels, y.tolist(), strict=True):
        seen = [(*find(image[0], table, kind), label) for image, label in zip(task, labels, strict=True)]
        assert len(set(seen)) == len(seen), "an image twice in a task"
        classes = {(row // PER_CLASS, turn, label) for row, turn, label in seen}
        assert len(classes) == shape.n_way, "labels do not follow the classes"


def find(image: Tensor, table: ImageTable, kind: str) -> tuple[int, int]:
    """Return row and quarter turns of an image of the table: of the four readings only one is there."""
    for turn in range(4 if kind == "rotations" else 1):
        reading = torch.rot90(image, -turn)
        row = int(reading[0, 0]) * 65536 + int(reading[0, 1]) * 256 + int(reading[0, 2])
        if row < len(table.images) and torch.equal(reading, table.images[row, 0].long()):
            return row, turn
    raise AssertionError("an image that is not in the table")


def microseconds(make: Callable[[], object], tasks: int) -> float:
    """Return the processor time of a task, over at least 40 ms."""
    start, calls = time.process_time(), 0
    while (passed := time.process_time() - start) < 0.04:
        make()
        calls += 1
    return passed / calls / tasks * 1e6


def compare(table: ImageTable, rounds: int) -> list[str]:
    """Return the rows of the first table."""
    lines = []
    for shape in SHAPES:
        for kind, minimum in MINIMUM.items():
            makers = [ours(table, shape, kind), learn2learn(table, shape, kind), easyfsl(table, shape, kind)]
            makers = makers[:2] if kind == "rotations" else makers  # easyfsl has no rotated classes
            for make in makers:
                check(make(), table, shape, kind)
            contestants = [(make, TASKS[shape.n_way]) for make in makers]
            contestants.insert(2, (learn2learn_sample(table, shape, kind), 1))
            times = [[microseconds(*contestant) for contestant in contestants] for _ in range(rounds)]
            cells = [statistics.median(t[i] for t in times) for i in range(len(contestants))]
            ratios = [statistics.median(t[i] / t[0] for t in times) for i in range(len(contestants))]
            text = [f"{cell:.0f} µs, {ratio:.1f} ×" for cell, ratio in zip(cells, ratios, strict=True)]
            text = [f"{cells[0]:.1f} µs", *text[1:], *["–"] * (4 - len(text))]
            verdict = f"{minimum} ×: " + ("met" if ratios[1] >= minimum else "missed")
            name = f"{shape.n_way}-way {shape.n_shot}-shot {shape.n_query}-query, {kind}"
            lines.append(f"| {name} | " + " | ".join([*text, verdict]) + " |")
    return lines


def scaling(rounds: int) -> list[str]:
    """Return the rows of the second table: time to plan an episode, by the number of classes."""
    lines = []
    sizes = (10**2, 10**3, 10**4, 10**5)
    pools = {}
    for n in sizes:
        counts = torch.full((n,), PER_CLASS)
        pools[n] = TaskPool(counts.cumsum(0) - counts, counts, torch.arange(n) // 25)
    for shape in SHAPES:
        for sampler in (RealTasks(), RealTasks(groups="within")):
            rng = make_rng("bench")
            plans = [partial(sampler.sample, pool, shape, TASKS[shape.n_way], 0, rng) for pool in pools.values()]
            times = [[microseconds(plan, TASKS[shape.n_way]) for plan in plans] for _ in range(rounds)]
            cells = [f"{statistics.median(t[i] for t in times):.1f} µs" for i in range(len(sizes))]
            lines.append(f"| {shape.n_way}-way, groups: {sampler.groups} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="a ratio is the median over so many rounds")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("| a task of | genmeta | learn2learn | its bare sample() | easyfsl | wanted of learn2learn |")
    print("|---|---|---|---|---|---|")
    for line in compare(make_images(), rounds):
        print(line, flush=True)
    print("\n| planning a task | 100 classes | 1,000 | 10,000 | 100,000 |")
    print("|---|---|---|---|---|")
    for line in scaling(rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
