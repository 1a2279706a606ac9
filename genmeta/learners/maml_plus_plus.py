"""MAML++: losses after every step, and learned learning rates for each layer and step."""

from typing import Any

import torch
from torch import Tensor, nn

from genmeta.episode import EpisodeBatch
from genmeta.errors import UserError
from genmeta.learners.inner_loop import Parameters, adapt
from genmeta.learners.learner import cross_entropy
from genmeta.learners.maml import MAML


def step_weights(n_steps: int, progress: float) -> list[float]:
    """Return the weight of the query loss after each step; the sum is 1.

    Antoniou et al. 2019, section 4, "multi-step loss optimization": at first all weights are equal, then all but the
    last fall linearly, as in the reference code (few_shot_learning_system.py), and never below 0.03 of a step.

    Args:
        n_steps: steps of adaptation, at least 1.
        progress: from 0 at the start of training to 1, where only the last step counts.
    """
    early = max(1 - progress, 0.03) / n_steps
    return [early] * (n_steps - 1) + [1 - early * (n_steps - 1)]


class MAMLPlusPlus(MAML):
    """MAML++: MAML with query losses after every step, which make training stable, and learned learning rates.

    Antoniou, Edwards and Storkey, "How to train your MAML", ICLR 2019. Reference code:
    github.com/AntreasAntoniou/HowToTrainYourMAMLPytorch. Implemented are the multi-step loss with its annealing, and a
    learned learning rate for each layer and step (more steps in evaluation use the last rate). For annealing of the
    outer learning rate use `lr_scheduler` of `MetaModule`. Not implemented: first-order steps at the start of training,
    and statistics and weights of batch norm for each step.

    Args:
        args, kwargs: those of `MAML`; `inner_lr` is the start value of all learned rates.
        anneal_steps: training steps after which (almost) only the loss after the last step counts.

    Raises:
        UserError: as in `MAML`; or `inner_steps` or `anneal_steps` is below 1.
    """

    steps_done: Tensor

    begins_with = frozenset({"inner_lr"})

    def __init__(self, *args: Any, anneal_steps: int = 500, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.inner_steps < 1 or anneal_steps < 1:
            raise UserError(
                f"MAMLPlusPlus needs inner_steps >= 1 and anneal_steps >= 1; found inner_steps={self.inner_steps}, "
                f"anneal_steps={anneal_steps}"
            )
        self.anneal_steps = anneal_steps
        self.layer_of = {name: name.rpartition(".")[0] for name, _ in self.network.named_parameters()}
        self.layers = sorted(set(self.layer_of.values()))
        self.rates = nn.Parameter(torch.full((self.inner_steps, len(self.layers)), self.inner_lr))
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.int64))  # so that a resumed run goes on from it

    def step_rates(self, step: int) -> Parameters:
        """Return the learning rate, a scalar, of each parameter in a step of adaptation."""
        rates = dict(zip(self.layers, self.rates[min(step, self.inner_steps - 1)], strict=True))
        return {name: rates[layer] for name, layer in self.layer_of.items()}

    def adapted_after_each_step(self, support: tuple[Tensor, Tensor, Tensor]) -> list[Parameters]:
        """Return the parameters after each step of adaptation to a support set, the initial ones first."""
        parameters: list[Parameters] = [dict(self.network.named_parameters())]
        for step in range(self.n_steps):
            options = (1, self.first_order, support, self.checkpoint)
            parameters.append(adapt(self.support_loss, parameters[-1], self.step_rates(step), *options))
        return parameters

    def adapt(self, parameters: Parameters, support: tuple[Tensor, Tensor, Tensor]) -> Parameters:
        return self.adapted_after_each_step(support)[-1]

    def task_logits_of_steps(
        self, support_x: Tensor, support_y: Tensor, weight: Tensor, query_x: Tensor
    ) -> tuple[Tensor]:
        """Return logits `[step, query, way]` of one task after each step."""
        after = self.adapted_after_each_step((support_x, support_y, weight))[1:]
        return (torch.stack([self.query_logits(parameters, support_x, query_x) for parameters in after]),)

    def loss(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of the query losses after each step, and the logits after the last."""
        if not self.training:
            return super().loss(batch)
        logits = self.each_task(self.task_logits_of_steps, batch, batch.query_x)[0].unbind(1)
        weights = step_weights(len(logits), int(self.steps_done) / self.anneal_steps)
        self.steps_done += 1
        losses = [weight * cross_entropy(one, batch.query_y) for weight, one in zip(weights, logits, strict=True)]
        return torch.stack(losses).sum(), logits[-1]
