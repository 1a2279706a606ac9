"""Learners that adapt in closed form: ridge regression on the features."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.embedding import embed, feature_size
from genmeta.learners.learner import Learner, check_image_shape


def ridge_by_features(x: Tensor, y: Tensor, penalty: Tensor, weight: Tensor) -> Tensor:
    """Return the `w` `[…, d, way]` that minimises `Σ weight·(x w - y)² + penalty·Σ w²`; solves `d` equations.

    `w = (xᵀSx + λI)⁻¹ xᵀSy` with `S = diag(weight)`: Bertinetto et al., ICLR 2019, eq. 4 (there, `S = I`).

    Args:
        x: features `[…, n, d]`.
        y: one-hot labels `[…, n, way]`.
        penalty: λ, a positive scalar.
        weight: `[…, n]`, not negative.
    """
    xs = x.mT * weight[..., None, :]
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return torch.linalg.solve(xs @ x + penalty * identity, xs @ y)


def ridge_by_images(x: Tensor, y: Tensor, penalty: Tensor, weight: Tensor) -> Tensor:
    """Return what `ridge_by_features` returns; solves `n` equations, one an image.

    `w = xᵀ(Sxxᵀ + λI)⁻¹ Sy`, by the Woodbury identity: Bertinetto et al., ICLR 2019, eq. 6 (there, `S = I`).
    """
    s = weight[..., None]
    identity = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    return x.mT @ torch.linalg.solve(s * (x @ x.mT) + penalty * identity, s * y)


class R2D2(Learner):
    """Ridge regression differentiable discriminator: a linear classifier of the features, solved for in closed form.

    Bertinetto, Henriques, Torr and Vedaldi, "Meta-learning with differentiable closed-form solvers", ICLR 2019,
    sec. 3.2. Reference code: github.com/bertinetto/r2d2. One-hot labels of the support images are regressed on their
    features; the loss's gradient flows through the solution. The penalty λ and the factor α that makes logits of the
    regression's outputs are learned; the paper's offset β is left out, since it is the same for all classes, which a
    softmax does not see. Any way and shot in test. `support_weight` weighs the squared errors.

    Args:
        backbone: images `[n, C, H, W]` to features `[n, d]`, with `n_features = d` and running statistics.
        penalty: λ before training, positive; it is learned as a logarithm, so that it stays so.
        scale: α before training.

    Raises:
        UserError: a number is not positive, or the backbone uses batch statistics.
    """

    begins_with = frozenset({"penalty", "scale"})

    def __init__(self, backbone: nn.Module, penalty: float = 1.0, scale: float = 5.0) -> None:
        super().__init__()
        feature_size("R2D2", backbone)
        if penalty <= 0 or scale <= 0:
            raise UserError(f"R2D2 needs penalty > 0 and scale > 0; found penalty={penalty}, scale={scale}")
        self.backbone = backbone
        self.log_penalty = nn.Parameter(torch.tensor(math.log(penalty)))
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self.backbone, image_shape)

    def forward(self, batch: EpisodeBatch) -> Tensor:
        support, query = embed(self.backbone, batch)
        labels = F.one_hot(batch.support_y, batch.n_way).to(support.dtype)
        weight = torch.ones_like(support[..., 0]) if batch.support_weight is None else batch.support_weight
        n, d = support.shape[1:]
        solve = ridge_by_images if n < d else ridge_by_features
        return self.scale * (query @ solve(support, labels, self.log_penalty.exp(), weight))
