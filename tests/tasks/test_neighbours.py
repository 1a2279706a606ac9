"""Pseudo-classes from distances: by hand, and on clusters that anyone sees."""

import pytest
import torch

from genmeta.rng import make_rng
from genmeta.tasks.neighbours import mutual_ranks, nearest_pairs, pseudo_classes


def test_nearest_pairs_by_hand():
    angles = torch.tensor([0.0, 0.1, 0.3, 2.0])  # the nearest of 0 is 1, of 1 is 0, of 2 is 1, of 3 is 2
    features = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[1.0], [5.0], [0.2], [3.0]])
    assert nearest_pairs(features, 1).tolist() == [[0, 1], [1, 2], [2, 3]], "the lengths of features do not matter"
    assert len(nearest_pairs(features, 3)) == 6, "all pairs, each once"


def test_mutual_ranks_by_hand():
    pairs, distances = torch.tensor([[0, 1], [0, 2], [1, 2], [2, 3]]), torch.tensor([1.0, 2.0, 3.0, 0.5])
    ranks = mutual_ranks(pairs, distances, 4, last=9)
    # order of 0: 1, 2; of 1: 0, 2; of 2: 3, 0, 1; of 3: 2
    expected = [[0, 1, 2, 9], [1, 0, 2.5, 9], [2, 2.5, 0, 1], [9, 9, 1, 0]]
    assert ranks.tolist() == expected
    # ranks are blind to the scale of distances around an image
    assert torch.equal(mutual_ranks(pairs, distances * 100, 4, last=9), ranks)


def test_clusters_that_anyone_sees_are_found_and_others_are_left_out():
    """Bug: linkage of wrong places, or the limits of size taken the wrong way round."""
    rng = make_rng("clusters")
    order = torch.randperm(61, generator=rng)
    truth = torch.cat([torch.full((n,), label) for label, n in enumerate((20, 12, 8, 3, 18))])[order]
    features = torch.eye(5)[truth] + 0.02 * torch.randn(61, 5, generator=rng)
    pairs = nearest_pairs(features, 19)
    distances = (features[pairs[:, 0]] - features[pairs[:, 1]]).norm(dim=1)
    found = pseudo_classes(mutual_ranks(pairs, distances, 61), cut=20, smallest=5, largest=19)
    assert [len(places) for places in found] == [18, 12, 8], "20 is too many, 3 too few"
    for places in found:
        assert len(truth[places].unique()) == 1
    assert torch.cat(found).unique().numel() == 38, "no image is in two"


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_images_changes_nothing_but_their_places(seed):
    rng = make_rng("order", seed)
    features = torch.randn(30, 4, generator=rng)
    order = torch.randperm(30, generator=rng)

    def classes(x):
        pairs = nearest_pairs(x, 6)
        distances = (x[pairs[:, 0]] - x[pairs[:, 1]]).norm(dim=1)
        return pseudo_classes(mutual_ranks(pairs, distances, 30), 6, 2, 30)

    first = {frozenset(places.tolist()) for places in classes(features)}
    second = {frozenset(order[places].tolist()) for places in classes(features[order])}
    assert first == second
