"""Aligned comparison: the support image is moved onto the query before the two are compared.

What differs between two drawings of one character is mostly a smooth deformation. A metric learner must become blind to
it; here it is inferred for every pair (`genmeta.models.registration`), and a network judges what it could not explain.
"""

from copy import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError, require_positive
from genmeta.learners.embedding import embed, require_own_statistics
from genmeta.learners.learner import Learner, check_image_shape, cross_entropy
from genmeta.learners.metric import prototypes, squared_distances
from genmeta.models.registration import (
    BLURS,
    Registered,
    Registration,
    bending,
    identity_grid,
    pair_features,
    relative_errors,
    scales,
)


class Energy(nn.Module):
    """How badly one image, moved, goes with another: a small network on what is left, plus weighted sums of it.

    Args:
        channels: feature maps of the first layer; twice as many in the others.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.look = pair_features(3 * len(BLURS) + 2, channels, n_more=1)
        self.judge = nn.Linear(4 * channels, 1)  # of means and maxima of 2 * channels features
        self.sums = nn.Linear(len(BLURS) + 2, 1, bias=False)
        nn.init.zeros_(self.judge.weight)
        with torch.no_grad():  # begins as the error of the registration
            self.sums.weight.copy_(torch.tensor([[1.0] * len(BLURS) + [0.01, 0.1]]))

    def forward(self, registered: Registered, fixed: Tensor) -> Tensor:
        """Return energies `[n]` of images moved onto `fixed`, `[n, 3, H, W]` as `scales` gives it."""
        difference = (registered.moved - fixed).abs()
        field = registered.displacement.permute(0, 3, 1, 2)
        features = self.look(torch.cat([registered.moved, fixed, difference, field], 1))
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1).to(fixed.dtype)
        errors = relative_errors(registered.moved, fixed)
        sums = torch.cat([errors, torch.log1p(bending(registered.displacement))[:, None], _affine_size(registered)], 1)
        return (self.judge(pooled) + self.sums(sums)).squeeze(1).to(fixed.dtype)


def _affine_size(registered: Registered) -> Tensor:
    return registered.affines.sum(1).square().flatten(1).sum(1, keepdim=True)


class AlignedRelation(Learner):
    """Reranks the nearest classes of a metric learner by what a learned registration leaves unexplained.

    A ProtoNet of its own names `candidates` classes for each query; each of their support images is registered onto
    the query and the query onto it, and the logit is minus the sum of the two energies, so it is symmetric. Classes
    that are no candidates stand below them, in the order of the ProtoNet. Each query is judged alone (inductive).

    Trained by the cross-entropy over the true class and the hardest others, plus the ProtoNet's cross-entropy, plus
    `registration_weight` times the registration error of true pairs. In training a query is compared in one direction
    only, every other query in the other one: two steps for the price of one.

    Args:
        backbone: images `[n, C, H, W]` to features `[n, d]`, of the ProtoNet; its batch norm must keep running
            statistics.
        candidates: classes that are compared with a query.
        rivals: hardest other classes that a training query is told from.
        channels: feature maps of the first layers of registration and energy.
        stages: of the registration; 0 compares without alignment, the control.
        registration_weight: of the registration error of true pairs in the loss.
        chunk: pairs that are compared at a time in evaluation, for the cache's sake.

    Raises:
        UserError: the backbone uses batch statistics, or a size is out of range.
    """

    compiles = False

    def __init__(
        self,
        backbone: nn.Module,
        candidates: int = 6,
        channels: int = 32,
        stages: int = 2,
        registration_weight: float = 0.3,
        chunk: int = 128,
        rivals: int = 3,
    ) -> None:
        super().__init__()
        require_own_statistics(backbone, "AlignedRelation")
        require_positive("AlignedRelation", channels=channels, chunk=chunk, rivals=rivals)
        if candidates < 2 or stages < 0 or registration_weight < 0:
            raise UserError(
                f"AlignedRelation: candidates must be at least 2, stages and registration_weight at least 0; "
                f"found {candidates}, {stages}, {registration_weight}"
            )
        self.backbone, self.candidates, self.chunk = backbone, candidates, chunk
        self.registration_weight, self.rivals = registration_weight, rivals
        self.registration = Registration(channels, stages) if stages else None
        self.energy = Energy(channels)

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self.backbone, image_shape)
        if image_shape[1] % 4 or image_shape[2] % 4:
            raise UserError(f"AlignedRelation: height and width must be multiples of 4, found {list(image_shape)}")

    def register(self, moving: Tensor, fixed: Tensor) -> Registered:
        """Move images onto others, both as `scales` gives them."""
        if self.registration is not None:
            return self.registration(moving, fixed)
        n, _, height, width = moving.shape
        zeros = moving.new_zeros
        return Registered(moving, zeros(n, height, width, 2), zeros(n, 0, 2, 3))

    def forward(self, batch: EpisodeBatch) -> Tensor:
        near = self._near(batch).to(batch.query_x.dtype)
        k = min(self.candidates, batch.n_way)
        chosen = near.topk(k, dim=2).indices
        scores, _ = self._scores(batch, chosen)
        # the others stand below every candidate, in their order; by a logarithm, so that fusion can still lift one
        behind = near.gather(2, chosen).amin(2, keepdim=True) - near
        lower = scores.amin(2, keepdim=True) - torch.log1p(behind.clamp(min=0))
        return lower.scatter(2, chosen, scores)

    def loss(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        near = self._near(batch)
        truth = batch.query_y[..., None]
        n_others = min(self.rivals, batch.n_way - 1)
        others = near.detach().scatter(2, truth, -torch.inf).topk(n_others, dim=2).indices
        chosen = torch.cat([truth, others], 2)
        scores, error = self._scores(batch, chosen)
        loss = F.cross_entropy(scores.flatten(0, 1), torch.zeros_like(batch.query_y).flatten())
        loss = loss + cross_entropy(near, batch.query_y) + self.registration_weight * error
        with torch.no_grad():
            logits = scores.new_full(near.shape, -torch.inf).scatter(2, chosen, scores)
        return loss, logits

    def moved(self, support: Tensor, query: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if self.registration is not None:
            moving, fixed, identity = scales(support), scales(query), identity_grid(support)
            for stage in range(1, self.registration.stages + 1):
                first = copy(self.registration)  # the same weights
                first.stages = stage
                places = identity + first(moving, fixed).displacement
                found[f"stage {stage}"] = F.grid_sample(support, places, align_corners=False)
        return found

    def _near(self, batch: EpisodeBatch) -> Tensor:
        support, query = embed(self.backbone, batch)
        return -squared_distances(query, prototypes(support, batch.support_y, batch.n_way, batch.support_weight))

    def _scores(self, batch: EpisodeBatch, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits `[task, query, k]` for classes `[task, query, k]`, and the registration error of the first."""
        n_tasks, n_query, k = chosen.shape
        n_shot = batch.support_y.shape[1] // batch.n_way
        # support images by label: [task, way, shot]
        places = batch.support_y.argsort(dim=1, stable=True).view(n_tasks, batch.n_way, n_shot)
        task = torch.arange(n_tasks, device=chosen.device)[:, None, None]
        support = places[task, chosen]  # [task, query, k, shot]
        a = scales(batch.support_x.flatten(0, 1))
        b = scales(batch.query_x.flatten(0, 1))
        first = (support + task[..., None] * batch.support_y.shape[1]).flatten()
        second = (torch.arange(n_tasks * n_query, device=chosen.device)[:, None].expand(-1, k * n_shot)).flatten()
        if self.training:
            energies, errors = self._one_way(a.index_select(0, first), b.index_select(0, second), second % 2 == 1)
        else:
            parts = zip(first.split(self.chunk), second.split(self.chunk), strict=True)
            found = [self._both_ways(a.index_select(0, i), b.index_select(0, j)) for i, j in parts]
            energies, errors = (torch.cat(x) for x in zip(*found, strict=True))
        shots = -energies.view(n_tasks, n_query, k, n_shot)
        scores = shots.logsumexp(3) - torch.log(torch.tensor(float(n_shot), device=shots.device))
        return scores, errors.view(n_tasks, n_query, k, n_shot)[:, :, 0].mean()

    def energies(self, a: Tensor, b: Tensor) -> Tensor:
        """Return how badly images go with others, `[n]`, both `[n, 3, H, W]` as `scales` gives them: a moved onto b
        plus b moved onto a.
        """
        return self._both_ways(a, b)[0]

    def _one_way(self, a: Tensor, b: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """Return twice the energies and registration errors `[n]` of a onto b, or of b onto a where `back`, `[n]`."""
        back = back[:, None, None, None]
        moving, fixed = torch.where(back, b, a), torch.where(back, a, b)
        registered = self.register(moving, fixed)
        return 2 * self.energy(registered, fixed), 2 * relative_errors(registered.moved, fixed).sum(1)

    def _both_ways(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies and registration errors `[n]` of a onto b plus b onto a."""
        moving, fixed = torch.cat([a, b]), torch.cat([b, a])
        registered = self.register(moving, fixed)
        energy = self.energy(registered, fixed)
        error = relative_errors(registered.moved, fixed).sum(1)
        return sum(energy.chunk(2)), sum(error.chunk(2))  # type: ignore[return-value]
