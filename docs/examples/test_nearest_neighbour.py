import pytest
import torch
from nearest_neighbour import NearestNeighbour
from torch import nn

from genmeta.episode import EpisodeBatch
from genmeta.errors import UserError
from genmeta.models.backbones import Conv4
from genmeta.rng import make_rng


def a_batch() -> EpisodeBatch:
    """Two tasks of three classes, two support and four query images each, of 16 × 16 pixels."""
    rng = make_rng("batch")
    labels = [torch.arange(3).repeat(n)[torch.randperm(3 * n, generator=rng)].expand(2, -1) for n in (2, 4)]
    images = [torch.rand(*y.shape, 1, 16, 16, generator=rng) for y in labels]
    return EpisodeBatch(images[0], labels[0], images[1], labels[1], torch.zeros(2, 3, dtype=torch.bool))


def test_logits_equal_a_slow_loop():
    batch, learner = a_batch(), NearestNeighbour(nn.Flatten())
    logits = learner(batch)
    for task in range(2):
        for query in range(12):
            far = (batch.support_x[task] - batch.query_x[task, query]).square().sum((1, 2, 3))
            expected = [-far[batch.support_y[task] == label].min() for label in range(3)]
            torch.testing.assert_close(logits[task, query], torch.stack(expected), atol=1e-3, rtol=0)


def test_the_backbone_learns():
    torch.manual_seed(0)
    batch, learner = a_batch(), NearestNeighbour(Conv4(1, 8, 16))
    optimizer = torch.optim.Adam(learner.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss, _ = learner.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_a_query_does_not_depend_on_the_images_beside_it():
    with pytest.raises(UserError, match="keeps running statistics"):
        NearestNeighbour(Conv4(1, 8, 16, norm="batch"))
