"""Whether a learner classifies each query by itself (inductive), or all of a task together (transductive)."""

from dataclasses import replace

import torch

from genmeta.episode import EpisodeBatch
from genmeta.learners.learner import Learner


@torch.no_grad()
def depends_on_other_queries(learner: Learner, n_way: int) -> bool:
    """Return whether a query's logits change when it stands alone: tried on an episode of noise."""
    rng = torch.Generator().manual_seed(0)
    shapes = (getattr(part, "image_shape", None) for part in learner.modules())
    shape = next(filter(None, shapes), (1, 28, 28))
    x = torch.rand(1, 4 * n_way, *shape, generator=rng)
    y = torch.arange(n_way)
    whole = EpisodeBatch(
        x[:, :n_way], y[None], x[:, n_way:], y.repeat(3)[None], torch.zeros(1, n_way, dtype=torch.bool)
    )
    alone = replace(whole, query_x=whole.query_x[:, :1], query_y=whole.query_y[:, :1])
    learner.eval()
    return not torch.allclose(learner(whole)[:, :1], learner(alone), rtol=1e-3, atol=1e-4)
