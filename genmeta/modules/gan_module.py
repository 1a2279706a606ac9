"""Pretraining of a GAN."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from genmeta.errors import UserError
from genmeta.models.decoder import Discriminator, LatentDecoder, LatentEncoder
from genmeta.models.diff_augment import DiffAugment
from genmeta.models.gan_networks import Generator
from genmeta.models.gan_objectives import GANObjective, NonSaturating, gradient_penalty, r1_penalty
from genmeta.models.vae import log_normal
from genmeta.modules.generative_module import OF_SAMPLES, CodesModule
from genmeta.modules.image_data import ImageBatch, ImageDataModule
from genmeta.modules.running_mean import running_mean
from genmeta.rng import Rng
from genmeta.tasks.prior import GaussianMixture


def adam(parameters: Any) -> torch.optim.Adam:
    """Adam with learning rate 2e-4 and betas (0.5, 0.999), as in DCGAN (Radford et al., ICLR 2016)."""
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999), fused=True)


class GANModule(CodesModule):
    """Steps of discriminator and generator on the images of the meta-train classes.

    Optimisers, clipping and accumulation are ours to call: Lightning leaves them to modules with two optimisers.

    Args:
        generator: codes to images; its `forward` gives [-1, 1].
        discriminator: images in [-1, 1] (and their classes, with projection) to logits `[n]`.
        objective: the two losses.
        encoder: learns on the generator's own samples to tell the code from the image, so that real images can be
            encoded too; the generator learns nothing from it.
        augment: augmentation of what the discriminator sees.
        r1: weight γ of the R1 penalty on real images.
        gradient_penalty: weight of the penalty of WGAN-GP.
        penalty_every: batches from one penalty to the next; its weight grows as much (Karras et al., CVPR 2020).
        discriminator_steps: steps of the discriminator for each of the generator.
        ema_decay: of the running mean of the generator's weights that is sampled from; 0: none. It starts
            at (1 + t) / (10 + t), so that the first weights are soon forgotten.
        gradient_clip: largest norm of the gradient of each network; none by default.
        accumulate: parts that a batch is computed in, one after the other: the same step with less memory.
        optimizer: makes an optimiser of parameters; called once for each network.
        lr_scheduler: makes a schedule of an optimiser, stepped once an epoch; called once for each.
        compile: have `torch.compile` take the networks in training; not with penalties, whose gradients it cannot
            differentiate.
    """

    monitor, monitor_mode = "val/fid", "min"

    def __init__(
        self,
        generator: Generator,
        discriminator: nn.Module,
        objective: GANObjective | None = None,
        encoder: LatentEncoder | None = None,
        augment: DiffAugment | None = None,
        r1: float = 0.0,
        gradient_penalty: float = 0.0,
        penalty_every: int = 1,
        discriminator_steps: int = 1,
        ema_decay: float = 0.0,
        gradient_clip: float | None = None,
        accumulate: int = 1,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if compile and (r1 or gradient_penalty):
            raise UserError(
                "model.compile: torch.compile cannot differentiate gradients, which r1 and gradient_penalty do; "
                "leave it at false"
            )
        self.compiled = compile
        self.automatic_optimization = False
        for name, value in (("r1", r1), ("gradient_penalty", gradient_penalty), ("gradient_clip", gradient_clip or 0)):
            if value < 0:
                raise UserError(f"model.{name} must be at least 0, found {value}")
        counts = {"penalty_every": penalty_every, "discriminator_steps": discriminator_steps, "accumulate": accumulate}
        for name, value in counts.items():
            if value < 1:
                raise UserError(f"model.{name} must be at least 1, found {value}")
        if not 0 <= ema_decay < 1:
            raise UserError(f"model.ema_decay must be in [0, 1), found {ema_decay}")
        if encoder is not None and encoder.latent_dim != generator.latent_dim:
            raise UserError(
                f"model.encoder has latent_dim {encoder.latent_dim}, but model.generator has {generator.latent_dim}"
            )
        self.generator, self.discriminator, self.encoder = generator, discriminator, encoder
        self.objective, self.augment = objective or NonSaturating(), augment
        self.r1, self.gradient_penalty, self.penalty_every = r1, gradient_penalty, penalty_every
        self.discriminator_steps, self.accumulate, self.gradient_clip = discriminator_steps, accumulate, gradient_clip
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.average = running_mean(generator, ema_decay) if ema_decay else None
        self._conditional = getattr(discriminator, "classes", None) is not None
        if self._conditional != bool(getattr(generator, "class_dim", 0)):
            raise UserError(
                "model: a class-conditional GAN needs both generator.class_dim > 0 and discriminator.projection: true"
            )

    @property
    def decoder(self) -> LatentDecoder:
        decoder = self.average.module if self.average is not None else self.generator
        assert isinstance(decoder, LatentDecoder)
        return decoder

    @property
    def latent_encoder(self) -> LatentEncoder | None:
        return self.encoder

    def networks(self) -> dict[str, tuple[nn.Module, str]]:
        prefix = "average.module." if self.average is not None else "generator."
        encoder: dict[str, tuple[nn.Module, str]] = {"encoder": (self.encoder, "encoder.")} if self.encoder else {}
        networks = {"decoder": (self.decoder, prefix), **encoder}
        if isinstance(self.discriminator, Discriminator):  # for its trunk, which a learner may begin with
            networks["discriminator"] = (self.discriminator, "discriminator.")
        return networks

    def prior(self) -> GaussianMixture:
        decoder = self.decoder
        assert isinstance(decoder, Generator)
        return decoder.prior(self.data.n_classes)

    def check(self, data: ImageDataModule, stage: str) -> None:
        """Raise UserError if the networks are for images of another shape than the data, or for fewer classes."""
        self.check_shape(self.generator.image_shape, "model.generator", data)
        self.check_shape(getattr(self.discriminator, "image_shape", data.image_shape), "model.discriminator", data)
        if self.encoder is not None:
            self.check_shape(self.encoder.image_shape, "model.encoder", data)
        if self._conditional:
            for option, network in (("generator", self.generator), ("discriminator", self.discriminator)):
                room = int(network.classes.num_embeddings)  # type: ignore
                if room < data.n_classes:
                    raise UserError(
                        f"model.{option}.max_classes is {room}, but the data have {data.n_classes} meta-train classes"
                    )

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.compiled:
            for network in (self.generator, self.discriminator, *([self.encoder] if self.encoder else [])):
                network.compile()

    def trained_parameters(self) -> list[Iterable[nn.Parameter]]:
        networks = [self.generator, self.discriminator, *([self.encoder] if self.encoder else [])]
        return [network.parameters() for network in networks]

    def steps_of(self, n_batches: int) -> int:
        return n_batches + n_batches // self.discriminator_steps * (1 if self.encoder is None else 2)

    def logged(self, data: ImageDataModule) -> set[str]:
        names = ["loss_d", "loss_g", *(["loss_e"] if self.encoder else []), "acc_d_real", "acc_d_fake"]
        return {f"train/{name}" for name in names} | OF_SAMPLES

    def training_step(self, batch: ImageBatch, batch_idx: int) -> None:
        optimizers: Sequence[Any] = self.optimizers()  # type: ignore[assignment]
        number = self.trainer.fit_loop.epoch_loop.total_batch_idx
        penalise = number % self.penalty_every == 0 and bool(self.r1 or self.gradient_penalty)
        generator_too = (number + 1) % self.discriminator_steps == 0
        parts = batch.split(self.accumulate)
        keep = generator_too and len(parts) == 1  # the discriminator's fakes serve the generator's step, graph and all

        optimizers[1].zero_grad()
        for part in parts:
            with torch.set_grad_enabled(keep):
                fake = self.generator(self.generator.codes(part.labels, part.rng))
            real = part.images * 2 - 1
            logits = self._logits(torch.cat([real, fake.detach()]), part.labels.repeat(2), part.rng)
            real_logits, fake_logits = logits.chunk(2)
            discriminator_loss = self.objective.discriminator_loss(real_logits, fake_logits)
            penalty = self.penalty_every * self._penalty(real, fake, part) if penalise else 0
            self.manual_backward((discriminator_loss + penalty) / len(parts))
        self._step(optimizers[1], self.discriminator)

        if generator_too:
            self.discriminator.requires_grad_(False)  # its gradients are not needed for the generator's step
            optimizers[0].zero_grad()
            for part in parts:
                if not keep:
                    fake = self.generator(self.generator.codes(part.labels, part.rng))
                generator_loss = self.objective.generator_loss(self._logits(fake, part.labels, part.rng))
                self.manual_backward(generator_loss / len(parts))
            self._step(optimizers[0], self.generator)
            self.discriminator.requires_grad_(True)
            if self.average is not None:
                self.average.update_parameters(self.generator)
            if self.encoder is not None:
                optimizers[2].zero_grad()
                for part in parts:
                    encoder_loss = self._encoder_loss(part)
                    self.manual_backward(encoder_loss / len(parts))
                self._step(optimizers[2], self.encoder)

        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (number + 1) % every == 0:  # `log` costs time
            values = {"train/loss_d": discriminator_loss}
            if generator_too:
                values["train/loss_g"] = generator_loss
                if self.encoder is not None:
                    values["train/loss_e"] = encoder_loss
            self.log_dict(values, prog_bar=True, batch_size=len(batch.images))
            accuracies = {
                "train/acc_d_real": (real_logits > 0).float().mean(),
                "train/acc_d_fake": (fake_logits < 0).float().mean(),
            }
            self.log_dict(accuracies, batch_size=len(batch.images))

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """All is done at the end of the validation: metrics of samples are of all of them together."""

    def class_prior(self) -> GaussianMixture | None:
        return self.prior() if self._conditional else None

    def _logits(self, images: Tensor, labels: Tensor, rng: Rng) -> Tensor:
        seen = self.augment(images, rng) if self.augment else images
        return self.discriminator(seen, labels) if self._conditional else self.discriminator(seen)

    def _penalty(self, real: Tensor, fake: Tensor, batch: ImageBatch) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):  # squares of gradients want float32
            real, fake = real.float(), fake.detach().float()
            penalty = torch.zeros((), device=real.device)
            if self.r1:
                penalty = penalty + self.r1 * r1_penalty(lambda x: self._logits(x, batch.labels, batch.rng), real)
            if self.gradient_penalty:
                critic = lambda x: self._logits(x, batch.labels, batch.rng)  # noqa: E731
                penalty = penalty + self.gradient_penalty * gradient_penalty(critic, real, fake, batch.rng)
        return penalty

    def _encoder_loss(self, batch: ImageBatch) -> Tensor:
        """Return `-E log q(z | G(z))` in nats, G as it is sampled from (the sleep phase of Hinton et al. 1995)."""
        assert self.encoder is not None
        decoder = self.decoder
        assert isinstance(decoder, Generator)
        with torch.no_grad():
            training = decoder.training
            decoder.eval()
            z = decoder.codes(batch.labels, batch.rng)
            images = decoder.decode(z)
            decoder.train(training)
        mean, log_var = self.encoder(images)
        return -log_normal(z, mean.float(), log_var.float()).mean()

    def _step(self, optimizer: Any, network: nn.Module) -> None:
        if self.gradient_clip is not None:
            # with 16-mixed the gradients are those of the scaled loss still
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            scale = scaler.get_scale() if scaler is not None else 1.0
            torch.nn.utils.clip_grad_norm_(network.parameters(), self.gradient_clip * scale)
        optimizer.step()
