"""Accuracy over episodes, with its interval."""

from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

Z95 = NormalDist().inv_cdf(0.975)  # 1.96


def mean_and_ci95(values: Sequence[float] | Tensor) -> tuple[float, float]:
    """Return the mean and the half width of its 95 % interval, `1.96 · s / sqrt(n)` with the unbiased `s`.

    The interval is over the given values. Over episodes it says how well they measure one trained learner, not how much
    trainings differ. For one value the interval is infinite.
    """
    values = torch.as_tensor(values, dtype=torch.float64)
    half = Z95 * float(values.std()) / len(values) ** 0.5 if len(values) > 1 else float("inf")
    return float(values.mean()), half


class EpisodeAccuracy(Metric):
    """Collects the accuracy of each episode in order, also over several processes.

    Each process must evaluate a contiguous block of the episodes, with the blocks in the order of ranks.
    """

    full_state_update = False
    accuracies: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("accuracies", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, query_y: Tensor) -> None:
        """Add episodes: logits `[task, query, way]`, labels `[task, query]`."""
        self.accuracies.append((logits.argmax(2) == query_y).double().mean(1))

    def compute(self) -> Tensor:
        """Return the accuracy of each episode in [0, 1], float64 `[episode]` (`[]` if there is one)."""
        return dim_zero_cat(self.accuracies)
