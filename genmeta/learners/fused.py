"""Several learners, one answer: a weighted sum of their logits."""

from collections.abc import Sequence
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.checkpoint import load_learner
from genmeta.learners.learner import Learner, check_image_shape
from genmeta.models.checkpoint import KEY, FromCheckpoint, read_checkpoint


class Trained(FromCheckpoint, Learner):
    """A trained learner from its checkpoint, as it is: evaluation mode, no gradient.

    Args:
        checkpoint: of `genmeta fit`, of the same split. The checkpoint of a learner that contains this one carries the
            weights; then `checkpoint` is None and `learner` is given.
        learner: in place of `checkpoint`, the learner itself.

    Attributes:
        without_file: arguments that build it again without the file.

    Raises:
        UserError: not exactly one of checkpoint and learner is given, or the file is no learner's checkpoint.
    """

    compiles = False

    def __init__(self, checkpoint: str | None = None, learner: nn.Module | None = None) -> None:
        super().__init__()
        if (checkpoint is None) == (learner is None):
            raise UserError("Trained: expected the path of a learner's checkpoint, or the learner itself")
        self.checkpoint = checkpoint
        self.without_file: dict[str, Any] = {}
        if checkpoint is not None:
            loaded = load_learner(checkpoint)
            learner, self.image_shape = loaded.learner, loaded.image_shape
            self.origin = loaded.seen.origin
            self.without_file = {"checkpoint": None, "learner": read_checkpoint(checkpoint)[KEY]["learner"]}
        assert learner is not None
        self.learner = learner.requires_grad_(False).train()  # as any new network, until it is used

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self, image_shape)
        assert isinstance(self.learner, Learner)
        self.learner.check(shape, image_shape)

    def forward(self, batch: EpisodeBatch) -> Tensor:
        self.learner.eval()  # whatever mode the module around it is in
        with torch.no_grad():
            return self.learner(batch)

    def moved(self, support: Tensor, query: Tensor) -> dict[str, Tensor]:
        self.learner.eval()
        return self.learner.moved(support, query)  # type: ignore[operator]


class Fused(Learner):
    """Logits are `Σ w_m · (logits of member m)` with positive weights, which are all that is trained.

    Members that were trained know their own classes too well to say how far each is to be trusted: fit the weights on
    classes that none of them was trained on (`data.train_part: val`), never on test classes. With the first batch that
    it learns from each weight starts where its member's logits have a standard deviation of 1 over the classes, so that
    members of any scale begin alike. Tested without training, it is the mean of the members' logits: an ensemble of the
    same learner, trained with several seeds.

    Args:
        members: learners; trained ones as `Trained`.

    Raises:
        UserError: there is no member.
    """

    compiles = False

    started: Tensor

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise UserError("Fused: members: expected at least one learner, found none")
        self.members = nn.ModuleList(members).requires_grad_(False)
        self.log_weight = nn.Parameter(torch.full((len(members),), -log(len(members))))
        self.register_buffer("started", torch.tensor(False))

    @property
    def uses_base_classes(self) -> bool:  # type: ignore[override]
        """Whether a member wants to see the base classes."""
        return any(member.uses_base_classes for member in self.members)  # type: ignore[union-attr]

    def fit_statistics(self, images: Tensor, labels: Tensor) -> None:
        for member in self.members:
            if member.uses_base_classes:  # type: ignore[union-attr]
                member.fit_statistics(images, labels)  # type: ignore[operator]

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        for member in self.members:
            member.check(shape, image_shape)  # type: ignore[operator]

    def forward(self, batch: EpisodeBatch) -> Tensor:
        return self.weighed(self._of_members(batch))

    def moved(self, support: Tensor, query: Tensor) -> dict[str, Tensor]:
        self.members.eval()
        of_members = [member.moved(support, query) for member in self.members]  # type: ignore[operator]
        return {f"{i} {stage}": images for i, found in enumerate(of_members) for stage, images in found.items()}

    def loss(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        of_members = self._of_members(batch)
        if not bool(self.started):
            with torch.no_grad():
                spread = _mean_over_processes(of_members.std(-1).flatten(1))
                self.log_weight.copy_(-spread.clamp(min=1e-6).log())
            self.started = torch.ones_like(self.started)
        logits = self.weighed(of_members)
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch.query_y.flatten()), logits

    def weighed(self, logits: Tensor) -> Tensor:
        """Return the weighted sum `[task, query, way]` of logits `[member, task, query, way]`."""
        return torch.einsum("m,mtqc->tqc", self.log_weight.exp(), logits)

    def _of_members(self, batch: EpisodeBatch) -> Tensor:
        self.members.eval()  # whatever mode the learner is in
        with torch.no_grad():
            return torch.stack([member(batch) for member in self.members])


def _mean_over_processes(values: Tensor) -> Tensor:
    """Return the mean over the second axis of `[member, n]`, of all processes' values together, `[member]`."""
    total = torch.stack([values.sum(1), torch.full_like(values[:, 0], values.shape[1])])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)  # on all processes in their first step
    return total[0] / total[1]
