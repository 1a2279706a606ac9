"""Pretraining of a VAE, and of a flow that its codes are drawn by."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from genmeta.errors import UserError
from genmeta.models.flowed import FlowedDecoder, FlowedEncoder
from genmeta.models.image_ode import ImageODE
from genmeta.models.latent_flow import ODEFlow
from genmeta.models.vae import sample_posterior
from genmeta.modules.image_data import ImageBatch, ImageDataModule
from genmeta.modules.running_mean import running_mean
from genmeta.modules.vae_module import VAEModule
from genmeta.rng import Rng
from genmeta.tasks.prior import GaussianMixture


class LatentFlowModule(VAEModule):
    """A VAE whose codes are drawn by flow matching, not its prior: for large images, where a flow of pixels is dear.

    Both are trained in one run. The VAE learns nothing from the flow, which follows its posteriors; at the end these
    hardly move any more. Codes that others draw, and encodings, are in the base of the flow: N(0, I).

    Vahdat, Kreis and Kautz, "Score-based Generative Modeling in Latent Space", NeurIPS 2021; Dao et al., "Flow Matching
    in Latent Space", 2023. `train/loss` is that of the VAE, `val/loss` that of the flow.

    Args:
        ode: the flow of codes; its network is a `CodeNetwork`.
        ema_decay: of the running mean of the flow's weights, which is drawn by; 0: none.
        vae: of a `VAEModule`; no `second_stage`, and no `FlowPrior`.
    """

    monitor, monitor_mode = "val/fid", "min"

    def __init__(self, ode: ImageODE, ema_decay: float = 0.998, **vae: Any) -> None:
        super().__init__(**vae)
        if self.flowed or self.second_stage:
            raise UserError("model: codes are drawn by model.ode; set second_stage to 0, and take no FlowPrior")
        if not 0 <= ema_decay < 1:
            raise UserError(f"model.ema_decay must be in [0, 1), found {ema_decay}")
        if ode.image_shape != (self.encoder.latent_dim, 1, 1):
            raise UserError(
                f"model.ode.network is for codes of {ode.image_shape[0]} entries, but model.encoder has latent_dim "
                f"{self.encoder.latent_dim}; they must be equal"
            )
        self.ode = ode
        self.average = running_mean(ode, ema_decay) if ema_decay else None
        sampled = ode if self.average is None else self.average.module
        assert isinstance(sampled, ImageODE)
        self.sampled_ode, flow = sampled, ODEFlow(sampled)
        self.flowed["decoder"] = FlowedDecoder(self.decoder_network, flow)
        self.flowed["encoder"] = FlowedEncoder(self.encoder, flow)

    def prior(self) -> GaussianMixture:
        return GaussianMixture.standard(self.encoder.latent_dim)

    def class_prior(self) -> None:
        return None

    def trained_parameters(self) -> list[Iterable[nn.Parameter]]:
        return [[weights for weights in self.parameters() if weights.requires_grad]]

    def logged(self, data: ImageDataModule) -> set[str]:
        return super().logged(data) | {"val/loss"}

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        of_vae = super().training_step(batch, batch_idx)
        of_flow = self._flow_loss(self.ode, batch.images, batch.rng).mean()
        return of_vae + of_flow

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.average is not None:
            self.average.update_parameters(self.ode)

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        loss = self._flow_loss(self.sampled_ode, batch.images, batch.rng)
        self.log("val/loss", loss.mean(), on_step=False, on_epoch=True, batch_size=len(loss))

    def _flow_loss(self, ode: ImageODE, images: Tensor, rng: Rng) -> Tensor:
        with torch.no_grad():  # the VAE learns nothing from the flow
            mean, log_var = (t.float() for t in self.encoder(self.likelihood.prepare(images, rng)))
            codes = sample_posterior(mean, log_var, rng)
        return ode.loss(codes[:, :, None, None], None, rng)
