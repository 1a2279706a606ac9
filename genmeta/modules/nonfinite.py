"""Stops a training at the first loss or gradient that is not a finite number, and keeps what shows it again."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from genmeta.errors import UserError

NON_FINITE = "non-finite.ckpt"  # in the folder of checkpoints


class StopAtNonFinite(Callback):
    """Raises before an optimiser step would carry NaN or infinity into the weights.

    Saves a checkpoint with the weights that gave it and the number of the batch: `genmeta replay RUN` runs that batch
    again and says where it begins. In a GAN's batch the networks that have had their turn have stepped already.

    With 16-mixed precision infinite gradients are part of the method: the scaler leaves such a step out. So only the
    loss counts there.

    Args:
        folder: of the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._buffers: dict[str, Tensor] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # running statistics are changed by the forward pass, before anything can be noticed
        self._buffers = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        value = loss.detach()
        if not torch.isfinite(value).all():
            self._stop(trainer, f"the loss is {value.mean().item()}")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # one number for all of them: a look at each would wait for the device as often
        if gradients and not torch.isfinite(torch.stack(torch._foreach_norm(gradients)).sum()):
            names = [
                name for name, p in pl_module.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
            ]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            self._stop(trainer, f"the gradient of {', '.join(names[:3])}{more} is not finite")

    def _stop(self, trainer: Trainer, what: str) -> None:
        batch = trainer.fit_loop.epoch_loop.total_batch_idx
        path = self.folder / NON_FINITE
        content: dict[str, Any] = {
            "state_dict": {k: self._buffers.get(k, v) for k, v in trainer.lightning_module.state_dict().items()},
            "data": {**trainer.datamodule.state_dict(), "step": batch},  # type: ignore[attr-defined]
            "batch": batch,
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
            "what": what,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(content, path)
        raise UserError(
            f"training stopped at batch {batch} (epoch {trainer.current_epoch}): {what}; nothing was learned from it. "
            f"genmeta replay {self.folder.parent} runs that batch again and says where it begins; "
            f"a lower model.optimizer.init_args.lr or trainer.gradient_clip_val is what helps most often"
        )
