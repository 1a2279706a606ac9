"""Randomness as an argument: every draw is made by a `torch.Generator` that follows from names and numbers."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def derived_seed(*parts: str | int) -> int:
    """Return a 32-bit seed that is a pure function of the parts, e.g. `(seed, "train", step)`.

    32 bits, because torch's CPU generator uses no more of a seed than that.
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def make_rng(*parts: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on `device`, seeded by `derived_seed(*parts)`."""
    return torch.Generator(device).manual_seed(derived_seed(*parts))


@dataclass(frozen=True)
class SharedRng:
    """Draws for a batch that several processes share: each draws for the whole batch and keeps the rows of its own.

    So what an image gets does not depend on how many processes there are.

    Attributes:
        generator: in the same state on all processes.
        rank, world: this process has every `world`-th row of a batch, from `rank` on.
    """

    generator: torch.Generator
    rank: int
    world: int

    @property
    def device(self) -> torch.device:
        """Where the generator draws."""
        return self.generator.device


Rng = torch.Generator | SharedRng


def uniform(rng: Rng, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return draws from [0, 1), on the device of `rng`."""
    return _rows(torch.rand, rng, shape, dtype)


def normal(rng: Rng, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return draws from N(0, 1), on the device of `rng`."""
    return _rows(torch.randn, rng, shape, dtype)


def bernoulli(rng: Rng, p: Tensor) -> Tensor:
    """Return 0 and 1, the latter with probabilities `p` in [0, 1]; the first axis is that of images."""
    if isinstance(rng, torch.Generator):
        return torch.bernoulli(p, generator=rng)
    of_all = p.new_zeros(len(p) * rng.world, *p.shape[1:])
    of_all[rng.rank :: rng.world] = p
    return torch.bernoulli(of_all, generator=rng.generator)[rng.rank :: rng.world]


def _rows(draw: Callable[..., Tensor], rng: Rng, shape: tuple[int, ...], dtype: torch.dtype | None) -> Tensor:
    if isinstance(rng, torch.Generator):
        return draw(shape, generator=rng, device=rng.device, dtype=dtype)
    of_all = draw((shape[0] * rng.world, *shape[1:]), generator=rng.generator, device=rng.device, dtype=dtype)
    return of_all[rng.rank :: rng.world]
