"""MAML and its nearest relatives: adapt a network to each task by gradient descent, and learn where to start.

ANIL and Meta-SGD are here; MAML++, Reptile and implicit MAML have files of their own. All have the same options.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.inner_loop import (
    Engine,
    Parameters,
    adapt,
    chosen_engine,
    over_tasks,
    weighted_cross_entropy,
)
from genmeta.learners.learner import Learner, check_image_shape
from genmeta.learners.task_norm import QueryStatistics, compute_by_hand, statistics_of_first, use_task_norm
from genmeta.models.backbones import keeps_running_statistics
from genmeta.models.patches import use_patches


class MAML(Learner):
    """Model-agnostic meta-learning: an initialisation from which a few gradient steps on the support set suffice.

    Finn, Abbeel and Levine, ICML 2017, algorithm 2; with `first_order`, FOMAML of section 5.2. Reference code:
    github.com/cbfinn/maml. Support images may have weights (`EpisodeBatch.support_weight`): the inner loss is the
    weighted mean. With a trainer's mixed precision (`bf16-mixed`) queries are classified in bfloat16, and adaptation
    stays in float32.

    Args:
        backbone: images `[n, C, H, W]` to features `[n, d]`, with `n_features = d`; no running statistics.
        n_way: classes of every episode in training and test: the size of the head.
        inner_lr: learning rate of adaptation.
        inner_steps: steps of adaptation in training.
        eval_inner_steps: steps of adaptation in evaluation; by default as many as in training.
        first_order: leave out the second derivatives (FOMAML).
        query_statistics: statistics by which batch norm normalises query images: `batch`, as in the paper
            (transductive: the query images of a task are classified together), or `support` (inductive). A test may
            change it.
        engine: how the tasks of a meta-batch are computed: `loop`, `vmap`, or `auto`: a loop on a CPU, where it is
            faster, `vmap` elsewhere. Results are the same.
        chunk: tasks that `vmap` computes together; more take more memory.
        checkpoint: compute each step of adaptation again in the backward pass instead of keeping its activations:
            the memory of many second-order steps for about a third more time.

    Raises:
        UserError: a size is out of range, or the backbone keeps running statistics.
    """

    compiles = False

    def __init__(
        self,
        backbone: nn.Module,
        n_way: int = 5,
        inner_lr: float = 0.4,
        inner_steps: int = 1,
        eval_inner_steps: int | None = None,
        first_order: bool = False,
        query_statistics: QueryStatistics = "batch",
        engine: Engine = "auto",
        chunk: int = 8,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if n_way < 2 or inner_steps < 0 or inner_lr <= 0 or (eval_inner_steps or 0) < 0 or chunk < 1:
            raise UserError(
                f"{name} needs n_way >= 2, inner_lr > 0, inner steps >= 0 and chunk >= 1; found n_way={n_way}, "
                f"inner_lr={inner_lr}, inner_steps={inner_steps}, eval_inner_steps={eval_inner_steps}, chunk={chunk}"
            )
        if keeps_running_statistics(backbone):
            raise UserError(f"{name} needs a backbone without running statistics: norm: batch or group")
        n_features = getattr(backbone, "n_features", None)
        if not isinstance(n_features, int):
            raise UserError(f"{name} needs a backbone with an attribute n_features; {type(backbone).__name__} has none")
        self.network = nn.Sequential(backbone, nn.Linear(n_features, n_way))
        use_task_norm(self.network)
        use_patches(self.network)
        self.n_way, self.inner_lr, self.first_order = n_way, inner_lr, first_order
        self.inner_steps = inner_steps
        self.eval_inner_steps = inner_steps if eval_inner_steps is None else eval_inner_steps
        self.query_statistics, self.engine, self.chunk, self.checkpoint = query_statistics, engine, chunk, checkpoint

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self.network[0], image_shape)
        if shape.n_way != self.n_way:
            raise UserError(
                f"the learner is {type(self).__name__} with n_way={self.n_way}, but the episodes have "
                f"n_way={shape.n_way}; its head has one output a class, so the two must be equal"
            )

    def forward(self, batch: EpisodeBatch) -> Tensor:
        return self.each_task(self.task_logits, batch, batch.query_x)[0]

    def task_logits(self, support_x: Tensor, support_y: Tensor, weight: Tensor, query_x: Tensor) -> tuple[Tensor]:
        """Return logits `[query, way]` of one task after adaptation to its support set; `weight` is `[way * shot]`."""
        adapted = self.adapt(dict(self.network.named_parameters()), (support_x, support_y, weight))
        return (self.query_logits(adapted, support_x, query_x),)

    def adapt(self, parameters: Parameters, support: tuple[Tensor, Tensor, Tensor]) -> Parameters:
        """Return the network's parameters adapted to support images, their labels and their weights."""
        return adapt(
            self.support_loss,
            parameters,
            self.learning_rate(),
            self.n_steps,
            self.first_order,
            support,
            self.checkpoint,
        )

    def learning_rate(self) -> float | Parameters:
        """Return the learning rate of adaptation, or one for each parameter."""
        return self.inner_lr

    def support_loss(self, parameters: Parameters, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Return the loss of adaptation for images `[n, C, H, W]`, labels and weights `[n]`."""
        return weighted_cross_entropy(torch.func.functional_call(self.network, parameters, (x,)), y, weight)

    def query_logits(self, parameters: Parameters, support_x: Tensor, query_x: Tensor) -> Tensor:
        """Return logits `[query, way]` of the network with such parameters."""
        return self.of_queries(lambda x: torch.func.functional_call(self.network, parameters, (x,)), support_x, query_x)

    def of_queries(self, network: Callable[[Tensor], Tensor], support_x: Tensor, query_x: Tensor) -> Tensor:
        """Return the output of (a part of) the network for query images, normalised by `query_statistics`."""
        if self.query_statistics == "batch":
            return network(query_x)
        n_support = len(support_x)
        with statistics_of_first(self.network, n_support):
            return network(torch.cat([support_x, query_x]))[n_support:]

    @property
    def n_steps(self) -> int:
        """Steps of adaptation in the present mode, training or evaluation."""
        return self.inner_steps if self.training else self.eval_inner_steps

    def each_task(
        self, task: Callable[..., tuple[Tensor, ...]], batch: EpisodeBatch, *more: Tensor
    ) -> tuple[Tensor, ...]:
        """Call `task(support_x, support_y, weight, *more)` for each task of a batch and stack the results."""
        weight = batch.support_weight
        if weight is None:
            weight = torch.ones_like(batch.support_y, dtype=batch.support_x.dtype)
        engine = chosen_engine(self.engine, batch.support_x.device)
        compute_by_hand(self.network, engine == "vmap")
        return over_tasks(task, (batch.support_x, batch.support_y, weight, *more), engine, self.chunk)


class ANIL(MAML):
    """Almost no inner loop: only the head, the last layer, is adapted to a task; the features are the same for all.

    Raghu, Raghu, Bengio and Vinyals, "Rapid Learning or Feature Reuse?", ICLR 2020, section 4. Features of the support
    images are computed once, however many steps follow. Arguments are those of `MAML`.
    """

    def task_logits(self, support_x: Tensor, support_y: Tensor, weight: Tensor, query_x: Tensor) -> tuple[Tensor]:
        backbone, head = self.network[0], self.network[1]

        def loss(parameters: Parameters, features: Tensor, y: Tensor, weight: Tensor) -> Tensor:
            return weighted_cross_entropy(torch.func.functional_call(head, parameters, (features,)), y, weight)

        with torch.autocast(support_x.device.type, enabled=False):
            features = backbone(support_x)
        start: Parameters = dict(head.named_parameters())
        data = (features, support_y, weight)
        adapted = adapt(loss, start, self.inner_lr, self.n_steps, self.first_order, data, self.checkpoint)
        query_features = self.of_queries(backbone, support_x, query_x)
        return (torch.func.functional_call(head, adapted, (query_features,)),)


class MetaSGD(MAML):
    """Meta-SGD: the learning rate of every single parameter is learned too, its sign included.

    Li, Zhou, Chen and Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", arXiv:1707.09835, algorithm 1.
    All rates begin with `inner_lr` (the paper draws them at random between 0.005 and 0.1). Arguments are those of
    `MAML`.
    """

    begins_with = frozenset({"inner_lr"})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        rates = [torch.full_like(p, self.inner_lr) for p in self.network.parameters()]
        self.rates = nn.ParameterList(nn.Parameter(rate) for rate in rates)  # in the order of the parameters

    def learning_rate(self) -> Parameters:
        return dict(zip((name for name, _ in self.network.named_parameters()), self.rates, strict=True))
