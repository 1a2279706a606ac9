"""Pretraining of models that turn noise into images by steps: flows and diffusion."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from genmeta.errors import UserError
from genmeta.models.decoder import LatentDecoder, LatentEncoder, Redrawer
from genmeta.models.image_ode import ImageODE, ODEDecoder, ODEEncoder, ODERedrawer
from genmeta.modules.generative_module import OF_SAMPLES, CodesModule, GenerativeModule, RedrawingModule
from genmeta.modules.image_data import ImageBatch, ImageDataModule
from genmeta.modules.running_mean import running_mean
from genmeta.modules.vae_module import adam
from genmeta.tasks.prior import GaussianMixture


class _ODETraining(GenerativeModule):
    """Trains an `ImageODE`, and keeps a running mean of its weights.

    Args:
        ode: what is trained.
        ema_decay: of the running mean of the weights, which is sampled from and written into checkpoints; 0: none.
        optimizer: makes the optimiser of the parameters.
        lr_scheduler: makes its schedule, stepped once an epoch.
        compile: have `torch.compile` take the network in training.
    """

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
        self.sampled = nn.ModuleDict(self.around(self.sampled_ode))  # the same weights, as a checkpoint names them

    @staticmethod
    @abstractmethod
    def around(ode: ImageODE) -> dict[str, nn.Module]:
        """Return by role what others use of an `ImageODE`."""

    @abstractmethod
    def condition(self, ode: ImageODE, batch: ImageBatch) -> Tensor | None:
        """Return what the network is told of a batch in training."""

    @property
    def sampled_ode(self) -> ImageODE:
        """That of the mean of the weights."""
        ode = self.ode if self.average is None else self.average.module
        assert isinstance(ode, ImageODE)
        return ode

    def networks(self) -> dict[str, tuple[nn.Module, str]]:
        return {role: (network, f"sampled.{role}.") for role, network in self.sampled.items()}

    def check(self, data: ImageDataModule, stage: str) -> None:
        """Raise UserError if the network is for images of another shape than the data, or for fewer classes."""
        self.check_shape(self.ode.image_shape, "model.ode.network", data)

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
            for ode in (self.ode, self.sampled_ode):
                ode.measure(images)

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        loss = self._loss(self.ode, batch).mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.images))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.average is not None:
            self.average.update_parameters(self.ode)

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        # a metric: Lightning's own mean over processes weighs each alike, however many images it had
        self.val_loss.update(self._loss(self.sampled_ode, batch))
        self.log("val/loss", self.val_loss, prog_bar=True, on_step=False, on_epoch=True)

    def _loss(self, ode: ImageODE, batch: ImageBatch) -> Tensor:
        return ode.loss(self.drawn(batch) * 2 - 1, self.condition(ode, batch), batch.rng)

    def drawn(self, batch: ImageBatch) -> Tensor:
        """Return the images of a batch, in [0, 1], that are learned to be drawn."""
        return batch.images


class ODEModule(_ODETraining, CodesModule):
    """Trains a flow or a diffusion model on the images of the meta-train classes, conditional on the class if its
    network has `class_dim` above 0.
    """

    monitor, monitor_mode = "val/fid", "min"

    @staticmethod
    def around(ode: ImageODE) -> dict[str, nn.Module]:
        return {"decoder": ODEDecoder(ode), "encoder": ODEEncoder(ode)}

    def condition(self, ode: ImageODE, batch: ImageBatch) -> Tensor | None:
        return ode.training_vectors(batch.labels, batch.rng)

    @property
    def decoder(self) -> LatentDecoder:
        return self.sampled["decoder"]  # type: ignore[return-value]

    @property
    def latent_encoder(self) -> LatentEncoder:
        return self.sampled["encoder"]  # type: ignore[return-value]

    def prior(self) -> GaussianMixture:
        return self.sampled_ode.prior(self.data.n_classes)

    def class_prior(self) -> GaussianMixture | None:
        return self.prior() if self.ode.class_dim else None

    def check(self, data: ImageDataModule, stage: str) -> None:
        super().check(data, stage)
        network = self.ode.network
        if network.given:
            raise UserError("model.ode.network.given is true: its images are given; take ODERedrawModule for that")
        if network.classes is not None and network.classes.num_embeddings < data.n_classes:
            raise UserError(
                f"model.ode.network.max_classes is {network.classes.num_embeddings}, but the data have "
                f"{data.n_classes} meta-train classes"
            )


class ODERedrawModule(_ODETraining, RedrawingModule):
    """Trains a flow or a diffusion model on pairs of images of one class to draw the second, given the first."""

    monitor, monitor_mode = "val/loss", "min"

    @staticmethod
    def around(ode: ImageODE) -> dict[str, nn.Module]:
        return {"redrawer": ODERedrawer(ode)}

    def condition(self, ode: ImageODE, batch: ImageBatch) -> Tensor:
        return ode.told(batch.images * 2 - 1, batch.rng)

    def drawn(self, batch: ImageBatch) -> Tensor:
        return batch.partners

    @property
    def drawer(self) -> Redrawer:
        return self.sampled["redrawer"]  # type: ignore[return-value]

    def check(self, data: ImageDataModule, stage: str) -> None:
        super().check(data, stage)
        self.check_pairs(data)
        if not self.ode.network.given:
            raise UserError("model.ode.network.given is false: no image is given to it; set it to true")
