"""Pretraining of models that turn noise into images by steps."""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from genmeta.errors import UserError
from genmeta.models.decoder import LatentDecoder, LatentEncoder
from genmeta.models.image_ode import ImageODE, ODEDecoder, ODEEncoder
from genmeta.modules.generative_module import OF_SAMPLES, CodesModule
from genmeta.modules.image_data import ImageBatch, ImageDataModule
from genmeta.modules.running_mean import running_mean
from genmeta.modules.vae_module import adam
from genmeta.tasks.prior import GaussianMixture


class ODEModule(CodesModule):
    """Trains an `ImageODE`, such as a diffusion model, on the images of the meta-train classes.

    Args:
        ode: what is trained; its network knows classes if it has `class_dim` above 0.
        ema_decay: of the running mean of the weights, which is sampled from and written into checkpoints; 0: none.
        optimizer: makes the optimiser of the parameters.
        lr_scheduler: makes its schedule, stepped once an epoch.
        compile: have `torch.compile` take the network in training.
    """

    monitor, monitor_mode = "val/fid", "min"

    def __init__(
        self,
        ode: ImageODE,
        ema_decay: float = 0.999,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= ema_decay < 1:
            raise UserError(f"model.ema_decay must be in [0, 1), found {ema_decay}")
        self.ode, self.compiled = ode, compile
        self.average = running_mean(ode, ema_decay) if ema_decay else None
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.val_loss = MeanMetric()
        sampled = ode if self.average is None else self.average.module
        assert isinstance(sampled, ImageODE)
        self.sampled = nn.ModuleDict({"decoder": ODEDecoder(sampled), "encoder": ODEEncoder(sampled)})

    @property
    def decoder(self) -> LatentDecoder:
        return self.sampled["decoder"]  # type: ignore[return-value]

    @property
    def latent_encoder(self) -> LatentEncoder:
        return self.sampled["encoder"]  # type: ignore[return-value]

    def networks(self) -> dict[str, tuple[nn.Module, str]]:
        return {role: (network, f"sampled.{role}.") for role, network in self.sampled.items()}

    def prior(self) -> GaussianMixture:
        return self._sampled_ode.prior(self.data.n_classes)

    def class_prior(self) -> GaussianMixture | None:
        return self.prior() if self.ode.class_dim else None

    def check(self, data: ImageDataModule, stage: str) -> None:
        """Raise UserError if the network is for images of another shape than the data, or for fewer classes."""
        self.check_shape(self.ode.image_shape, "model.ode.network", data)
        classes = self.ode.network.classes
        if classes is not None and classes.num_embeddings < data.n_classes:
            raise UserError(
                f"model.ode.network.max_classes is {classes.num_embeddings}, but the data have {data.n_classes} "
                f"meta-train classes"
            )

    def trained_parameters(self) -> list[Iterable[nn.Parameter]]:
        return [self.ode.parameters()]

    def logged(self, data: ImageDataModule) -> set[str]:
        return {"train/loss", "val/loss"} | OF_SAMPLES

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.compiled:
            self.ode.network.compile()

    def on_train_start(self) -> None:
        if self.global_step == 0:
            images = self.data.rendered(self.data.train_rows).to(self.device) * 2 - 1
            for ode in (self.ode, self._sampled_ode):
                ode.measure(images)

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        loss = self._loss(self.ode, batch).mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.images))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.average is not None:
            self.average.update_parameters(self.ode)

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        self.val_loss.update(self._loss(self._sampled_ode, batch))
        self.log("val/loss", self.val_loss, prog_bar=True, on_step=False, on_epoch=True)

    @property
    def _sampled_ode(self) -> ImageODE:
        ode = self.decoder.ode
        assert isinstance(ode, ImageODE)
        return ode

    def _loss(self, ode: ImageODE, batch: ImageBatch) -> Tensor:
        vectors = ode.training_vectors(batch.labels, batch.rng)
        return ode.loss(batch.images * 2 - 1, vectors, batch.rng)
