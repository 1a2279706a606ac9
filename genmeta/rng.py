"""Randomness as an argument: every draw is made by a `torch.Generator` that follows from names and numbers."""

import hashlib

import torch


def derived_seed(*parts: str | int) -> int:
    """Return a 32-bit seed that is a pure function of the parts, e.g. `(seed, "train", step)`.

    32 bits, because torch's CPU generator uses no more of a seed than that.
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def make_rng(*parts: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator on `device`, seeded by `derived_seed(*parts)`."""
    return torch.Generator(device).manual_seed(derived_seed(*parts))
