"""Implicit MAML: the meta-gradient depends only on the end of adaptation, not on its path."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch
from genmeta.errors import UserError
from genmeta.learners.inner_loop import Parameters, adapt, with_gradient
from genmeta.learners.learner import cross_entropy
from genmeta.learners.maml import MAML


def conjugate_gradient(product: Callable[[Parameters], Parameters], b: Parameters, steps: int) -> Parameters:
    """Return x with `product(x) = b` for a symmetric linear `product`, after some steps from x = 0.

    Hestenes and Stiefel 1952. After as many steps as there are unknowns, x is exact up to rounding. It stops where
    `product` is not positive definite (Steihaug 1983, algorithm 2.1), with b itself if this is in the first step.
    """

    def dot(one: Parameters, other: Parameters) -> Tensor:
        return torch.stack([(one[name] * other[name]).sum() for name in one]).sum()

    def plus(one: Parameters, factor: Tensor, other: Parameters) -> Parameters:
        return {name: one[name] + factor * other[name] for name in one}

    x = {name: torch.zeros_like(value) for name, value in b.items()}
    residual = direction = b
    squared = dot(b, b)
    positive = torch.ones_like(
        squared, dtype=torch.bool
    )  # a mask instead of a break: under vmap tasks stop at different steps
    for step in range(steps):
        image = product(direction)
        curvature = dot(direction, image)
        positive = positive & (curvature > 0)
        size = torch.where(positive, squared / curvature, 1.0 if step == 0 else 0.0)
        x, residual = plus(x, size, direction), plus(residual, -size, image)
        before, squared = squared, dot(residual, residual)
        direction = plus(residual, torch.where(positive, squared / before, 0.0), direction)
    return x


class ImplicitMAML(MAML):
    """Implicit MAML (iMAML): adaptation stays near the initialisation, and only its end decides the meta-gradient.

    Rajeswaran, Finn, Kakade and Levine, "Meta-Learning with Implicit Gradients", NeurIPS 2019, algorithms 1 and 2.
    Reference code: github.com/aravindr93/imaml_dev. Adaptation minimises support loss + proximity / 2 · |φ - θ|²
    (eq. 3); at its end φ the meta-gradient is (I + H / proximity)⁻¹ g, with the support loss's Hessian H and the query
    loss's gradient g at φ (eq. 6), by conjugate gradients. Memory does not grow with the number of steps.

    Args:
        args, kwargs: those of `MAML`; `first_order` and `checkpoint` would change nothing and are refused.
        proximity: λ of the paper; a larger value keeps adaptation nearer to the initialisation.
        cg_steps: steps of conjugate gradients; 0 would give g itself, as in FOMAML, and is refused.

    Raises:
        UserError: as in `MAML`; or `proximity` or `cg_steps` is out of range.
    """

    def __init__(self, *args: Any, proximity: float = 2.0, cg_steps: int = 5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if proximity <= 0 or cg_steps < 1:
            raise UserError(
                f"ImplicitMAML needs proximity > 0 and cg_steps >= 1; found proximity={proximity}, cg_steps={cg_steps}"
            )
        if self.first_order or self.checkpoint:
            raise UserError(
                "ImplicitMAML does not differentiate through steps: leave first_order and checkpoint at false"
            )
        self.proximity, self.cg_steps = proximity, cg_steps

    def adapt(self, parameters: Parameters, support: tuple[Tensor, Tensor, Tensor]) -> Parameters:
        centre = {name: value.detach() for name, value in parameters.items()}

        def loss(at: Parameters, *data: Tensor) -> Tensor:
            squares = [(at[name] - centre[name]).square().sum() for name in at]
            return self.support_loss(at, *data) + self.proximity / 2 * torch.stack(squares).sum()

        return adapt(loss, parameters, self.inner_lr, self.n_steps, True, support)

    def task_gradient(
        self, support_x: Tensor, support_y: Tensor, weight: Tensor, query_x: Tensor, query_y: Tensor
    ) -> tuple[Tensor, ...]:
        """Return logits of one task's queries after adaptation, and the task's meta-gradient."""
        support = (support_x, support_y, weight)
        adapted = self.adapt({name: value.detach() for name, value in self.network.named_parameters()}, support)

        def query_loss(at: Parameters) -> tuple[Tensor, Tensor]:
            logits = self.query_logits(at, support_x, query_x)
            return F.cross_entropy(logits, query_y), logits

        gradient, logits = torch.func.grad(query_loss, has_aux=True)(adapted)
        return logits, *self.implicit_gradient(adapted, gradient, support).values()

    def implicit_gradient(self, adapted: Parameters, gradient: Parameters, support: tuple[Tensor, ...]) -> Parameters:
        """Return (I + H / proximity)⁻¹ gradient, with the Hessian H of the support loss at the adapted parameters."""
        with torch.autocast(support[0].device.type, enabled=False):
            # the Hessian is symmetric: a vector times it is it times the vector; its graph is made once
            slope = torch.func.grad(self.support_loss)
            _, hessian_product = torch.func.vjp(lambda at: slope(at, *support), adapted)  # type: ignore

            def product(vector: Parameters) -> Parameters:
                curved = hessian_product(vector)[0]
                return {name: vector[name] + curved[name] / self.proximity for name in vector}

            return conjugate_gradient(product, gradient, self.cg_steps)

    def loss(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        """Return a scalar that equals the cross-entropy of the queries and has the implicit gradient; the logits."""
        logits, *gradients = self.each_task(self.task_gradient, batch, batch.query_x, batch.query_y)
        parameters = dict(self.network.named_parameters())
        mean = {name: gradient.mean(0) for name, gradient in zip(parameters, gradients, strict=True)}
        return with_gradient(cross_entropy(logits, batch.query_y), parameters, mean), logits
