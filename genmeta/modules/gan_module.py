"""Pretraining of a GAN."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from genmeta.errors import UserError
from genmeta.models.checkpoint import KEY, describe_decoder
from genmeta.models.decoder import LatentDecoder
from genmeta.models.gan import GANObjective, NonSaturating, energy_distance
from genmeta.modules.image_data import ImageBatch, ImageDataModule


def adam(parameters: Any) -> torch.optim.Adam:
    """Adam with learning rate 2e-4 and betas (0.5, 0.999), as in DCGAN (Radford et al., ICLR 2016)."""
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999))


class GANModule(LightningModule):
    """Alternating steps of discriminator and generator on the images of the meta-train classes.

    The energy distance between generated and held-out images, on pixels, chooses the best checkpoint: crude, but it
    sees both blur and collapse.

    Args:
        generator: codes to images; its `forward` gives [-1, 1].
        discriminator: images in [-1, 1] to logits `[n]`.
        objective: the two losses.
        optimizer: makes an optimiser of parameters; called once for each network.
    """

    monitor, monitor_mode = "val/energy_distance", "min"

    def __init__(
        self,
        generator: LatentDecoder,
        discriminator: nn.Module,
        objective: GANObjective | None = None,
        optimizer: OptimizerCallable = adam,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = generator, discriminator
        self.objective = objective or NonSaturating()
        self.optimizer = optimizer
        self._held_out: list[Tensor] = []
        self._generated: list[Tensor] = []

    @property
    def decoder(self) -> LatentDecoder:
        """The network that others sample from."""
        return self.generator

    def check(self, data: ImageDataModule, stage: str) -> None:
        """Raise UserError if the networks are for images of another shape than the data."""
        check_image_shape(self.generator.image_shape, "model.generator", data)
        check_image_shape(getattr(self.discriminator, "image_shape", data.image_shape), "model.discriminator", data)

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[Any]]:
        return [self.optimizer(self.generator.parameters()), self.optimizer(self.discriminator.parameters())], []

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        generator_optimizer, discriminator_optimizer = self.optimizers()  # type: ignore[attr-defined]
        real = batch.images * 2 - 1
        fake = self.generator(self._prior(len(real), batch.rng))

        real_logits, fake_logits = self.discriminator(real), self.discriminator(fake.detach())
        discriminator_loss = self.objective.discriminator_loss(real_logits, fake_logits)
        discriminator_optimizer.zero_grad()
        self.manual_backward(discriminator_loss)
        discriminator_optimizer.step()

        self.discriminator.requires_grad_(False)  # its gradients are not needed for the generator's step
        generator_loss = self.objective.generator_loss(self.discriminator(fake))
        generator_optimizer.zero_grad()
        self.manual_backward(generator_loss)
        generator_optimizer.step()
        self.discriminator.requires_grad_(True)

        self.log_dict(
            {"train/loss_d": discriminator_loss, "train/loss_g": generator_loss}, prog_bar=True, batch_size=len(real)
        )
        self.log_dict(
            {
                "train/acc_d_real": (real_logits > 0).float().mean(),
                "train/acc_d_fake": (fake_logits < 0).float().mean(),
            },
            batch_size=len(real),
        )

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        self._held_out.append(batch.images)
        self._generated.append(self.generator.decode(self._prior(len(batch.images), batch.rng)))

    def on_validation_epoch_end(self) -> None:
        distance = energy_distance(torch.cat(self._held_out), torch.cat(self._generated))
        self._held_out.clear()
        self._generated.clear()
        self.log(self.monitor, distance, prog_bar=True, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        split = self.trainer.datamodule.split  # type: ignore[attr-defined]
        checkpoint[KEY] = describe_decoder(self.generator, "generator.", split)

    def _prior(self, n: int, rng: torch.Generator) -> Tensor:
        return torch.randn(n, self.generator.latent_dim, generator=rng, device=rng.device)


def check_image_shape(expected: tuple[int, int, int], option: str, data: ImageDataModule) -> None:
    """Raise UserError if a network is for images of another shape than the data."""
    if tuple(expected) != data.image_shape:
        raise UserError(
            f"{option} has image_shape {list(expected)}, but the data have {list(data.image_shape)} "
            f"(channels, height, width); set the one to the other"
        )
