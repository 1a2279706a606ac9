"""Optimisation-based learners: adapt a network to each task by gradient descent."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.learner import Learner, check_image_shape
from genmeta.models.backbones import keeps_running_statistics

Parameters = dict[str, Tensor]


def adapt(
    loss: Callable[[Parameters], Tensor], parameters: Parameters, lr: float, steps: int, first_order: bool
) -> Parameters:
    """Return the parameters after some steps of gradient descent on `loss`.

    Gradients of the result flow back to `parameters`: through the steps (second order), or past their gradients
    (first order). `torch.func.grad` works with gradients on, under `no_grad` and in inference mode.
    """
    for _ in range(steps):
        gradients = torch.func.grad(loss)(parameters)
        if first_order:
            gradients = {name: gradient.detach() for name, gradient in gradients.items()}
        parameters = {name: value - lr * gradients[name] for name, value in parameters.items()}
    return parameters


class MAML(Learner):
    """Model-agnostic meta-learning: an initialisation from which a few gradient steps on the support set suffice.

    Finn, Abbeel and Levine, ICML 2017, algorithm 2. Reference code: github.com/cbfinn/maml. Tasks are computed one
    after the other (on a CPU faster than `vmap`, which is also silently wrong in second order over `F.batch_norm`). As
    in the paper, batch norm uses the statistics of the images at hand, so the query images of a task are classified
    together (the transductive setting).

    Args:
        backbone: images `[n, C, H, W]` to features `[n, d]`, with `n_features = d`; no running statistics.
        n_way: classes of every episode in training and test: the size of the head.
        inner_lr: learning rate of adaptation.
        inner_steps: steps of adaptation in training.
        eval_inner_steps: steps of adaptation in evaluation; by default as many as in training.
        first_order: leave out the second derivatives (FOMAML).

    Raises:
        UserError: a size is out of range, or the backbone keeps running statistics.
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_way: int = 5,
        inner_lr: float = 0.4,
        inner_steps: int = 1,
        eval_inner_steps: int | None = None,
        first_order: bool = False,
    ) -> None:
        super().__init__()
        if n_way < 2 or inner_steps < 0 or inner_lr <= 0 or (eval_inner_steps or 0) < 0:
            raise UserError(
                f"MAML needs n_way >= 2, inner_lr > 0 and inner steps >= 0; found n_way={n_way}, inner_lr={inner_lr}, "
                f"inner_steps={inner_steps}, eval_inner_steps={eval_inner_steps}"
            )
        if keeps_running_statistics(backbone):
            raise UserError("MAML needs a backbone without running statistics: norm: batch or group")
        n_features = getattr(backbone, "n_features", None)
        if not isinstance(n_features, int):
            raise UserError(f"MAML needs a backbone with an attribute n_features; {type(backbone).__name__} has none")
        self.network = nn.Sequential(backbone, nn.Linear(n_features, n_way))
        self.n_way, self.inner_lr, self.first_order = n_way, inner_lr, first_order
        self.inner_steps = inner_steps
        self.eval_inner_steps = inner_steps if eval_inner_steps is None else eval_inner_steps

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self.network[0], image_shape)
        if shape.n_way != self.n_way:
            raise UserError(
                f"the learner is MAML with n_way={self.n_way}, but the episodes have n_way={shape.n_way}; "
                f"its head has one output a class, so the two must be equal"
            )

    def forward(self, batch: EpisodeBatch) -> Tensor:
        tasks = zip(batch.support_x, batch.support_y, batch.query_x, strict=True)
        return torch.stack([self.task_logits(*task) for task in tasks])

    def task_logits(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Return logits `[query, way]` of one task after adaptation to its support set."""

        def logits(parameters: Parameters, x: Tensor) -> Tensor:
            return torch.func.functional_call(self.network, parameters, (x,))

        adapted = adapt(
            lambda parameters: F.cross_entropy(logits(parameters, support_x), support_y),
            dict(self.network.named_parameters()),
            self.inner_lr,
            self.inner_steps if self.training else self.eval_inner_steps,
            self.first_order,
        )
        return logits(adapted, query_x)
