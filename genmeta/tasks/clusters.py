"""Classes that are clusters of the encodings: real images, labels made from the latent space."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from genmeta.episode import EpisodePlan, EpisodeShape
from genmeta.errors import UserError
from genmeta.tasks.sampler import Need, TaskPool, TaskSampler
from genmeta.tasks.sampling import draw_distinct, draw_labels, draw_turns
from genmeta.tasks.space import Encodings


@dataclass(frozen=True)
class Partition:
    """One clustering of the images.

    Attributes:
        rows: table rows, int64 `[n]`, cluster by cluster.
        starts, counts: int64 `[n_clusters]`, the largest clusters first.
    """

    rows: Tensor
    starts: Tensor
    counts: Tensor

    def n_clusters(self, n_images: int) -> int:
        """Return how many clusters have that many images."""
        return int((self.counts >= n_images).sum())


@dataclass(frozen=True)
class ClusterTasks(TaskSampler):
    """CACTUs: a class is a k-means cluster of the encodings, its images are the real ones in it.

    Hsu, Levine and Finn, "Unsupervised Learning via Meta-Learning", ICLR 2019. Each partition is of encodings whose
    dimensions were scaled at random, so that the partitions differ; a task is drawn from one of them, and from its
    clusters that are large enough. The labels of the images are not used.

    Args:
        n_partitions: how many clusterings.
        n_clusters: of each.
        rotations: turn each class by 0, 90, 180 or 270 degrees.
        partitions: made by `prepared`.
    """

    n_partitions: int = 20
    n_clusters: int = 200
    rotations: bool = False
    partitions: tuple[Partition, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.n_partitions < 1 or self.n_clusters < 2:
            raise UserError(
                f"ClusterTasks: n_partitions must be at least 1 and n_clusters at least 2; found {self.n_partitions}, "
                f"{self.n_clusters}"
            )

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"encoder", "turns"} if self.rotations else {"encoder"})

    @property
    def latent_range(self) -> tuple[float, float]:
        return 1.0, 1.0

    def prepared(self, pool: TaskPool) -> "ClusterTasks":
        assert pool.encodings is not None
        if self.n_clusters > len(pool.encodings.rows):
            raise UserError(
                f"ClusterTasks: n_clusters is {self.n_clusters}, but there are {len(pool.encodings.rows)} images; use "
                "fewer clusters"
            )
        made = replace(self)
        partitions = tuple(partition(pool.encodings, self.n_clusters, n) for n in range(self.n_partitions))
        object.__setattr__(made, "partitions", partitions)
        return made

    def check(self, pool: TaskPool, shape: EpisodeShape) -> None:
        most = max((p.n_clusters(shape.n_images) for p in self.partitions), default=0)
        if most < shape.n_way:
            raise UserError(
                f"ClusterTasks: n_way is {shape.n_way}, but no partition has more than {most} clusters of n_shot + "
                f"n_query = {shape.n_images} images; lower n_clusters, which is {self.n_clusters}, or n_way"
            )

    def sample(self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, rng: torch.Generator) -> EpisodePlan:
        usable = [p for p in self.partitions if p.n_clusters(shape.n_images) >= shape.n_way]
        rows = []
        for number in torch.randint(len(usable), (n_tasks,), generator=rng).tolist():
            of = usable[number]
            cluster = draw_distinct(torch.tensor(of.n_clusters(shape.n_images)), shape.n_way, rng)
            places = of.starts[cluster][:, None] + draw_distinct(of.counts[cluster], shape.n_images, rng)
            rows.append(of.rows[places])
        turns = draw_turns(n_tasks, shape.n_way, self.rotations, rng)
        labels = draw_labels(n_tasks, shape.n_way, rng)
        return EpisodePlan.of_rows(shape.n_shot, torch.stack(rows), turns, labels, latent=True)


def partition(encodings: Encodings, n_clusters: int, number: int) -> Partition:
    """Return the clustering of this number: k-means of the encodings, each dimension scaled by a draw of N(0, 1)."""
    from sklearn.cluster import KMeans

    scale = torch.randn(encodings.means.shape[1], generator=torch.Generator().manual_seed(number))
    codes = (encodings.means * scale).double().numpy()
    found = torch.from_numpy(KMeans(n_clusters, n_init=1, random_state=number).fit(codes).labels_).long()
    counts = torch.bincount(found, minlength=n_clusters)
    order = counts.argsort(descending=True, stable=True)
    rank = order.argsort()[found]
    return Partition(encodings.rows[rank.argsort(stable=True)], counts[order].cumsum(0) - counts[order], counts[order])
