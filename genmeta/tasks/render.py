"""From a plan to images, on the device, in one go."""

from collections.abc import Callable

import torch
from torch import Tensor

from genmeta.data.table import gather as gather_rows
from genmeta.episode import EpisodeBatch, EpisodePlan

Decode = Callable[[Tensor], Tensor]
"""Codes `[n, latent_dim]` to images `[n, C, H, W]` in [0, 1]."""


def quarter_turns(images: Tensor) -> Tensor:
    """Return the table of the four rotations, `[4, N, C, S, S]`, of square images `[N, C, S, S]`.

    It takes four times the memory, and turned classes then cost no more than upright ones.
    """
    return torch.stack([torch.rot90(images, turn, (-2, -1)) for turn in range(4)])


def gather(plan: EpisodePlan, images: Tensor) -> tuple[Tensor, Tensor]:
    """Gather the real images of a plan, as they are in the table.

    Args:
        plan: on the device to render on.
        images: the image table, `[N, C, H, W]`, or its four rotations by `quarter_turns`, `[4, N, C, H, W]`; on the
            same device, or on the CPU if it is too large for that.

    Returns:
        Support `[task, way, shot, C, H, W]` and query images `[task, way, query, C, H, W]`, of the table's type
        (uint8); what stands in generated slots has no meaning.
    """
    rows = plan.rows
    if images.dim() == 5:
        rows = rows + (plan.turns * images.shape[1])[..., None]
    table = images.flatten(0, -4)
    support, query = (
        gather_rows(table, part.flatten()).view(*part.shape, *table.shape[1:])
        for part in (rows[..., : plan.n_shot], rows[..., plan.n_shot :])
    )
    if images.dim() == 4:
        for turn in (1, 2, 3):
            task, way = (plan.turns == turn).nonzero(as_tuple=True)
            if len(task):
                for part in (support, query):
                    part[task, way] = torch.rot90(part[task, way], turn, (-2, -1))
    return support, query


def render(plan: EpisodePlan, images: Tensor, decode: Decode | None = None) -> EpisodeBatch:
    """Render a plan: one gather from the table, one call of the decoder, one scatter.

    Images stay uint8 until here, the device: a quarter of the memory to read.

    Args:
        plan: on the device to render on.
        images: uint8 `[N, C, H, W]`, the image table, or its four rotations `[4, N, C, H, W]`; on the same device, or
            on the CPU if it is too large for that.
        decode: frozen decoder; needed if the plan has generated slots.

    Returns:
        A batch of float32 images in [0, 1].

    Raises:
        ValueError: the plan has generated slots and there is no decoder.
    """
    support_x, query_x = (part.float().div_(255) for part in gather(plan, images))
    if len(plan.z):
        if decode is None:
            raise ValueError("the plan has generated slots, but there is no decoder")
        with torch.no_grad():
            generated = decode(plan.z.flatten(0, 1)).float()
        generated = generated.view(*plan.z.shape[:2], *images.shape[-3:])
        support_x[plan.is_latent] = generated[:, : plan.n_shot]
        query_x[plan.is_latent] = generated[:, plan.n_shot :]
    y = plan.labels[..., None]
    return EpisodeBatch(
        support_x=support_x.flatten(1, 2),
        support_y=y.expand(-1, -1, support_x.shape[2]).flatten(1),
        query_x=query_x.flatten(1, 2),
        query_y=y.expand(-1, -1, query_x.shape[2]).flatten(1),
        is_latent=torch.zeros_like(plan.is_latent).scatter(1, plan.labels, plan.is_latent),
    )
