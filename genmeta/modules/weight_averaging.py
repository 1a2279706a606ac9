"""An exponential moving average of the weights of a training."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn

from genmeta.errors import UserError


class WeightEMA(EMAWeightAveraging):
    """Lightning's average over the steps, running statistics included: for validation, the best checkpoint and tests.

    A checkpoint's `state_dict` is the average, beside it are the current weights, from which training goes on. It may
    stay in the configuration of a test, where Lightning's own would warn that there is nothing to average.

    Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim. 1992.

    Args:
        decay: what is kept of the average at each step, in (0, 1); the average is of some 1 / (1 - decay) steps.

    Raises:
        UserError: the decay is out of range.
    """

    def __init__(self, decay: float = 0.99) -> None:
        if not 0 < decay < 1:
            raise UserError(f"WeightEMA: decay must be in (0, 1), found {decay}")
        super().__init__(decay=decay)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
