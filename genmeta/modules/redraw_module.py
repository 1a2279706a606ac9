"""Pretraining of a VAE conditioned on an image."""

from collections.abc import Iterable

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from genmeta.errors import UserError
from genmeta.models.decoder import Redrawer
from genmeta.models.flowed import FlowedRedrawer
from genmeta.models.likelihoods import Bernoulli
from genmeta.models.redraw import (
    ERROR_WEIGHT,
    DeformationRedrawer,
    PairEncoder,
    PixelRedrawer,
    blurred_error,
    roughness,
)
from genmeta.models.vae import kl_to_prior, sample_posterior, warmup
from genmeta.models.vae_priors import FlowPrior
from genmeta.modules.generative_module import OF_SAMPLES, RedrawingModule, evenly
from genmeta.modules.image_data import ImageBatch, ImageDataModule
from genmeta.modules.vae_module import adam, check_flow
from genmeta.rng import make_rng

ROUGHNESS_WEIGHT = 2.0  # of the deformation's loss, against the KL divergence in nats


class RedrawModule(RedrawingModule):
    """Learns from pairs of images of one class to redraw the first as if it were the second.

    The pixel form maximises the evidence lower bound on log p(x' | x) with a Bernoulli likelihood. The deformation
    minimises squared errors of blurred images, the field's roughness and the KL divergence; that is no bound in nats.

    Args:
        encoder: q(z | x, x').
        redrawer: p(x' | x, z).
        warmup_steps: over these the weight of the KL term grows from 0.
        optimizer: makes the optimiser of the parameters.
        lr_scheduler: makes its schedule, stepped once an epoch.
        latent_prior: a normalising flow that the posterior is held to; N(0, I) if left out. Its checkpoint has no
            encoder of pairs, whose codes are not those that tasks draw.
    """

    monitor, monitor_mode = "val/loss", "min"

    def __init__(
        self,
        encoder: PairEncoder,
        redrawer: Redrawer,
        warmup_steps: int = 0,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        latent_prior: FlowPrior | None = None,
    ) -> None:
        super().__init__()
        if encoder.latent_dim != redrawer.latent_dim:
            raise UserError(
                f"model.encoder has latent_dim {encoder.latent_dim}, but model.redrawer has {redrawer.latent_dim}; "
                f"they must be equal"
            )
        if not isinstance(redrawer, PixelRedrawer | DeformationRedrawer):
            raise UserError(f"model.redrawer: no loss is known for a {type(redrawer).__name__}")
        if warmup_steps < 0:
            raise UserError(f"model.warmup_steps must be at least 0, found {warmup_steps}")
        self.encoder, self.redrawer, self.warmup_steps = encoder, redrawer, warmup_steps
        self.latent_prior, self.flowed = latent_prior, None
        if latent_prior is not None:
            check_flow(latent_prior, redrawer.latent_dim, "redrawer")
            self.flowed = FlowedRedrawer(redrawer, latent_prior.flow)  # the same weights once more, as tasks use them
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.likelihood = Bernoulli()
        self.val_loss, self.val_kl = MeanMetric(), MeanMetric()

    def networks(self) -> dict[str, tuple[nn.Module, str]]:
        if self.flowed is not None:
            return {"redrawer": (self.flowed, "flowed.")}
        return {"redrawer": (self.redrawer, "redrawer."), "pair_encoder": (self.encoder, "encoder.")}

    @property
    def drawer(self) -> Redrawer:
        return self.flowed or self.redrawer

    def check(self, data: ImageDataModule, stage: str) -> None:
        """Raise UserError if the networks are for images of another shape than the data, or no class has two images."""
        self.check_shape(self.redrawer.image_shape, "model.redrawer", data)
        self.check_shape(self.encoder.image_shape, "model.encoder", data)
        self.check_pairs(data)

    def trained_parameters(self) -> list[Iterable[nn.Parameter]]:
        return [self.parameters()]

    def logged(self, data: ImageDataModule) -> set[str]:
        return {"train/loss", "train/error", "train/kl", "val/loss", "val/kl"} | OF_SAMPLES

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        error, kl = self._terms(batch)
        warm = warmup(self.global_step, self.warmup_steps)
        loss = (error + warm * kl).mean()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(kl))
        self.log_dict({"train/error": error.mean(), "train/kl": kl.mean()}, prog_bar=True, batch_size=len(kl))
        return loss

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        error, kl = self._terms(batch)
        # metrics: Lightning's own mean over processes weighs each alike, however many images it had
        self.val_loss.update(error + kl)
        self.val_kl.update(kl)
        self.log("val/loss", self.val_loss, prog_bar=True, on_step=False, on_epoch=True)
        self.log("val/kl", self.val_kl, on_step=False, on_epoch=True)

    def _terms(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Return the error and the KL divergence, each `[n]`."""
        x, other = batch.images, batch.partners
        mean, log_var = (t.float() for t in self.encoder(x, other))
        z = sample_posterior(mean, log_var, batch.rng)
        if isinstance(self.redrawer, PixelRedrawer):
            error = -self.likelihood.log_prob(self.redrawer.logits(x, z).float(), other)
        else:
            drawn, field = self.redrawer(x, z)
            error = ERROR_WEIGHT * blurred_error(drawn.float(), other) + ROUGHNESS_WEIGHT * roughness(field.float())
        prior = self.latent_prior
        kl = kl_to_prior(mean, log_var) if prior is None else prior.estimated_kl(mean, log_var, z)
        return error, kl.sum(1)

    def extra_metrics(self) -> dict[str, float]:
        """Return the bound on log p(x' | x) in nats of the pixel form, on pairs of unseen classes."""
        if not isinstance(self.redrawer, PixelRedrawer):
            return {}
        rows = evenly(self.data.unseen_rows, 200)
        table = self.data.table
        assert table is not None
        ids = table.class_ids[rows]
        partners = table.starts[ids] + (rows - table.starts[ids] + 1) % table.counts[ids]
        x, other = (self.data.rendered(r).to(self.device) for r in (rows, partners))
        batch = ImageBatch(x, other, ids, make_rng("bound", device=self.device))
        error, kl = self._terms(batch)
        return {"elbo_unseen": -(error + kl).mean().item()}
