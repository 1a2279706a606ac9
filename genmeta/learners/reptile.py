"""Reptile: move the initialisation towards the parameters that a task's images lead to."""

from typing import Any

import torch
from torch import Tensor

from genmeta.episode import EpisodeBatch
from genmeta.errors import UserError
from genmeta.learners.inner_loop import Parameters, adapt, with_gradient
from genmeta.learners.learner import cross_entropy
from genmeta.learners.maml import MAML


class Reptile(MAML):
    """Reptile: the meta-gradient is the initial parameters minus the adapted ones; no second derivatives.

    Nichol, Achiam and Schulman, "On First-Order Meta-Learning Algorithms", arXiv:1803.02999, algorithm 2. Reference
    code: github.com/openai/supervised-reptile. With `torch.optim.SGD(lr=ε)` as the trainer's optimiser the outer step
    is the paper's, θ + ε (mean of the adapted parameters - θ). In training all images of an episode are adapted to,
    support and query (section 6: more training shots than test shots), in minibatches that hold equally many of each
    class and are gone through in turn: that they differ is what Reptile learns from (section 5). The inner optimiser is
    plain gradient descent (the paper's algorithm; its experiments take Adam without momentum).

    Args:
        args, kwargs: those of `MAML`; `first_order` and `checkpoint` change nothing and are refused.
        images_per_class: images of each class in a minibatch; all that there are if fewer.

    Raises:
        UserError: as in `MAML`; or `images_per_class` is below 1.
    """

    def __init__(self, *args: Any, images_per_class: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if images_per_class < 1:
            raise UserError(f"Reptile needs images_per_class >= 1, found {images_per_class}")
        if self.first_order or self.checkpoint:
            raise UserError("Reptile has no second derivatives: leave first_order and checkpoint at false")
        self.images_per_class = images_per_class

    def adapt(self, parameters: Parameters, support: tuple[Tensor, Tensor, Tensor]) -> Parameters:
        labels = support[1]
        n_images = len(labels)
        # the first image of each class, the second of each class, …
        order = labels.argsort(stable=True).view(self.n_way, -1).mT.flatten()
        size = min(self.n_way * self.images_per_class, n_images)
        for step in range(self.n_steps):
            places = torch.arange(step * size, (step + 1) * size, device=labels.device) % n_images
            minibatch = [part[order[places]] for part in support]
            parameters = adapt(self.support_loss, parameters, self.inner_lr, 1, True, minibatch)
        return parameters

    def task_displacement(
        self, support_x: Tensor, support_y: Tensor, weight: Tensor, query_x: Tensor, query_y: Tensor
    ) -> tuple[Tensor, ...]:
        """Return logits of one task's queries after adaptation to all its images, and initial - adapted parameters."""
        images = torch.cat([support_x, query_x])
        weights = torch.cat([weight, torch.ones_like(query_y, dtype=weight.dtype)])
        initial = {name: value.detach() for name, value in self.network.named_parameters()}
        adapted = self.adapt(initial, (images, torch.cat([support_y, query_y]), weights))
        return self.query_logits(adapted, support_x, query_x), *(initial[name] - adapted[name] for name in initial)

    def loss(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        """Return a scalar with Reptile's gradient, and the logits.

        Its value is the cross-entropy of the queries after adaptation to them and the support images.
        """
        logits, *displacements = self.each_task(self.task_displacement, batch, batch.query_x, batch.query_y)
        parameters = dict(self.network.named_parameters())
        gradient = {name: moved.mean(0) for name, moved in zip(parameters, displacements, strict=True)}
        return with_gradient(cross_entropy(logits, batch.query_y), parameters, gradient), logits
