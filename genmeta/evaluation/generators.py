"""What a table of generators says of a trained one beside its metrics: its size, and how fast it draws."""

import time

import torch

from genmeta.models.checkpoint import LatentModel
from genmeta.rng import make_rng

COLUMNS = {
    "fid": ("FID ↓", 2),
    "kid": ("KID ↓", 3),
    "precision": ("precision ↑", 2),
    "recall": ("recall ↑", 2),
    "density": ("density ↑", 2),
    "coverage": ("coverage ↑", 2),
    "diversity": ("diversity → 1", 2),
    "recognisability": ("recognisability ↑", 2),
    "spread": ("spread → 1", 2),
    "memorisation": ("memorisation", 2),
    "reconstruction_unseen": ("reconstruction ↓", 3),
    "iwae_held_out": ("IWAE seen", 1),
    "iwae_unseen": ("IWAE unseen", 1),
}
"""Metrics of a report (`GenerativeModule.report`): the heading, and digits after the point."""


def count_weights(model: LatentModel) -> int:
    """Return the number of weights of the network that draws, running statistics included."""
    network = model.networks["decoder" if "decoder" in model.networks else "redrawer"]
    return sum(value.numel() for value in network.state_dict().values())


@torch.no_grad()
def images_per_second(model: LatentModel, n: int = 256) -> float:
    """Return how many images a second are drawn by one thread of the processor, of `n` drawn together.

    It is what this machine does now: other work on it counts.
    """
    rng, threads = make_rng("speed"), torch.get_num_threads()
    codes = model.prior.sample(n, rng=rng)
    images = torch.rand(n, *model.image_shape, generator=rng)
    draw = model.decode if "decoder" in model.networks else lambda z: model.redraw(images[: len(z)], z)
    torch.set_num_threads(1)
    try:
        draw(codes[:2])  # what is done once only
        begin = time.perf_counter()
        draw(codes)
        return n / (time.perf_counter() - begin)
    finally:
        torch.set_num_threads(threads)
