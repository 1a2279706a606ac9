"""What a learner promises about the order of its support set and the names of its classes; used by their test files."""

import torch

from genmeta.rng import make_rng


def order_of_support_does_not_matter(learner, batch):
    order = torch.randperm(batch.support_y.shape[1], generator=make_rng(3))
    shuffled = type(batch)(
        batch.support_x[:, order], batch.support_y[:, order], batch.query_x, batch.query_y, batch.is_generated
    )
    torch.testing.assert_close(learner(shuffled), learner(batch), atol=1e-10, rtol=1e-8)


def permuted_labels_permute_logits(learner, batch, between=lambda permutation: None):
    """`between` is called with the permutation before the second pass, for learners with weights for each label."""
    logits, permutation = learner(batch), torch.tensor([2, 0, 1])
    between(permutation)
    permuted = type(batch)(
        batch.support_x, permutation[batch.support_y], batch.query_x, batch.query_y, batch.is_generated
    )
    torch.testing.assert_close(learner(permuted)[..., permutation], logits)
