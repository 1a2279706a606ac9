"""Is a difference more than chance? Intervals over few values, paired tests, corrections for several of them.

Student, "The probable error of a mean", 1908; Cohen, "Statistical power analysis", 1988 (d_z); Efron and Tibshirani,
"An introduction to the bootstrap", 1993, chapter 16; Holm, "A simple sequentially rejective multiple test procedure",
1979.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from genmeta.errors import UserError

ALPHA = 0.05  # a (corrected) p-value below this is called a difference
_CHUNK = 2**22  # resampled values at a time, to limit memory


def mean_and_t95(values: Sequence[float] | Tensor) -> tuple[float, float]:
    """Return the mean and the half width of its 95 % interval by Student's t, `t(0.975, n - 1) · s / sqrt(n)`.

    For few values, such as one for each seed. For one value the interval is infinite.
    """
    from scipy.special import stdtrit  # here: it takes half as long as torch to import

    values = torch.as_tensor(values, dtype=torch.float64)
    n = len(values)
    half = float(stdtrit(n - 1, 0.975)) * _deviation(values) / n**0.5 if n > 1 else float("inf")
    return float(values.mean()), half


def paired_t_test(differences: Sequence[float] | Tensor) -> float:
    """Return the two-sided p-value of a mean difference of 0 by Student's t, 1 if all differences are 0.

    The p-value of a single difference is 1.
    """
    from scipy.special import stdtr

    values = torch.as_tensor(differences, dtype=torch.float64)
    n, mean = len(values), float(values.mean())
    if mean == 0 or n < 2:
        return 1.0
    deviation = _deviation(values)
    return 2 * float(stdtr(n - 1, -abs(mean) / deviation * n**0.5)) if deviation else 0.0


def paired_bootstrap(differences: Sequence[float] | Tensor, rng: torch.Generator, n_resamples: int = 10_000) -> float:
    """Return the two-sided p-value of a mean difference of 0 by the paired bootstrap, 1 if all differences are 0.

    The differences are centred, as the hypothesis says, and drawn with replacement. The p-value is the share of
    resamples whose mean is as far from 0 as the measured one. The measured one is counted too, so it is never 0.
    """
    values = torch.as_tensor(differences, dtype=torch.float64)
    n, mean = len(values), values.mean()
    centred = values - mean
    as_far = 1
    for first in range(0, n_resamples, rows := max(1, _CHUNK // n)):
        drawn = torch.randint(n, (min(rows, n_resamples - first), n), generator=rng)
        # tolerance, since sums in another order differ in the last digit
        as_far += int((centred[drawn].mean(1).abs() >= mean.abs() - 1e-12).sum())
    return as_far / (n_resamples + 1)


def effect_size(differences: Sequence[float] | Tensor) -> float:
    """Return Cohen's d_z: the mean difference in standard deviations of the differences; 0 if all are 0."""
    values = torch.as_tensor(differences, dtype=torch.float64)
    mean, deviation = float(values.mean()), _deviation(values)
    return 0.0 if mean == 0 else mean / deviation if deviation else float("inf") * mean


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm), in the given order.

    The smallest of n is multiplied by n, the next by n - 1, and so on; the order is kept, and none is above 1. If there
    are no differences, the chance that any of them is below ALPHA is at most 5 %.
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, p_values[place] * (len(p_values) - rank)))
        corrected[place] = highest
    return corrected


def over_episodes(accuracies: Sequence[Sequence[float]]) -> Tensor:
    """Return the mean over seeds of each episode's accuracy, float64 `[episode]`, of a list for each seed.

    Raises:
        UserError: the seeds were not tested on the same number of episodes.
    """
    if len({len(values) for values in accuracies}) != 1:
        raise UserError(f"seeds were tested on different numbers of episodes: {[len(a) for a in accuracies]}")
    return torch.tensor(accuracies, dtype=torch.float64).mean(0)


def _deviation(values: Tensor) -> float:
    """Return the unbiased standard deviation, 0 of one value."""
    return float(values.std()) if len(values) > 1 else 0.0
