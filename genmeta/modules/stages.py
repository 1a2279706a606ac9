"""Pictures of how support images were moved onto queries, for right and for wrong decisions of a test."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from genmeta.episode import EpisodeBatch
from genmeta.learners.learner import Learner
from genmeta.modules.meta_module import MetaModule
from genmeta.modules.pictures import save_picture

RIGHT, WRONG, TRUTH = (0.0, 0.65, 0.35), (0.85, 0.1, 0.1), (0.6, 0.6, 0.6)
_FRAME = 2  # pixels


@dataclass(frozen=True)
class Decision:
    """A query beside the support image of a class, moved onto it.

    Attributes:
        right: whether the query was given its own class.
        chosen: whether this is the class that it was given; the support image is of its own class otherwise.
        support, query: `[C, H, W]` in [0, 1].
        moved: `[stages, C, H, W]`, the support image after each stage.
    """

    right: bool
    chosen: bool
    support: Tensor
    moved: Tensor
    query: Tensor

    @property
    def residual(self) -> Tensor:
        """What the last stage leaves unexplained, `[C, H, W]` in [-1, 1]: above 0 where only the query has ink."""
        return self.query - self.moved[-1]


@torch.no_grad()
def decisions(learner: Learner, batch: EpisodeBatch, logits: Tensor, n_right: int, n_wrong: int) -> list[Decision]:
    """Return the first queries of a batch that were answered right and wrong; none if the learner moves nothing.

    For a wrong one the support image of the class that it was given comes first, then that of its own class. Of several
    support images it is the first.

    Args:
        logits: the learner's, `[task, query, way]`.
        n_right, n_wrong: how many queries at most.
    """
    given = logits.argmax(2)
    right = given == batch.query_y
    places = [*right.nonzero()[:n_right].tolist(), *(~right).nonzero()[:n_wrong].tolist()]
    pairs = []  # task, query, class
    for task, query in places:
        classes = (given[task, query], batch.query_y[task, query])
        pairs += [(task, query, int(label)) for label in (classes[:1] if right[task, query] else classes)]
    if not pairs:
        return []
    first = [int((batch.support_y[task] == label).nonzero()[0]) for task, _, label in pairs]
    support = torch.stack([batch.support_x[task, i] for (task, _, _), i in zip(pairs, first, strict=True)])
    queries = torch.stack([batch.query_x[task, query] for task, query, _ in pairs])
    moved = learner.moved(support, queries)
    if not moved:
        return []
    stages = torch.stack(list(moved.values()), 1).clamp(0, 1)
    return [
        Decision(bool(right[task, query]), int(given[task, query]) == label, support[i], stages[i], queries[i])
        for i, (task, query, label) in enumerate(pairs)
    ]


def draw_decision(decision: Decision) -> Tensor:
    """Return a row `[3, h, w]`: support image, moved after each stage, query, residual (red: only the moved image has
    ink, blue: only the query has); framed green if right, red if wrong, grey for the class that it should have been.
    """
    colour = RIGHT if decision.right else WRONG if decision.chosen else TRUTH
    residual = decision.residual.mean(0)
    left = torch.stack([(-residual).clamp(min=0), torch.zeros_like(residual), residual.clamp(min=0)])
    tiles = []
    for image in (decision.support, *decision.moved, decision.query, left):
        height, width = image.shape[1:]
        tile = torch.tensor(colour)[:, None, None].repeat(1, height + 2 * _FRAME, width + 2 * _FRAME)
        tile[:, _FRAME:-_FRAME, _FRAME:-_FRAME] = image.expand(3, -1, -1).cpu()
        tiles.append(tile)
    return torch.cat(tiles, 2)


class StagesPicture(Callback):
    """After a test of a learner that moves images (`Learner.moved`), `stages`: right decisions, then wrong ones, of the
    first kind of test episodes; a row each, two for wrong ones (`draw_decision`).

    Args:
        folder: where the PNG file goes.
        n: queries of each sort.
    """

    def __init__(self, folder: Path, n: int = 6) -> None:
        self.folder, self.n = folder, n
        self.found: list[Decision] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(pl_module, MetaModule)
        n_right = self.n - sum(decision.right for decision in self.found)
        n_wrong = self.n - sum(decision.chosen and not decision.right for decision in self.found)
        if trainer.is_global_zero and dataloader_idx == 0 and n_right + n_wrong:
            self.found += decisions(pl_module.learner, batch, outputs["logits"], n_right, n_wrong)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.found:
            rows = sorted(self.found, key=lambda decision: not decision.right)
            save_picture(trainer, self.folder, "stages", None, torch.cat([draw_decision(row) for row in rows], 1))
