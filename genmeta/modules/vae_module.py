"""Pretraining of a VAE."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MeanMetric

from genmeta.errors import UserError
from genmeta.models.decoder import LatentDecoder, LatentEncoder
from genmeta.models.flowed import FlowedDecoder, FlowedEncoder
from genmeta.models.likelihoods import Bernoulli, Likelihood
from genmeta.models.vae import importance_bound, sample_posterior, warmup, with_free_bits
from genmeta.models.vae_priors import ClassPrior, FlowPrior, Prior, StandardNormal
from genmeta.modules.generative_module import OF_SAMPLES, CodesModule
from genmeta.modules.image_data import ImageBatch, ImageDataModule
from genmeta.rng import make_rng
from genmeta.tasks.prior import GaussianMixture


def adam(parameters: Any) -> torch.optim.Adam:
    """Adam with learning rate 1e-3."""
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


def check_flow(prior: FlowPrior, latent_dim: int, of: str) -> None:
    """Raise UserError if the codes of a flow are of another size than those of the model's part `of`."""
    if prior.flow.latent_dim != latent_dim:
        raise UserError(
            f"model.latent_prior has latent_dim {prior.flow.latent_dim}, but model.{of} has {latent_dim}; "
            f"they must be equal"
        )


class VAEModule(CodesModule):
    """Maximises the evidence lower bound on the images of the meta-train classes, in nats per image.

    Args:
        encoder: images to mean and log variance, each `[n, latent_dim]`.
        decoder: codes to images; its `forward` gives logits.
        likelihood: how the logits explain an image.
        latent_prior: what the posterior is held to.
        second_stage: components of a Gaussian mixture that is fitted to the codes of the training images whenever a
            checkpoint is written, and drawn from in place of the prior: the posteriors do not fill the prior, and the
            decoder never saw what lies between (Ghosh et al., "From Variational to Deterministic Autoencoders", ICLR
            2020). 0: none, as with a `FlowPrior`.
        beta: weight of the KL term (Higgins et al., ICLR 2017); 1 is the bound itself. `train/elbo` and `val/elbo` are
            always the bound.
        warmup_steps: over these the weight of the KL term grows from 0 (Bowman et al., CoNLL 2016).
        free_bits: nats a latent dimension that cost nothing (Kingma et al., NeurIPS 2016).
        importance_samples: k of the bound by importance weighting (Burda et al., ICLR 2016) in the final report.
        optimizer: makes the optimiser of the parameters.
        lr_scheduler: makes its schedule, stepped once an epoch.
        compile: have `torch.compile` take encoder and decoder in training.
    """

    monitor, monitor_mode = "val/elbo", "max"

    def __init__(
        self,
        encoder: LatentEncoder,
        decoder: LatentDecoder,
        likelihood: Likelihood | None = None,
        latent_prior: Prior | None = None,
        second_stage: int = 0,
        beta: float = 1.0,
        warmup_steps: int = 0,
        free_bits: float = 0.0,
        importance_samples: int = 100,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.compiled = compile
        self.val_elbo, self.val_kl = MeanMetric(), MeanMetric()
        at_least = {
            "second_stage": (second_stage, 0),
            "beta": (beta, 0),
            "warmup_steps": (warmup_steps, 0),
            "free_bits": (free_bits, 0),
            "importance_samples": (importance_samples, 1),
        }
        for name, (value, least) in at_least.items():
            if value < least:
                raise UserError(f"model.{name} must be at least {least}, found {value}")
        if encoder.latent_dim != decoder.latent_dim:
            raise UserError(
                f"model.encoder has latent_dim {encoder.latent_dim}, but model.decoder has {decoder.latent_dim}; "
                f"they must be equal"
            )
        self.encoder, self.decoder_network = encoder, decoder
        self.likelihood, self.latent_prior = likelihood or Bernoulli(), latent_prior or StandardNormal()
        self.flowed = nn.ModuleDict()  # the same weights once more, by the names that a checkpoint's networks have
        if isinstance(self.latent_prior, FlowPrior):
            check_flow(self.latent_prior, decoder.latent_dim, "decoder")
            if second_stage:
                raise UserError(
                    f"model.second_stage is {second_stage}, but codes of a FlowPrior are drawn from its flow; "
                    f"set it to 0, or take another model.latent_prior"
                )
            flow = self.latent_prior.flow
            self.flowed.update({"decoder": FlowedDecoder(decoder, flow), "encoder": FlowedEncoder(encoder, flow)})
        self.second_stage, self.beta, self.warmup_steps, self.free_bits = second_stage, beta, warmup_steps, free_bits
        self.importance_samples, self.optimizer, self.lr_scheduler = importance_samples, optimizer, lr_scheduler
        self._fitted: tuple[int, GaussianMixture] | None = None

    @property
    def decoder(self) -> LatentDecoder:
        """That of codes of `prior()`."""
        return self.flowed["decoder"] if self.flowed else self.decoder_network  # type: ignore[return-value]

    @property
    def latent_encoder(self) -> LatentEncoder:
        """That of codes of `prior()`."""
        return self.flowed["encoder"] if self.flowed else self.encoder  # type: ignore[return-value]

    def networks(self) -> dict[str, tuple[nn.Module, str]]:
        if self.flowed:
            return {role: (network, f"flowed.{role}.") for role, network in self.flowed.items()}
        return {"decoder": (self.decoder_network, "decoder_network."), "encoder": (self.encoder, "encoder.")}

    def prior(self) -> GaussianMixture:
        if not self.second_stage:
            return self.trained_prior()
        if self._fitted is None or self._fitted[0] != self.global_step:  # validation and checkpoint share one
            self._fitted = (self.global_step, self._fit_second_stage())
        return self._fitted[1]

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._fitted = None  # it was fitted to the codes of other weights
        return super().load_state_dict(*args, **kwargs)

    def trained_prior(self) -> GaussianMixture:
        """Return the prior that the bound holds for."""
        return self.latent_prior.mixture(self.decoder.latent_dim, self.encoder, self.data.n_classes)

    def check(self, data: ImageDataModule, stage: str) -> None:
        """Raise UserError if the parts are for images of another shape than the data, or for fewer classes."""
        self.check_shape(self.decoder.image_shape, "model.decoder", data)
        self.check_shape(self.encoder.image_shape, "model.encoder", data)
        if isinstance(self.latent_prior, ClassPrior):
            room, dim = self.latent_prior.means.shape
            if room < data.n_classes or dim != self.decoder.latent_dim:
                raise UserError(
                    f"model.latent_prior has latent_dim {dim} and room for {room} classes, but the decoder has "
                    f"latent_dim {self.decoder.latent_dim} and the data have {data.n_classes} meta-train classes"
                )
        shape = getattr(self.latent_prior, "logits", torch.zeros(1, *data.image_shape)).shape[1:]
        self.check_shape(tuple(shape), "model.latent_prior", data)
        if self.second_stage > len(data.train_rows):
            raise UserError(
                f"model.second_stage is {self.second_stage} components, but there are {len(data.train_rows)} images"
            )

    def trained_parameters(self) -> list[Iterable[nn.Parameter]]:
        return [self.parameters()]

    def logged(self, data: ImageDataModule) -> set[str]:
        return {"train/loss", "train/elbo", "train/kl", "val/elbo", "val/kl"} | OF_SAMPLES

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.compiled:
            for network in (self.encoder, self.decoder_network):
                network.compile()

    def on_train_start(self) -> None:
        if self.global_step == 0:
            self.latent_prior.start(self.data.rendered(self.data.train_rows).to(self.device))

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        log_likelihood, kl = self._terms(batch)
        warm = warmup(self.global_step, self.warmup_steps)
        of_all = self.trainer.strategy.reduce(kl.detach().mean(0), reduce_op="mean") if self.free_bits else None
        loss = self.beta * warm * with_free_bits(kl, self.free_bits, of_all) - log_likelihood.mean()
        elbo = (log_likelihood - kl.sum(1)).mean()
        self.log("train/loss", loss, batch_size=len(kl))
        self.log_dict({"train/elbo": elbo, "train/kl": kl.sum(1).mean()}, prog_bar=True, batch_size=len(kl))
        return loss

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        log_likelihood, kl = self._terms(batch)
        elbo = log_likelihood - kl.sum(1)
        # metrics: Lightning's own mean over processes weighs each alike, however many images it had
        self.val_elbo.update(elbo)
        self.val_kl.update(kl.sum(1))
        self.log("val/elbo", self.val_elbo, prog_bar=True, on_step=False, on_epoch=True)
        self.log("val/kl", self.val_kl, on_step=False, on_epoch=True)

    def class_prior(self) -> GaussianMixture | None:
        return self.trained_prior() if isinstance(self.latent_prior, ClassPrior) else None

    def extra_metrics(self) -> dict[str, float]:
        """Return the bounds in nats on images that were not trained on, under the prior of training, besides what is
        reported of every encoder.
        """
        result = super().extra_metrics()
        log_prior = self.latent_prior.log_density(self.decoder.latent_dim, self.encoder, self.data.n_classes)
        for name, images in self.kept_back().items():
            rng = make_rng("bound", name, device=self.device)
            x = self.likelihood.prepare(images, rng)
            posterior = self.encoder(x)

            def log_likelihood(z: Tensor, of: Tensor, x: Tensor = x) -> Tensor:
                return self.likelihood.log_prob(self.decoder_network(z), x[of])

            for bound, k in (("elbo", 1), ("iwae", self.importance_samples)):
                value = importance_bound(posterior, log_likelihood, log_prior, k, rng, self.decoder.chunk_size * 2)
                result[f"{bound}_{name}"] = value.mean().item()
        return result

    def _terms(self, batch: ImageBatch) -> tuple[Tensor, Tensor]:
        """Return log likelihood `[n]` and KL `[n, terms]` in nats, from one draw."""
        x = self.likelihood.prepare(batch.images, batch.rng)
        mean, log_var = (t.float() for t in self.encoder(x))
        z = sample_posterior(mean, log_var, batch.rng)
        logits = self.decoder_network(z).float()
        kl = self.latent_prior.kl(mean, log_var, z, batch.labels, self.encoder)
        return self.likelihood.log_prob(logits, x), kl

    @torch.no_grad()
    def _fit_second_stage(self) -> GaussianMixture:
        from sklearn.mixture import GaussianMixture as Fit  # here: scikit-learn is slow to import

        images = self.data.rendered(self.data.train_rows).to(self.device)
        parts = [
            self.encoder(self.likelihood.prepare(chunk, make_rng("codes", device=self.device)))
            for chunk in images.split(512)
        ]
        mean, log_var = torch.cat([m for m, _ in parts]).cpu(), torch.cat([v for _, v in parts]).cpu()
        codes = sample_posterior(mean.float(), log_var.float(), make_rng("codes")).double().numpy()
        fit = Fit(self.second_stage, covariance_type="full", reg_covar=1e-3, max_iter=30, tol=1e-2, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged in 30 rounds: good enough to draw from
            fit.fit(codes)
        factors = torch.linalg.cholesky(torch.from_numpy(fit.covariances_))
        return GaussianMixture(*(torch.as_tensor(t).float() for t in (fit.weights_, fit.means_, factors)))
