"""Meta-batches that do not fit into memory: as many tasks at a time as do."""

import sys

import torch
from torch import Tensor

from genmeta.episode import EpisodeBatch
from genmeta.learners.draws import Draws
from genmeta.learners.inner_loop import with_gradient
from genmeta.learners.learner import Learner


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory, of the machine or of a GPU, is used up."""
    # the last two are what oneDNN, which convolves on CPUs, says when it gets none
    messages = ("can't allocate memory", "could not create a primitive", "could not create a memory object")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in messages)


def loss_in_parts(learner: Learner, batch: EpisodeBatch, at_once: int) -> tuple[Tensor, Tensor]:
    """Return what `learner.loss` returns, computed on `at_once` tasks at a time, of which only the gradients are kept.

    Value and gradient are those of the whole but for rounding, unless tasks depend on each other (running statistics of
    batch norm are updated once a part). The gradient is computed here, not in the backward pass.
    """
    parameters = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    gradient = {name: torch.zeros_like(p) for name, p in parameters.items()}
    counters = [part.count for part in learner.modules() if isinstance(part, Draws)]
    step = [count.clone() for count in counters]
    total, logits = torch.zeros((), device=batch.support_x.device), []
    for first in range(0, len(batch), at_once):
        for count, value in zip(counters, step, strict=True):
            count.copy_(value)  # parts are of one step
        part = batch[first : first + at_once]
        loss, of_part = learner.loss(part)
        share = len(part) / len(batch)
        for sum_, value in zip(
            gradient.values(),
            torch.autograd.grad(loss, list(parameters.values()), allow_unused=True),
            strict=True,
        ):
            if value is not None:
                sum_.add_(value, alpha=share)
        total = total + share * loss.detach()
        logits.append(of_part.detach())
    return with_gradient(total, parameters, gradient), torch.cat(logits)


class HalvingLoss:
    """The loss of a learner on as many tasks at a time as memory has room for: halved whenever it is used up.

    The smaller number is kept for the rest of the run.

    Raises:
        RuntimeError: memory does not do for a single task.
    """

    def __init__(self) -> None:
        self.at_once: int | None = None  # not known yet

    def __call__(self, learner: Learner, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        """Return what `learner.loss` returns (`loss_in_parts`)."""
        while True:
            before = {name: buffer.clone() for name, buffer in learner.named_buffers()}
            at_once = min(self.at_once or len(batch), len(batch))
            try:
                return loss_in_parts(learner, batch, at_once)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or at_once == 1:
                    raise
            # outside of the handler: an exception holds on to all that is to be freed
            for name, buffer in learner.named_buffers():
                buffer.copy_(before[name])
            self.at_once = (at_once + 1) // 2
            if batch.support_x.is_cuda:
                torch.cuda.empty_cache()
            print(
                f"genmeta: out of memory with {at_once} tasks at a time; going on with {self.at_once}", file=sys.stderr
            )
