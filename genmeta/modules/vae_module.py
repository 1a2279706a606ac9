"""Pretraining of a VAE."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from genmeta.errors import UserError
from genmeta.models.checkpoint import KEY, describe_decoder
from genmeta.models.decoder import LatentDecoder
from genmeta.models.vae import bernoulli_log_likelihood, kl_to_prior, sample_posterior
from genmeta.modules.gan_module import check_image_shape
from genmeta.modules.image_data import ImageBatch, ImageDataModule


def adam(parameters: Any) -> torch.optim.Adam:
    """Adam with learning rate 1e-3."""
    return torch.optim.Adam(parameters, lr=1e-3)


class VAEModule(LightningModule):
    """Maximises the evidence lower bound on the images of the meta-train classes, in nats per image.

    Args:
        encoder: images to mean and log variance, each `[n, latent_dim]`.
        decoder: codes to images; its `forward` gives Bernoulli logits.
        beta: weight of the KL term (Higgins et al., ICLR 2017); 1 is the bound itself. `train/elbo` and `val/elbo` are
            always the bound.
        optimizer: makes the optimiser of the parameters.
    """

    monitor, monitor_mode = "val/elbo", "max"

    def __init__(
        self, encoder: nn.Module, decoder: LatentDecoder, beta: float = 1.0, optimizer: OptimizerCallable = adam
    ) -> None:
        super().__init__()
        if beta < 0:
            raise UserError(f"model.beta must be at least 0, found {beta}")
        latent_dim = getattr(encoder, "latent_dim", decoder.latent_dim)
        if latent_dim != decoder.latent_dim:
            raise UserError(
                f"model.encoder has latent_dim {latent_dim}, but model.decoder has {decoder.latent_dim}; "
                f"they must be equal"
            )
        self.encoder, self.decoder, self.beta, self.optimizer = encoder, decoder, beta, optimizer

    def check(self, data: ImageDataModule, stage: str) -> None:
        """Raise UserError if the networks are for images of another shape than the data."""
        check_image_shape(self.decoder.image_shape, "model.decoder", data)
        check_image_shape(getattr(self.encoder, "image_shape", data.image_shape), "model.encoder", data)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        log_likelihood, kl = self._terms(batch)
        loss = (self.beta * kl - log_likelihood).mean()
        self.log("train/loss", loss, batch_size=len(kl))
        self.log("train/elbo", (log_likelihood - kl).mean(), prog_bar=True, batch_size=len(kl))
        self.log("train/kl", kl.mean(), prog_bar=True, batch_size=len(kl))
        return loss

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        log_likelihood, kl = self._terms(batch)
        self.log("val/elbo", (log_likelihood - kl).mean(), prog_bar=True, sync_dist=True, batch_size=len(kl))
        self.log("val/kl", kl.mean(), sync_dist=True, batch_size=len(kl))

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return the decoded posterior means, `[n, C, H, W]` in [0, 1]."""
        return self.decoder.decode(self.encoder(images)[0])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        split = self.trainer.datamodule.split  # type: ignore[attr-defined]
        checkpoint[KEY] = describe_decoder(self.decoder, "decoder.", split)

    def _terms(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        mean, log_var = self.encoder(batch.images)
        logits = self.decoder(sample_posterior(mean, log_var, batch.rng))
        return bernoulli_log_likelihood(logits, batch.images), kl_to_prior(mean, log_var)
