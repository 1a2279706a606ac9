"""What pretraining all generative models has in common: metrics of samples, the checkpoint's entry, the report."""

import sys
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from genmeta.errors import UserError
from genmeta.evaluation.samples import nearest_distance, recognisability, sample_metrics, spread_within
from genmeta.models.checkpoint import KEY, describe_generator
from genmeta.models.decoder import LatentDecoder, LatentEncoder, Redrawer
from genmeta.models.networks import check_same_shape
from genmeta.modules.image_data import ImageDataModule
from genmeta.modules.trained_module import TrainedModule
from genmeta.rng import make_rng
from genmeta.tasks.policies import RandomOther
from genmeta.tasks.prior import GaussianMixture
from genmeta.tasks.space import LatentSpace

N_SAMPLES = 1000  # at most, for each metric of samples; as many real and generated images
N_CLASSES, N_INSTANCES, N_WAY = 100, 8, 20  # generated classes for recognisability
OF_SAMPLES = {f"val/{name}" for name in ("fid", "kid", "precision", "recall", "density", "coverage", "diversity")}
COLLAPSED = 0.5
"""Samples whose mean distance is under this share of real images' are called collapsed."""


class GenerativeModule(TrainedModule):
    """Measures samples at each validation, and everything at the end.

    Samples are compared with the held-out images of the meta-train classes on features of `data.features`: `val/fid`,
    `val/kid`, `val/precision`, `val/recall`, `val/density`, `val/coverage`, `val/diversity`.
    """

    @abstractmethod
    def networks(self) -> dict[str, tuple[nn.Module, str]]:
        """Return by role what a checkpoint is rebuilt from, with the prefix of its weights (`describe_generator`)."""

    @abstractmethod
    def prior(self) -> GaussianMixture:
        """Return what codes are drawn from."""

    @abstractmethod
    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """Return `n` generated images `[n, C, H, W]` in [0, 1]; `rng` is a CPU generator."""

    @abstractmethod
    def sample_classes(self, n_classes: int, n_images: int, rng: torch.Generator) -> Tensor:
        """Return instances of generated classes, `[n_classes, n_images, C, H, W]` in [0, 1]."""

    def extra_metrics(self) -> dict[str, float]:
        """Return what only this kind of model can report, for the end of training."""
        return {}

    @property
    def data(self) -> ImageDataModule:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ImageDataModule):
            raise UserError(f"{type(self).__name__} needs an ImageDataModule as data, found {type(data).__name__}")
        return data

    @abstractmethod
    def check(self, data: ImageDataModule, stage: str) -> None:
        """Raise UserError if the networks are not for these data."""

    def setup(self, stage: str) -> None:
        self.check(self.data, stage)  # the command line has done so, who trains by the Trainer alone has not

    def on_fit_start(self) -> None:
        _ = self.data.features  # what can go wrong with it goes wrong before training

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.sample_metrics().items()}, sync_dist=True)

    def on_fit_end(self) -> None:
        diversity = self.trainer.callback_metrics.get("val/diversity")
        if diversity is not None and diversity < COLLAPSED and self.trainer.is_global_zero:
            print(
                f"WARNING: COLLAPSED: at the end of training two samples differ by {diversity:.2f} of what "
                f"two real images do (under {COLLAPSED}): they are nearly alike; see pictures/samples-*.png",
                file=sys.stderr,
                flush=True,
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        assert self.data.table is not None
        content = self.data.table.content
        split, labels = self.data.split, self.data.labels_told
        checkpoint[KEY] |= describe_generator(self.networks(), self.prior(), split, content, labels)

    @torch.no_grad()
    def sample_metrics(self) -> dict[str, float]:
        """Return the metrics of samples against the held-out images."""
        real = evenly(self.data.held_out_rows, N_SAMPLES)
        features = self.data.features
        samples = self.sample(len(real), make_rng("samples"))
        return sample_metrics(features(self.data.rendered(real)), features(samples))

    @torch.no_grad()
    def report(self) -> dict[str, float]:
        """Return all metrics of the weights at hand.

        Besides those of samples: `recognisability` and `spread` of generated classes (Boutin et al. 2022; the spread
        divided by that of real classes, left out without labels), `memorisation`: median distance on pixels of samples
        to the nearest training image, divided by that of held-out images (well under 1: learnt by heart); `collapsed`,
        0 or 1.
        """
        training = self.training
        self.eval()
        data, rng = self.data, make_rng("report")
        result = self.sample_metrics()
        features = data.features
        classes = self.sample_classes(N_CLASSES, N_INSTANCES, rng)
        generated = features(classes.flatten(0, 1)).unflatten(0, classes.shape[:2])
        result["recognisability"] = recognisability(generated, N_WAY, rng)
        if data.labels != "none":  # else there are no real classes to hold it to
            result["spread"] = spread_within(generated) / spread_within(real_classes(data))
        train = data.rendered(evenly(data.train_rows, 10_000))
        held_out = nearest_distance(data.rendered(evenly(data.held_out_rows, N_SAMPLES)), train)
        result["memorisation"] = (nearest_distance(self.sample(500, rng), train).median() / held_out.median()).item()
        result["collapsed"] = float(result["diversity"] < COLLAPSED)
        result |= self.extra_metrics()
        self.train(training)
        return result

    def check_shape(self, expected: tuple[int, int, int], option: str, data: ImageDataModule) -> None:
        """Raise UserError if a network is for images of another shape than the data."""
        check_same_shape(f"{option} has image_shape", expected, data.image_shape, "; set the one to the other")


class CodesModule(GenerativeModule):
    """A model that draws images from codes alone."""

    @property
    @abstractmethod
    def decoder(self) -> LatentDecoder:
        """The network that others sample from."""

    @property
    def latent_encoder(self) -> LatentEncoder | None:
        """The encoder, if there is one."""
        return None

    def decode(self, z: Tensor) -> Tensor:
        """Return images `[n, C, H, W]` in [0, 1] for codes `[n, latent_dim]` on any device."""
        return self.decoder.decode_in_chunks(z.to(self.device)).float()

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        return self.decode(self.prior().sample(n, rng=rng))

    def class_prior(self) -> GaussianMixture | None:
        """Return a mixture with one component for each meta-train class, if the model is conditional on the class."""
        return None

    def sample_classes(self, n_classes: int, n_images: int, rng: torch.Generator) -> Tensor:
        """Return meta-train classes if the model is conditional on the class; else classes around anchors of the prior:
        `RandomOther(0.3)`, as the learners' YAMLs draw them.
        """
        if classes := self.class_prior():
            chosen = torch.randperm(len(classes.means), generator=rng)[:n_classes]
            codes = classes.sample_of(chosen, n_images, rng)
        else:
            prior = self.prior()
            drawn = {"centre": prior.sample(1, n_classes, rng=rng)}
            codes = RandomOther(0.3).instances(drawn, n_images, LatentSpace(prior), rng)[0]
        return self.decode(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return the decoded posterior means, `[n, C, H, W]` in [0, 1]."""
        assert self.latent_encoder is not None
        return self.decode(self.latent_encoder(images)[0])

    def extra_metrics(self) -> dict[str, float]:
        if self.latent_encoder is None:
            return {}
        return {
            f"reconstruction_{name}": (self.reconstruct(images) - images).square().mean().sqrt().item()
            for name, images in self.kept_back().items()
        }

    def kept_back(self, n: int = 200) -> dict[str, Tensor]:
        """Return images that were not trained on: held-out ones of the meta-train classes, and of unseen (validation)
        classes.
        """
        data = self.data
        rows = {"held_out": data.held_out_rows, "unseen": data.unseen_rows}
        return {name: data.rendered(evenly(r, n)).to(self.device) for name, r in rows.items()}


class RedrawingModule(GenerativeModule):
    """A model that draws given images again."""

    @property
    @abstractmethod
    def drawer(self) -> Redrawer:
        """The network that others redraw with; codes have the prior N(0, I)."""

    def prior(self) -> GaussianMixture:
        return GaussianMixture.standard(self.drawer.latent_dim)

    def redraw(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Return each image redrawn once with a code of the prior; `rng` is a CPU generator."""
        z = self.prior().sample(len(images), rng=rng).to(self.device)
        images = images.to(self.device)
        parts = zip(images.split(256), z.split(256), strict=True)
        return torch.cat([self.drawer.redraw(x, code).float() for x, code in parts])

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """Return redrawn training images."""
        rows = self.data.train_rows
        return self.redraw(self.data.rendered(rows[torch.randint(len(rows), (n,), generator=rng)]), rng)

    def sample_classes(self, n_classes: int, n_images: int, rng: torch.Generator) -> Tensor:
        """Return images of *unseen* (validation) classes, each with redrawn versions of it: one image is a class."""
        given = self.data.rendered(evenly(self.data.unseen_rows, n_classes))
        redrawn = self.redraw(given.repeat_interleave(n_images - 1, 0), rng).unflatten(0, (len(given), n_images - 1))
        return torch.cat([given.to(redrawn)[:, None], redrawn], 1)

    def check_pairs(self, data: ImageDataModule) -> None:
        """Raise UserError if no class has two images to train on."""
        if int(data.counts.max()) < 2:
            raise UserError(
                "model: pairs of images of a class are needed, but no meta-train class has two to train on; without "
                "labels, data.labels can find pseudo-classes (docs/no_labels.md)"
            )


def evenly(rows: Tensor, n: int) -> Tensor:
    """Return at most `n` of the rows, evenly spaced."""
    return rows if len(rows) <= n else rows[torch.linspace(0, len(rows) - 1, n).round().long()]


def real_classes(data: ImageDataModule) -> Tensor:
    """Return features `[n_classes, n_images, d]` of real images of the meta-train classes, to hold generated ones to.

    As many images of each class as the smallest has, at most `N_INSTANCES`, the held-out ones first; classes of a
    single image are left out.
    """
    of_class = [rows for rows in data.class_rows if len(rows) > 1]
    n_images = min(N_INSTANCES, *map(len, of_class))
    rows = torch.stack([of[-n_images:].flip(0) for of in of_class])
    return data.features(data.rendered(rows.flatten())).unflatten(0, rows.shape)


def metrics_of_real(data: ImageDataModule) -> dict[str, float]:
    """Return the metrics of real training images in the place of samples: what a perfect generator would reach."""
    held_out, rows = evenly(data.held_out_rows, N_SAMPLES), data.train_rows
    train = data.rendered(evenly(rows, len(data.held_out_rows)))
    result = sample_metrics(data.features(data.rendered(held_out)), data.features(train))
    result["recognisability"] = recognisability(real_classes(data), N_WAY, make_rng("report"))
    result["spread"] = 1.0  # of real classes: what that of others is divided by
    to_train = nearest_distance(data.rendered(evenly(rows[::2], 500)), data.rendered(rows[1::2])).median()
    of_held_out = nearest_distance(data.rendered(held_out), data.rendered(evenly(rows, 10_000))).median()
    return result | {"memorisation": (to_train / of_held_out).item()}
