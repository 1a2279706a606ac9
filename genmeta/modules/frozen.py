"""Frozen generative models that tasks are drawn and rendered with, and what they add to a pool of classes."""

from dataclasses import replace

import torch
from torch import Tensor

from genmeta.data.splits import Split
from genmeta.data.table import ImageTable, gather
from genmeta.errors import UserError
from genmeta.models.checkpoint import LatentModel, load_generator
from genmeta.models.strokes import characters_of
from genmeta.tasks.sampler import TaskPool
from genmeta.tasks.space import Encodings


def load_decoder(path: str | None, split: Split, table: ImageTable, labels: str = "all") -> LatentModel:
    """Return the model of a checkpoint that draws from codes.

    Args:
        path: of the checkpoint.
        split, table: of the run.
        labels: of the run; without any, the model may have used none either.

    Raises:
        UserError: there is no path, or the model is of another split, other pictures or of another kind.
    """
    if path is None:
        raise UserError("data.train_tasks draws generated tasks, but data.generator is not set; expected a checkpoint")
    generator = _load(path, split, table, labels)
    generator.check_draws_from_codes()
    return generator


def load_redrawer(path: str | None, split: Split, table: ImageTable, labels: str = "all") -> LatentModel:
    """Return the model of a checkpoint that draws given images again; arguments are those of `load_decoder`.

    Raises:
        UserError: as `load_decoder`.
    """
    if path is None:
        raise UserError(
            "the tasks draw images again, but data.redrawer is not set; expected the checkpoint of a model that "
            "draws given images again (make train-vae VAE=vae_deformation)"
        )
    redrawer = _load(path, split, table, labels)
    redrawer.check_redraws()
    return redrawer


def with_codes(pool: TaskPool, generator: LatentModel, images: Tensor | None) -> TaskPool:
    """Return a pool with the prior of a generator and, where images of the table are given, with the encodings of
    those of the pool.
    """
    pool = replace(pool, prior=generator.prior)
    return pool if images is None else replace(pool, encodings=_encode(generator, pool, images))


def with_strokes(pool: TaskPool, images: Tensor) -> TaskPool:
    """Return a pool with the strokes of its images, among those of the table, uint8 `[N, C, H, W]`.

    Raises:
        UserError: they are no drawings of ink.
    """
    try:
        return replace(pool, strokes=characters_of(gather(images, pool.all_rows).float() / 255))
    except UserError as error:
        raise UserError(f"data.train_tasks: {error}") from error


def _load(path: str, split: Split, table: ImageTable, labels: str) -> LatentModel:
    if split.test_only:
        raise UserError(
            f"data.split: '{split.name}' has test classes only, and {path} does not say whether it has seen "
            f"them; test without generated support images"
        )
    model = load_generator(path)
    model.check_image_shape(table.image_shape)
    model.check_split(split, table.content, labels)
    return model


def _encode(generator: LatentModel, pool: TaskPool, images: Tensor) -> Encodings:
    """Return the bank of encodings of a pool's images, computed once."""
    rows = pool.all_rows
    encoded = [generator.encode(gather(images, part).float() / 255) for part in rows.split(256)]
    means, log_vars = (torch.cat(parts) for parts in zip(*encoded, strict=True))
    return Encodings(means, (log_vars / 2).exp(), rows, pool.counts.cumsum(0) - pool.counts, pool.counts)
