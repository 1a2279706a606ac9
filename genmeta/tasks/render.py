"""From a plan to images, on the device, in one go."""

from collections.abc import Callable

import torch
from torch import Tensor

from genmeta.data.table import gather
from genmeta.episode import EpisodeBatch, EpisodePlan

Decode = Callable[[Tensor], Tensor]
"""Codes `[n, latent_dim]` to images `[n, C, H, W]` in [0, 1]."""


def render(plan: EpisodePlan, images: Tensor, decode: Decode | None = None) -> EpisodeBatch:
    """Render a plan: one gather from the table, one call of the decoder, one scatter.

    Args:
        plan: on the device to render on.
        images: uint8 `[N, C, H, W]`, the image table, on the same device, or on the CPU if it is too large for that.
        decode: frozen decoder; needed if the plan has generated slots.

    Returns:
        A batch of float32 images in [0, 1].

    Raises:
        ValueError: the plan has generated slots and there is no decoder.
    """
    n_tasks, n_way, n_images = plan.rows.shape
    x = gather(images, plan.rows.flatten()).view(n_tasks * n_way, n_images, *images.shape[1:])
    turns = plan.turns.flatten()
    for quarter in (1, 2, 3):
        slots = (turns == quarter).nonzero().flatten()
        if len(slots):
            x[slots] = torch.rot90(x[slots], quarter, (-2, -1))
    x = x.float() / 255
    if len(plan.z):
        if decode is None:
            raise ValueError("the plan has generated slots, but there is no decoder")
        with torch.no_grad():
            generated = decode(plan.z.flatten(0, 1))
        x[plan.is_latent.flatten()] = generated.view(len(plan.z), *x.shape[1:]).float()
    x = x.view(n_tasks, n_way, *x.shape[1:])
    y = plan.labels[..., None].expand(-1, -1, n_images)
    k = plan.n_shot
    return EpisodeBatch(
        support_x=x[:, :, :k].flatten(1, 2),
        support_y=y[:, :, :k].flatten(1, 2),
        query_x=x[:, :, k:].flatten(1, 2),
        query_y=y[:, :, k:].flatten(1, 2),
        is_latent=torch.zeros_like(plan.is_latent).scatter(1, plan.labels, plan.is_latent),
    )
