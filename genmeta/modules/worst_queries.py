"""Which test queries went wrong, as a W&B table with pictures."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from genmeta.episode import EpisodeBatch
from genmeta.evaluation.confusion import Confusion
from genmeta.explore.drawing import as_picture
from genmeta.modules.meta_module import MetaModule

COLUMNS = (
    *("episode", "episode accuracy", "query", "class", "its support", "taken for", "support of that"),
    *("probability", "probability of its class", "how often confused"),
)
_SHOWN = 5  # support images of a class


@dataclass(frozen=True)
class Query:
    """A query image and what it was taken for.

    Attributes:
        episode: its number among the test episodes.
        accuracy: of the episode, in [0, 1].
        image: `[C, H, W]` in [0, 1].
        truth, given: numbers of the classes among those that are tested.
        of_truth, of_given: support images of these, side by side, `[C, H, n * W]`.
        p_given, p_truth: probabilities.
    """

    episode: int
    accuracy: float
    image: Tensor
    truth: int
    given: int
    of_truth: Tensor
    of_given: Tensor
    p_given: float
    p_truth: float


class WorstQueries(Callback):
    """After a test, `tables/episodes` in W&B: of the first kind of test episodes those of the lowest accuracy, and of
    each the queries whose own class was given the lowest probability; of several processes the first's.

    Args:
        n_episodes, n_queries: how many, and of each how many; the table has their product of rows at most.
    """

    def __init__(self, n_episodes: int = 8, n_queries: int = 4) -> None:
        self.n_episodes, self.n_queries = n_episodes, n_queries
        self.found: list[list[Query]] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.is_global_zero and dataloader_idx == 0 and _wandb(trainer):
            new = worst_queries(batch, outputs["logits"], outputs["classes"], self.n_episodes, self.n_queries)
            self.found = sorted([*self.found, *new], key=lambda of: (of[0].accuracy, of[0].episode))[: self.n_episodes]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MetaModule)
        for logger in _wandb(trainer) if self.found else ():
            import wandb  # here: it is slow to import, and not needed when off

            confusion = next(iter(pl_module.confusions.values()))
            rows = [_row(query, confusion) for of_episode in self.found for query in of_episode]
            panels: dict[str, Any] = {"tables/episodes": wandb.Table(columns=list(COLUMNS), data=rows)}
            logger.log_metrics(panels)
        self.found = []


def worst_queries(
    batch: EpisodeBatch, logits: Tensor, classes: Tensor, n_episodes: int, n_queries: int
) -> list[list[Query]]:
    """Return the worst queries of the episodes of the lowest accuracy of a batch.

    Args:
        batch: the episodes.
        logits: the learner's, `[task, query, way]`.
        classes: class of each label, int64 `[task, way]`.
        n_episodes, n_queries: how many of them, and of each how many.
    """
    given, probabilities = logits.argmax(2), logits.float().softmax(2)
    of_truth = probabilities.gather(2, batch.query_y[..., None]).squeeze(2)
    accuracies = (given == batch.query_y).float().mean(1)
    found = []
    for task in accuracies.argsort(stable=True)[:n_episodes].tolist():
        queries = []
        for query in of_truth[task].argsort(stable=True)[:n_queries].tolist():
            truth, label = int(batch.query_y[task, query]), int(given[task, query])
            queries.append(
                Query(
                    episode=batch.first_task + task,
                    accuracy=float(accuracies[task]),
                    image=batch.query_x[task, query].cpu(),
                    truth=int(classes[task, truth]),
                    given=int(classes[task, label]),
                    of_truth=_support(batch, task, truth),
                    of_given=_support(batch, task, label),
                    p_given=float(probabilities[task, query, label]),
                    p_truth=float(of_truth[task, query]),
                )
            )
        found.append(queries)
    return found


def _support(batch: EpisodeBatch, task: int, label: int) -> Tensor:
    """Return the first support images of a label side by side."""
    return torch.cat([*batch.support_x[task][batch.support_y[task] == label][:_SHOWN]], 2).cpu()


def _row(query: Query, confusion: Confusion) -> list[Any]:
    offered, chosen = (int(counts[query.truth, query.given]) for counts in (confusion.offered, confusion.chosen))
    names = confusion.names
    pictures = [_picture(image) for image in (query.image, query.of_truth, query.of_given)]
    return [
        *(query.episode, query.accuracy, pictures[0], names[query.truth], pictures[1]),
        *(names[query.given], pictures[2], query.p_given, query.p_truth),
        chosen / offered if query.given != query.truth else None,
    ]


def _picture(image: Tensor) -> Any:
    """Return W&B's picture of an image `[C, H, W]` in [0, 1], two pixels for one."""
    import wandb

    return wandb.Image(as_picture(image.repeat_interleave(2, 1).repeat_interleave(2, 2)))


def _wandb(trainer: Trainer) -> list[WandbLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
