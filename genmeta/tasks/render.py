"""From a plan to images, on the device, in one go."""

from collections.abc import Callable

import torch
from torch import Tensor

from genmeta.data.table import gather as gather_rows
from genmeta.effect import DrawAgain, Sources
from genmeta.episode import BANK, DECODER, TABLE, EpisodeBatch, EpisodePlan

Decode = Callable[[Tensor], Tensor]
"""Codes `[n, latent_dim]` to images `[n, C, H, W]` in [0, 1]."""


def turned(images: Tensor, turn: int) -> Tensor:
    """Return images `[..., H, W]` turned: so many quarter turns (0 to 3), or 4 to 7: the mirror image, left and right
    exchanged, and then `turn - 4` quarter turns. These are all symmetries of the square.
    """
    return torch.rot90(images.flip(-1) if turn >= 4 else images, turn % 4, (-2, -1))


def table_of_turns(images: Tensor, n: int = 4) -> Tensor:
    """Return the table of the first `n` turns, `[n, N, C, S, S]`, of square images `[N, C, S, S]`: 4 for rotations, 8
    with mirror images.

    It takes n times the memory, and turned classes then cost no more than upright ones.
    """
    return torch.stack([turned(images, turn) for turn in range(n)])


def gather(plan: EpisodePlan, images: Tensor) -> tuple[Tensor, Tensor]:
    """Gather the real images of a plan, as they are in the table.

    Args:
        plan: on the device to render on.
        images: the image table, `[N, C, H, W]`, or all its turns by `table_of_turns`, `[turns, N, C, H, W]`; on the
            same device, or on the CPU if it is too large for that.

    Returns:
        Support `[task, way, shot, C, H, W]` and query images `[task, way, query, C, H, W]`, of the table's type
        (uint8); what stands in the places of other images has no meaning.
    """
    rows = plan.rows if plan.is_plain else plan.rows.where(plan.source == TABLE, 0)
    support, query = (
        _gather(images, part, plan.turns) for part in (rows[..., : plan.n_shot], rows[..., plan.n_shot :])
    )
    return support, query


def _gather(images: Tensor, rows: Tensor, turns: Tensor) -> Tensor:
    """Return rows `[task, way, n]` of the table or its turns, turned by `turns` `[task, way]`."""
    if images.dim() == 5:
        rows = rows + (turns * images.shape[1])[..., None]
    table = images.flatten(0, -4)
    x = gather_rows(table, rows.flatten()).view(*rows.shape, *table.shape[1:])
    if images.dim() == 4:
        for turn in turns.unique().tolist():
            if turn:
                task, way = (turns == turn).nonzero(as_tuple=True)
                x[task, way] = turned(x[task, way], turn)
    return x


def render(
    plan: EpisodePlan,
    images: Tensor,
    decode: Decode | None = None,
    redraw: DrawAgain | None = None,
    bank: Tensor | None = None,
    bank_provenance: Tensor | None = None,
) -> EpisodeBatch:
    """Render a plan: one gather from the table, one call of the decoder, one scatter; then the effects that it has.

    Images stay uint8 until here, the device: a quarter of the memory to read.

    Args:
        plan: on the device to render on.
        images: uint8 `[N, C, H, W]`, the image table, or its turns `[turns, N, C, H, W]`; on the same device, or on
            the CPU if it is too large for that.
        decode: frozen decoder; needed if the plan has codes.
        redraw: frozen redrawer; needed if images of the plan are drawn again.
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
        sources = Sources(lambda rows, turns: _gather(images, rows, turns).float().div_(255), redraw)
        for effect in plan.in_rendering_order:
            x = effect.render(x, sources)
        support_x, query_x = x[:, :, : plan.n_shot], x[:, :, plan.n_shot :]
    y = plan.labels[..., None]
    provenance = plan.provenance(bank_provenance)
    return EpisodeBatch(
        support_x=support_x.flatten(1, 2),
        support_y=y.expand(-1, -1, support_x.shape[2]).flatten(1),
        query_x=query_x.flatten(1, 2),
        query_y=y.expand(-1, -1, query_x.shape[2]).flatten(1),
        is_generated=torch.zeros_like(plan.is_generated).scatter(1, plan.labels, plan.is_generated),
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
        for turn in turns.unique().tolist():
            if turn:
                decoded[turns == turn] = turned(decoded[turns == turn], turn)
        x[chosen] = decoded
    if plan.period is not None:
        if bank is None:
            raise ValueError("the plan has rows of a bank, but there is no bank")
        chosen = plan.source == BANK
        x[chosen] = bank.index_select(0, plan.rows[chosen]).float().div_(255)
