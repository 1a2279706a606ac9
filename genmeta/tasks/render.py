"""From a plan to images, on the device, in one go."""

from collections.abc import Callable

import torch
from torch import Tensor

from genmeta.data.table import gather as gather_rows
from genmeta.episode import BANK, DECODER, TABLE, EpisodeBatch, EpisodePlan
from genmeta.tasks.elastic import deform

Decode = Callable[[Tensor], Tensor]
"""Codes `[n, latent_dim]` to images `[n, C, H, W]` in [0, 1]."""
Redraw = Callable[[Tensor, Tensor], Tensor]
"""Images `[n, C, H, W]` in [0, 1] and codes `[n, k]` to other instances of the images, `[n, C, H, W]`."""


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
        (uint8); what stands in the places of other images has no meaning.
    """
    rows = plan.rows if plan.is_plain else plan.rows.where(plan.source == TABLE, 0)
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


def render(
    plan: EpisodePlan,
    images: Tensor,
    decode: Decode | None = None,
    redraw: Redraw | None = None,
    bank: Tensor | None = None,
    bank_provenance: Tensor | None = None,
) -> EpisodeBatch:
    """Render a plan: one gather from the table, one call of the decoder, one scatter; then hands and deformations.

    Images stay uint8 until here, the device: a quarter of the memory to read.

    Args:
        plan: on the device to render on.
        images: uint8 `[N, C, H, W]`, the image table, or its four rotations `[4, N, C, H, W]`; on the same device, or
            on the CPU if it is too large for that.
        decode: frozen decoder; needed if the plan has codes.
        redraw: frozen redrawer; needed if the plan has hands.
        bank: uint8 `[M, C, H, W]`, the bank's images of the plan's period; needed if the plan has rows of it.
        bank_provenance: int8 `[M]`, theirs; None: all are decoded.

    Returns:
        A batch of float32 images in [0, 1].

    Raises:
        ValueError: something that is needed is missing.
    """
    support_x, query_x = (part.float().div_(255) for part in gather(plan, images))
    if not plan.is_plain:
        x = torch.cat([support_x, query_x], 2)
        _put_generated(x, plan, decode, bank)
        x = _draw_again(x, plan, redraw)
        support_x, query_x = x[:, :, : plan.n_shot], x[:, :, plan.n_shot :]
    y = plan.labels[..., None]
    provenance = plan.provenance(bank_provenance)
    return EpisodeBatch(
        support_x=support_x.flatten(1, 2),
        support_y=y.expand(-1, -1, support_x.shape[2]).flatten(1),
        query_x=query_x.flatten(1, 2),
        query_y=y.expand(-1, -1, query_x.shape[2]).flatten(1),
        is_latent=torch.zeros_like(plan.is_latent).scatter(1, plan.labels, plan.is_latent),
        support_weight=None if plan.support_weight is None else plan.support_weight.flatten(1),
        first_task=plan.first_task,
        support_provenance=provenance[..., : plan.n_shot].flatten(1),
        query_provenance=provenance[..., plan.n_shot :].flatten(1),
    )


def _put_generated(x: Tensor, plan: EpisodePlan, decode: Decode | None, bank: Tensor | None) -> None:
    """Put decoded images, turned, and images of the bank into their places in `x`, `[task, way, image, C, H, W]`."""
    if len(plan.z):
        if decode is None:
            raise ValueError("the plan has codes, but there is no decoder")
        with torch.no_grad():
            decoded = decode(plan.z).float()
        chosen = plan.source == DECODER
        turns = plan.turns[..., None].expand_as(plan.source)[chosen]
        for turn in (1, 2, 3):
            turned = turns == turn
            decoded[turned] = torch.rot90(decoded[turned], turn, (-2, -1))
        x[chosen] = decoded
    if plan.period is not None:
        if bank is None:
            raise ValueError("the plan has rows of a bank, but there is no bank")
        chosen = plan.source == BANK
        x[chosen] = bank.index_select(0, plan.rows[chosen]).float().div_(255)


def _draw_again(x: Tensor, plan: EpisodePlan, redraw: Redraw | None) -> Tensor:
    """Return images `[task, way, image, C, H, W]` drawn by the plan's hands, then deformed."""
    if plan.hands is not None:
        if redraw is None:
            raise ValueError("the plan has hands, but there is nothing to draw images again with")
        redrawn = ~plan.hands[..., 0].isnan()
        with torch.no_grad():
            x[redrawn] = redraw(x[redrawn], plan.hands[redrawn]).float()
    if plan.elastic is not None:
        x = deform(x.flatten(0, 2), plan.elastic.flatten(0, 2)).view(x.shape)
    return x
