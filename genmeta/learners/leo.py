"""Optimisation-based learner that adapts in a latent space: latent embedding optimisation."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError, require_positive
from genmeta.learners.draws import Draws
from genmeta.learners.embedding import embed, feature_size
from genmeta.learners.learner import Learner, check_image_shape, cross_entropy
from genmeta.learners.metric import prototypes


def kl_to_standard_normal(mean: Tensor, log_std: Tensor) -> Tensor:
    """Return KL(N(mean, std²) ‖ N(0, 1)) of each element."""
    return 0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std


def decorrelation(rows: Tensor) -> Tensor:
    """Return the mean squared element of C - I, C the cosines between rows `[n, d]`: 0 if they are orthogonal."""
    unit = F.normalize(rows, dim=1)
    return (unit @ unit.mT - torch.eye(len(rows), dtype=rows.dtype, device=rows.device)).square().mean()


def support_loss(weights: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of each task's support images, summed over tasks (eq. 5).

    Summed, so that its gradient with respect to one task's weights is that of the task alone.

    Args:
        weights: `[task, way, d]`.
        features: `[task, n, d]`.
        labels: int64 `[task, n]`.
    """
    return cross_entropy(features @ weights.mT, labels) * len(labels)


@dataclass(frozen=True)
class Adapted:
    """Result of one pass: logits `[task, query, way]`, codes `[task, way, latent]` and their distribution."""

    logits: Tensor
    mean: Tensor
    log_std: Tensor
    z: Tensor
    adapted_z: Tensor


