"""Random draws that every sampler makes, many at a time."""

import math
from math import floor

import numpy as np
import torch
from torch import Tensor


def draw_distinct(counts: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """Draw `k` distinct indices below each count, in random order, uniformly over all such tuples.

    The cost does not grow with the counts: few candidates are ranked by random keys, many are drawn and the tuples
    with a repetition drawn again (which happens to fewer than half of them).

    Args:
        counts: int64 `[...]`, every one at least `k`.

    Returns:
        int64 `[..., k]`.
    """
    largest = int(counts.max())
    if largest <= max(k * k, 32):
        keys = torch.rand(*counts.shape, largest, generator=rng)
        if int(counts.min()) < largest:
            keys = keys.masked_fill(torch.arange(largest) >= counts[..., None], 2.0)
        return argsort_rows(keys)[..., :k]
    flat = counts.numpy().reshape(-1, 1)  # numpy: these are many small operations, which cost torch twice as much
    picks = (torch.rand(len(flat), k, generator=rng, dtype=torch.float64).numpy() * flat).astype(np.int64)
    while True:
        ordered = np.sort(picks, 1)
        again = (ordered[:, 1:] == ordered[:, :-1]).any(1).nonzero()[0]
        if again.size == 0:
            return torch.from_numpy(picks).view(*counts.shape, k)
        fresh = torch.rand(len(again), k, generator=rng, dtype=torch.float64).numpy()
        picks[again] = (fresh * flat[again]).astype(np.int64)


def draw_labels(n_tasks: int, n_way: int, rng: torch.Generator) -> Tensor:
    """Return a random permutation of the labels for each task, int64 `[task, way]`."""
    return argsort_rows(torch.rand(n_tasks, n_way, generator=rng))


def draw_turns(n_tasks: int, n_way: int, rotations: bool, rng: torch.Generator) -> Tensor:
    """Return random quarter turns of classes, int64 `[task, way]`; 0 and no draw without rotations."""
    if not rotations:
        return torch.zeros(n_tasks, n_way, dtype=torch.long)
    return torch.randint(4, (n_tasks, n_way), generator=rng)


def argsort_rows(keys: Tensor) -> Tensor:
    """Return what `keys.argsort(dim=-1, stable=True)` does, for float32 keys of at least 0.

    numpy sorts short rows of whole numbers with vector instructions, four times as fast as torch sorts pairs: so a key
    and its place are packed into one number, as the bits of floats of at least 0 have the order of the floats.
    """
    packed = keys.view(torch.int32).numpy().astype(np.int64)
    packed <<= 32
    packed |= np.arange(keys.shape[-1])
    packed.sort(-1)
    packed &= 0xFFFFFFFF
    return torch.from_numpy(packed)


def whole_number(share: float, step: int, n: int) -> int:
    """Return how many of the `n` things of this step a share is: whole numbers that are exact on average over steps.

    After t steps it has been `floor(t · n · share)` in all.
    """
    return split_evenly(share * step, share * (step + 1), n)


def split_evenly(before: float, after: float, n: int) -> int:
    """Return the whole number of `n` things between two values of a running sum of shares."""
    # the small number takes back what floating point loses of e.g. 10 · 0.1
    return floor(after * n + 1e-6) - floor(before * n + 1e-6)


def exact_share(shape: tuple[int, ...], share: float, step: int, rng: torch.Generator) -> Tensor:
    """Return a mask of this shape with a share of it True at random places, exact on average over steps."""
    n = math.prod(shape)
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[torch.randperm(n, generator=rng)[: whole_number(share, step, n)]] = True
    return chosen.view(shape)
