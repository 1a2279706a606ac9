"""Evaluation episodes: what they are, and their plan, which is the same for every run on a split."""

from dataclasses import dataclass, field

from genmeta.data.splits import Part
from genmeta.episode import EpisodePlan, EpisodeShape
from genmeta.rng import make_rng
from genmeta.tasks.real import Grouping, RealTasks
from genmeta.tasks.redrawn import Redraw, RedrawnSupport
from genmeta.tasks.sampler import TaskPool, TaskSampler

EVALUATION_SEED = 0  # evaluation episodes are the same for every training seed, so that runs compare pairwise


@dataclass(frozen=True)
class Support:
    """Generated images beside each support image; see `RedrawnSupport`.

    Attributes:
        redraw: how the support image is drawn again.
        n: how many, for each support image.
        weight: their share of a class's prototype.
    """

    redraw: Redraw = field(default_factory=Redraw)
    n: int = 30
    weight: float = 0.7

    @property
    def title(self) -> str:
        """In words: `30 redrawn`, `30 elastic` if nothing learned is used."""
        return f"{self.n} {'redrawn' if self.redraw.learned else 'elastic'}"

    @property
    def suffix(self) -> str:
        """What it adds to the name of episodes: `+30redrawn`."""
        return f"+{self.title.replace(' ', '')}"


@dataclass(frozen=True)
class Episodes:
    """Fixed evaluation episodes: a shape and how many of them.

    Attributes:
        n_way, n_shot, n_query: size of an episode.
        n_episodes: how many; the 95 % interval shrinks with its square root.
        groups: classes of `any` groups, all `within` one group, or each from another (`across`); see `RealTasks`.
        support: generated images beside each support image, of the class that is tested; none by default.
    """

    n_way: int = 5
    n_shot: int = 1
    n_query: int = 15
    n_episodes: int = 600
    groups: Grouping = "any"
    support: Support | None = None

    @property
    def shape(self) -> EpisodeShape:
        """Size of one episode."""
        return EpisodeShape(self.n_way, self.n_shot, self.n_query)

    @property
    def name(self) -> str:
        """Name in metrics and hashes: `5w1s`, `20w1s_within`, `5w1s+30redrawn`."""
        return self.base_name + (self.support.suffix if self.support else "")

    @property
    def base_name(self) -> str:
        """Name of the real images in them."""
        return str(self.shape) if self.groups == "any" else f"{self.shape}_{self.groups}"

    @property
    def tasks(self) -> TaskSampler:
        """What draws the episodes; the real images are the same whatever is generated beside them."""
        tasks = RealTasks(groups=self.groups)
        if self.support is None:
            return tasks
        return RedrawnSupport(tasks, self.support.redraw, self.support.n, self.support.weight)

    def plan(self, pool: TaskPool, part: Part, split_hash: str) -> EpisodePlan:
        """Return all the episodes: the same for every run on a split.

        Args:
            pool: of the part.
            part: of the split that is evaluated on.
            split_hash: of the whole split, low data or not.
        """
        rng = make_rng(EVALUATION_SEED, part, split_hash, self.base_name, self.n_query)
        return self.tasks.sample(pool, self.shape, self.n_episodes, 0, rng)