class LEO(Learner):
    """Latent embedding optimisation: adapts a latent code of each class, from which the classifier is decoded.

    Rusu, Rao, Sygnowski, Vinyals, Pascanu, Osindero and Hadsell, "Meta-Learning with Latent Embedding Optimization",
    ICLR 2019, algorithm 1. Reference code: github.com/google-deepmind/leo. Here the backbone is trained too, without
    dropout of the encoder's input, which uses global random state. The noise of codes and of decoded weights is
    drawn once a step and kept during adaptation; evaluation uses the means. Features have unit length. Weight decay is
    set in the optimiser. Tests may have any way and shot. `support_weight` is ignored.

    Args:
        backbone: images `[n, C, H, W]` to features `[n, d]`, with `n_features = d` and running statistics.
        latent_dim: size of a class's code.
        latent_steps: gradient steps on the codes.
        finetuning_steps: gradient steps on the decoded weights after them.
        latent_lr, finetuning_lr: step sizes before training; both are learned.
        kl_weight: β of the paper, of the codes' divergence from N(0, I).
        encoder_penalty: γ, of the squared distance from encoded to adapted codes, so that little is left to adapt.
        orthogonality: λ₂, of the correlation between the decoder's rows.

    Raises:
        UserError: a size or weight is out of range, or the backbone uses batch statistics.
    """

    begins_with = frozenset({"latent_lr", "finetuning_lr"})

    def __init__(
        self,
        backbone: nn.Module,
        latent_dim: int = 64,
        latent_steps: int = 5,
        finetuning_steps: int = 5,
        latent_lr: float = 1.0,
        finetuning_lr: float = 0.001,
        kl_weight: float = 0.001,
        encoder_penalty: float = 1e-9,
        orthogonality: float = 0.1,
    ) -> None:
        super().__init__()
        n_features = feature_size("LEO", backbone)
        require_positive("LEO", latent_dim=latent_dim, latent_steps=latent_steps)
        if finetuning_steps < 0 or min(latent_lr, finetuning_lr) <= 0:
            raise UserError(
                f"LEO needs finetuning_steps >= 0 and learning rates > 0; found finetuning_steps={finetuning_steps}, "
                f"latent_lr={latent_lr}, finetuning_lr={finetuning_lr}"
            )
        if min(kl_weight, encoder_penalty, orthogonality) < 0:
            raise UserError(
                f"LEO needs weights of its penalties >= 0; found kl_weight={kl_weight}, "
                f"encoder_penalty={encoder_penalty}, orthogonality={orthogonality}"
            )
        self.backbone, self.draws = backbone, Draws()
        self.encoder = nn.Linear(n_features, latent_dim, bias=False)
        self.relation = nn.Sequential(
            nn.Linear(2 * latent_dim, 2 * latent_dim, bias=False),
            nn.ReLU(),
            nn.Linear(2 * latent_dim, 2 * latent_dim, bias=False),
            nn.ReLU(),
            nn.Linear(2 * latent_dim, 2 * latent_dim, bias=False),
        )
        self.decoder = nn.Linear(latent_dim, 2 * n_features, bias=False)
        # the reference code shrinks the decoder's deviation so: without, the first weights would be all noise
        self.log_std_offset = 0.5 * math.log(2 / (n_features + latent_dim))
        self.latent_lr = nn.Parameter(torch.tensor(float(latent_lr)))
        self.latent_steps, self.finetuning_steps = latent_steps, finetuning_steps
        # without fine-tuning, a parameter that nothing uses would stand in every optimiser and checkpoint
        self.finetuning_lr = nn.Parameter(torch.tensor(float(finetuning_lr))) if finetuning_steps else None
        self.kl_weight, self.encoder_penalty, self.orthogonality = kl_weight, encoder_penalty, orthogonality

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self.backbone, image_shape)

    def forward(self, batch: EpisodeBatch) -> Tensor:
        return self.adapt(batch).logits

    def loss(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        """Return the objective (eq. 6; a mean over tasks and classes, a sum over the code) and the logits."""
        run = self.adapt(batch)
        kl = kl_to_standard_normal(run.mean, run.log_std).sum(2).mean()
        way_to_go = (run.adapted_z.detach() - run.z).square().sum(2).mean()
        loss = (
            cross_entropy(run.logits, batch.query_y)
            + self.kl_weight * kl
            + self.encoder_penalty * way_to_go
            + self.orthogonality * decorrelation(self.decoder.weight.mT)
        )
        return loss, run.logits

    def encode(self, support: Tensor, labels: Tensor, n_way: int) -> tuple[Tensor, Tensor]:
        """Return mean and log deviation of each class's code, `[task, way, latent]` (eq. 2).

        The relation network sees each pair of a class's image and any image of the task; its outputs are averaged.
        """
        h = self.encoder(support)
        n = h.shape[1]
        pairs = torch.cat([h[:, :, None].expand(-1, -1, n, -1), h[:, None].expand(-1, n, -1, -1)], 3)
        mean, log_std = prototypes(self.relation(pairs).mean(2), labels, n_way).chunk(2, 2)
        return mean, log_std

    def decode(self, z: Tensor, noise: Tensor | None) -> Tensor:
        """Return classifier weights `[task, way, d]` of codes: mean, plus deviation × noise (eq. 3, 4)."""
        mean, log_std = self.decoder(z).chunk(2, 2)
        return mean if noise is None else mean + (log_std + self.log_std_offset).exp() * noise

    def adapt(self, batch: EpisodeBatch) -> Adapted:
        """Return logits and codes after adaptation (algorithm 1, steps 4 to 11)."""
        features = embed(self.backbone, batch)
        with torch.autocast(features[0].device.type, enabled=False):  # as every inner loop here
            return self._adapt(batch, *(x.to(self.encoder.weight.dtype) for x in features))

    def _adapt(self, batch: EpisodeBatch, support: Tensor, query: Tensor) -> Adapted:
        # of unit length: with the features of a backbone that is trained along, steps of 1 in the codes run away
        support, query = F.normalize(support, dim=2), F.normalize(query, dim=2)
        mean, log_std = self.encode(support, batch.support_y, batch.n_way)
        z, noise = mean, None
        if self.training:
            sizes = mean.shape[2], support.shape[2]  # of a code, of decoded weights
            drawn = [torch.randn(batch.n_way, sum(sizes), generator=rng) for rng in self.draws(batch)]
            of_code, noise = torch.stack(drawn).to(mean).split(sizes, 2)
            z = mean + log_std.exp() * of_code
        adapted_z = z
        for _ in range(self.latent_steps):
            gradient = torch.func.grad(lambda z: support_loss(self.decode(z, noise), support, batch.support_y))(
                adapted_z
            )
            adapted_z = adapted_z - self.latent_lr * gradient
        weights = self.decode(adapted_z, noise)
        for _ in range(self.finetuning_steps):
            gradient = torch.func.grad(support_loss)(weights, support, batch.support_y)
            weights = weights - self.finetuning_lr * gradient
        return Adapted(query @ weights.mT, mean, log_std, z, adapted_z)
