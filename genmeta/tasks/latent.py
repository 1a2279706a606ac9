"""Episodes with generated classes, and real classes with generated instances: codes `z` in the places of rows."""

from dataclasses import dataclass, field, replace

import torch

from genmeta.episode import DECODED, DECODER, REAL, REDRAWN, TABLE, EpisodePlan, EpisodeShape
from genmeta.errors import UserError
from genmeta.tasks.policies import EncodedNoise, LatentPolicy, draw_classes, possible_separation
from genmeta.tasks.sampler import Need, Provenances, TaskPool, TaskSampler
from genmeta.tasks.sampling import draw_labels, draw_turns, exact_share


@dataclass(frozen=True)
class LatentTasks(TaskSampler):
    """Episodes in which every class is generated; any way, any shot.

    Args:
        policy: how classes lie in latent space, and the images of a class around it.
        separation: smallest distance of the centres of two classes of an episode, in units of sqrt(2 · latent_dim) ·
            spread (1 is typical for two independent codes of the prior; two classes are never the same). Where the
            generator's classes lie closer together, it is halved until it can be had, and `notes` says so.
        rotations: turn each class by 0, 90, 180 or 270 degrees, as `RealTasks` does with real ones.
    """

    policy: LatentPolicy
    separation: float = 0.8
    rotations: bool = False
    _possible: dict[int, float] = field(default_factory=dict, init=False, repr=False, compare=False)  # of n_way

    @property
    def needs(self) -> frozenset[Need]:
        needs: set[Need] = {"decoder"}
        if self.policy.uses_encodings:
            needs.add("encoder")
        return frozenset(needs | {"turns"} if self.rotations else needs)

    @property
    def latent_range(self) -> tuple[float, float]:
        return 1.0, 1.0

    @property
    def _keeps_real(self) -> bool:
        return isinstance(self.policy, EncodedNoise) and self.policy.keep_real

    @property
    def provenances(self) -> Provenances:
        real = {REAL} if self._keeps_real else set()
        return Provenances(frozenset({DECODED} | real), frozenset({DECODED}))

    def prepared(self, pool: TaskPool) -> "LatentTasks":
        return replace(self, policy=self.policy.prepared(pool.space))

    def check(self, pool: TaskPool, shape: EpisodeShape) -> None:
        self._possible[shape.n_way] = possible_separation(self.policy, pool.space, shape.n_way, self.separation)

    @property
    def notes(self) -> list[str]:
        """What `check` has changed, in words."""
        return [
            f"no {n_way} classes have separation {self.separation:g} in this generator's latent space, so {possible:g} "
            "is used; classes of a generator that was trained longer may lie farther apart"
            for n_way, possible in self._possible.items()
            if possible < self.separation
        ]

    def sample(self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, rng: torch.Generator) -> EpisodePlan:
        separation = self._possible.get(shape.n_way, self.separation)
        classes = draw_classes(self.policy, pool.space, n_tasks, shape.n_way, separation, rng)
        z = self.policy.instances(classes, shape.n_images, pool.space, rng)
        rows = torch.zeros(z.shape[:3], dtype=torch.long)
        source = torch.full(z.shape[:3], DECODER, dtype=torch.int8)
        if self._keeps_real:
            assert pool.encodings is not None
            rows[..., 0], source[..., 0] = pool.encodings.rows[classes["place"]], TABLE
        turns = draw_turns(n_tasks, shape.n_way, self.rotations, rng)
        return EpisodePlan(
            n_shot=shape.n_shot,
            rows=rows,
            turns=turns,
            labels=draw_labels(n_tasks, shape.n_way, rng),
            is_generated=torch.ones(n_tasks, shape.n_way, dtype=torch.bool),
            source=source,
            z=z[source == DECODER],
        )


@dataclass(frozen=True)
class GeneratedInstances(TaskSampler):
    """Tasks in which a share of the *images* is generated: each near the encoding of the real image in its place.

    So the classes stay what they were, real ones; only their instances vary more.

    Args:
        tasks: draws the tasks; images that are not of the table stay as they are.
        policy: draws images around an image: `EncodedNoise`, `TransferredVariation`, or `PriorNoise` or `RandomOther`
            with `anchors: images`.
        share: of the images, in [0, 1].
    """

    tasks: TaskSampler
    policy: LatentPolicy
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"GeneratedInstances: share must be in [0, 1], found {self.share}")
        if not self.policy.around_images:
            raise UserError(
                f"GeneratedInstances: policy {type(self.policy).__name__} draws no images around an image; use "
                f"EncodedNoise, TransferredVariation, or another one with anchors: images"
            )

    @property
    def needs(self) -> frozenset[Need]:
        return self.tasks.needs | {"decoder", "encoder"}

    @property
    def provenances(self) -> Provenances:
        return self.tasks.provenances.with_some(DECODED, {REAL, REDRAWN}, self.share)

    def prepared(self, pool: TaskPool) -> "GeneratedInstances":
        return replace(self, tasks=self.tasks.prepared(pool), policy=self.policy.prepared(pool.space))

    def sample(self, pool: TaskPool, shape: EpisodeShape, n_tasks: int, step: int, rng: torch.Generator) -> EpisodePlan:
        plan = self.tasks.sample(pool, shape, n_tasks, step, rng)
        assert pool.encodings is not None
        chosen = exact_share(plan.rows.shape, self.share, step, rng) & (plan.source == TABLE)
        place = pool.encodings.place_of_row[plan.rows[chosen]]
        # every chosen image is a class of one image
        classes = {"place": place[None], "centre": pool.encodings.means[place][None]}
        fresh = self.policy.instances(classes, 1, pool.space, rng)[0, :, 0]
        z = torch.zeros(*plan.rows.shape, pool.space.dim)
        z[plan.source == DECODER] = plan.z if len(plan.z) else torch.zeros(0, pool.space.dim)
        z[chosen] = fresh
        source = torch.where(chosen, DECODER, plan.source.long()).to(torch.int8)
        return replace(plan, source=source, z=z[source == DECODER])
