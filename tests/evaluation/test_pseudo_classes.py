"""The quality of pseudo-classes, by hand."""

import pytest
import torch

from genmeta.evaluation.pseudo_classes import quality


def test_quality_by_hand():
    classes = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
    groups = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
    pseudo = [torch.tensor([0, 1, 3]), torch.tensor([4, 5, 6])]  # two of class 0 with one of 1; two of 2 with one of 1
    found = quality(pseudo, classes, groups)
    assert (found.n_pseudo, found.n_images) == (2, 6)
    assert found.purity == pytest.approx(4 / 6)
    assert found.pair_precision == pytest.approx(2 / 6)
    assert found.found == pytest.approx(2 / 4)
    assert found.across == pytest.approx(2 / 4), "of the four wrong pairs those of 4 with 5 and 6"
    pure = quality([torch.tensor([0, 1, 2]), torch.tensor([5, 6])], classes, groups)
    assert (pure.purity, pure.pair_precision, pure.across) == (1, 1, 0)
