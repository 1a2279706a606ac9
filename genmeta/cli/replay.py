"""`genmeta replay`: runs the batch again at which a training met NaN or infinity, to see where it begins."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from genmeta.cli.options import OptionParser
from genmeta.cli.training import TrainingCLI
from genmeta.errors import UserError
from genmeta.experiments.run_folder import CONFIG_FILE
from genmeta.models.checkpoint import read_checkpoint
from genmeta.modules.nonfinite import NON_FINITE


def replay(args: Sequence[str]) -> int:
    """Run the batch again at which a training stopped, with the weights of that moment, and print where numbers stop
    being finite. Writes nothing.

    Returns:
        0 if it happened again, 1 if all numbers were finite this time.

    Raises:
        UserError: the run did not stop at such a batch, or has changed since.
    """
    parser = OptionParser("genmeta replay", replay.__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    folder = Path(parser.parse_args(args).run)
    path, config = folder / "checkpoints" / NON_FINITE, folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{folder}: has no checkpoints/{NON_FINITE}: no batch of it gave a loss that is not finite")
    saved = read_checkpoint(path)
    cli = TrainingCLI(["fit", f"--config={config}", "--ckpt_path=null", "--trainer.devices=1"], check_only=True)
    try:
        cli.model.load_state_dict(saved["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{path}: weights do not fit {config}") from error
    cli.datamodule.load_state_dict(saved["data"])
    witness = Witness()
    trainer = Trainer(
        max_epochs=saved["epoch"] + 1,
        limit_train_batches=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        precision=cli.config.trainer.precision,
        accelerator=cli.config.trainer.accelerator,
        devices=1,
        callbacks=[witness],
    )
    # modules read these counters, for example during a warm-up
    loop = trainer.fit_loop
    loop.epoch_progress.current.processed = saved["epoch"]  # type: ignore[attr-defined]
    loop.epoch_loop.batch_progress.total.ready = saved["batch"]
    loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = saved["global_step"]
    loop.epoch_loop.manual_optimization.optim_step_progress.total.completed = saved["global_step"]
    print(f"batch {saved['batch']} of {folder}, where {saved['what']}:", flush=True)
    with torch.autograd.set_detect_anomaly(True):
        try:
            trainer.fit(cli.model, cli.datamodule)
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            witness.tell(str(error).split(".")[0])
    if witness.found:
        return 0
    print("every number is finite this time: another machine, number of threads or version?")
    return 1


class Witness(Callback):
    """Prints the batch, and each first sign of a number that is not finite: inputs, weights, layers, gradients.

    Attributes:
        found: whether there was such a sign.
    """

    def __init__(self) -> None:
        self.found = False

    def tell(self, what: str) -> None:
        """Print a sign."""
        self.found = True
        print(f"  {what}", flush=True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        for name, value in vars(batch).items():
            if isinstance(value, Tensor):
                numbers = value.float()
                print(f"  {name}: {list(value.shape)}, {numbers.min():.4g} to {numbers.max():.4g}", flush=True)
                if not numbers.isfinite().all():
                    self.tell(f"{name} of the batch is not finite")
        for name, value in pl_module.state_dict().items():
            if value.is_floating_point() and not value.isfinite().all():
                self.tell(f"weight {name} is not finite before the batch")
        for name, module in pl_module.named_modules():
            if not list(module.children()):
                module.register_forward_hook(self._watch(name))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        print(f"  loss {loss.item():.6g}", flush=True)
        if not loss.isfinite().all():
            self.tell("the loss is not finite")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                self.tell(f"the gradient of {name} is not finite")

    def _watch(self, name: str) -> Any:
        told = False

        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal told
            if not told and isinstance(output, Tensor) and not output.isfinite().all():
                told = True
                self.tell(f"output of {name} ({type(module).__name__}) is not finite")

        return look
