"""Priors of deformations: which are usual between two drawings of one character?

A deformation is described by its displacements at 7 × 7 places. A Gaussian says how large they are and how they go
together; a normalising flow over their leading principal components says what a Gaussian cannot, such as that a stroke
that is longer is also bent. Durkan, Bekasov, Murray and Papamakarios, "Neural Spline Flows", NeurIPS 2019, in the
implementation of zuko.
"""

from abc import ABC, abstractmethod
from math import log, pi

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.errors import UserError, require_positive
from genmeta.models.spline_flow import identity_flow
from genmeta.rng import make_rng

CELLS = 7  # places a side at which a displacement is described
HELD_OUT = 5  # a fifth of the displacements says how much is learned from the others
BATCH = 128


def described(displacement: Tensor) -> Tensor:
    """Return displacements `[n, H, W, 2]` as means over 7 × 7 places, `[n, 98]`."""
    return F.adaptive_avg_pool2d(displacement.permute(0, 3, 1, 2), CELLS).flatten(1)


class DeformationPrior(nn.Module, ABC):
    """A density of described displacements, fitted before it is used; nothing in it is trained by gradients later.

    Displacements are whitened by their covariance plus a multiple of the identity, the principal components of largest
    variance first; subclasses say what is left to say of them then. The multiple is that under which a fifth of the
    displacements is likeliest by a Gaussian of the others. (Ledoit and Wolf's shrinkage, which has the least squared
    error, takes the many small variances for ten times what they are.) Before it is fitted, all displacements are
    taken for white.

    Args:
        size: numbers that describe a displacement.

    Raises:
        UserError: `size` is not positive.
    """

    mean: Tensor
    components: Tensor
    scale: Tensor

    def __init__(self, size: int = 2 * CELLS**2) -> None:
        super().__init__()
        require_positive(type(self).__name__, size=size)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("components", torch.eye(size))
        self.register_buffer("scale", torch.ones(size))

    def fit(self, displacements: Tensor) -> None:
        """Learn from displacements `[n, size]`; the two of one pair of images stand together.

        Raises:
            UserError: there are fewer than eight.
        """
        if len(displacements) < 8:
            raise UserError(
                f"{type(self).__name__}: at least 4 pairs of images are needed, found {len(displacements) // 2}"
            )
        x = displacements.double()
        covariance = torch.cov(x.T, correction=0)
        variances, components = torch.linalg.eigh(covariance + _ridge(x) * torch.eye(x.shape[1]).to(x))
        self.mean = x.mean(0).to(self.mean)
        self.components = components.flip(1).to(self.mean).contiguous()
        self.scale = variances.flip(0).sqrt().to(self.mean)
        self.fit_white(self.white(displacements.to(self.mean)))

    def log_prob(self, displacements: Tensor) -> Tensor:
        """Return log densities `[n]`, in nats, of displacements `[n, size]`."""
        return self.log_prob_white(self.white(displacements)) - self.scale.log().sum()

    def white(self, displacements: Tensor) -> Tensor:
        """Return displacements in units of standard deviations along principal components, `[n, size]`."""
        return (displacements - self.mean) @ self.components / self.scale

    @abstractmethod
    def fit_white(self, white: Tensor) -> None:
        """Learn from white displacements `[n, size]`."""

    @abstractmethod
    def log_prob_white(self, white: Tensor) -> Tensor:
        """Return log densities `[n]` of white displacements `[n, size]`."""


class GaussianPrior(DeformationPrior):
    """White displacements are normal: log density is minus half the squared Mahalanobis distance, and a constant."""

    def fit_white(self, white: Tensor) -> None:
        """All is said by mean and covariance."""

    def log_prob_white(self, white: Tensor) -> Tensor:
        return _log_normal(white)


class FlowPrior(DeformationPrior):
    """The leading white components are a normalising flow's, the others normal.

    The flow begins as the identity, so that the prior begins as `GaussianPrior`. It is trained by maximum likelihood on
    four fifths of the displacements and keeps the weights that were best for the last fifth: it says more than
    the Gaussian, or the same. Same displacements, same weights.

    Args:
        rank: leading principal components that the flow is of.
        transforms: autoregressive spline transforms, one after the other.
        hidden: width of the two layers of each one's network.
        bins: pieces of each spline, which reaches from -5 to 5 standard deviations.
        epochs: over the displacements.
        lr: of Adam; it falls to 0 along a half cosine.
        weight_decay: of AdamW.
        size: numbers that describe a displacement.

    Raises:
        UserError: a size is out of range.
    """

    def __init__(
        self,
        rank: int = 98,
        transforms: int = 1,
        hidden: int = 64,
        bins: int = 4,
        epochs: int = 15,
        lr: float = 5e-3,
        weight_decay: float = 1e-2,
        size: int = 2 * CELLS**2,
    ) -> None:
        super().__init__(size)
        require_positive("FlowPrior", transforms=transforms, hidden=hidden, epochs=epochs)
        if not 2 <= rank <= size:
            raise UserError(f"FlowPrior: rank must be from 2 to {size}, the numbers of a displacement; found {rank}")
        if bins < 2 or lr <= 0 or weight_decay < 0:
            raise UserError(
                f"FlowPrior: bins must be at least 2, lr above 0, weight_decay at least 0; "
                f"found {bins}, {lr}, {weight_decay}"
            )
        self.rank, self.epochs, self.lr, self.weight_decay = rank, epochs, lr, weight_decay
        self.layout = (rank, transforms, hidden, bins)
        self.flow = _identity(*self.layout)

    def fit_white(self, white: Tensor) -> None:
        leading = white[:, : self.rank]
        train, held_out = _parts(leading)
        with torch.inference_mode(False), torch.enable_grad():
            self._train(train.clone(), held_out.clone())

    def log_prob_white(self, white: Tensor) -> Tensor:
        return self.flow().log_prob(white[:, : self.rank]) + _log_normal(white[:, self.rank :])

    def _train(self, train: Tensor, held_out: Tensor) -> None:
        self.flow.load_state_dict(_identity(*self.layout).state_dict())  # whatever was learned before
        self.flow.requires_grad_(True)
        optimizer = torch.optim.AdamW(self.flow.parameters(), self.lr, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        best, kept = self._mean_log_prob(held_out), _copied(self.flow)
        for epoch in range(self.epochs):
            order = torch.randperm(len(train), generator=make_rng("flow of deformations", epoch)).to(train.device)
            for rows in order.split(BATCH):
                optimizer.zero_grad()
                (-self.flow().log_prob(train[rows]).mean()).backward()
                optimizer.step()
            schedule.step()
            now = self._mean_log_prob(held_out)
            if now > best:
                best, kept = now, _copied(self.flow)
        self.flow.load_state_dict(kept)
        self.flow.requires_grad_(False)

    @torch.no_grad()
    def _mean_log_prob(self, leading: Tensor) -> float:
        return self.flow().log_prob(leading).mean().item()


def _parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows to learn from and those held out; pairs of rows stand together and stay so."""
    n_held_out = max(2, len(x) // HELD_OUT // 2 * 2)
    return x[n_held_out:], x[:n_held_out]


def _ridge(x: Tensor) -> Tensor:
    """Return what is to be added to the variances of `[n, d]`, by the likelihood of the rows held out."""
    train, held_out = _parts(x)
    variances, components = torch.linalg.eigh(torch.cov(train.T, correction=0))
    spread = ((held_out - train.mean(0)) @ components).square().mean(0)
    ridges = x.var(0, correction=0).mean().clamp(min=1e-12) * torch.logspace(-7, 0, 15).to(x)
    shrunk = variances.clamp(min=0) + ridges[:, None]
    return ridges[(shrunk.log() + spread / shrunk).sum(1).argmin()]


def _log_normal(white: Tensor) -> Tensor:
    return -0.5 * (white.square().sum(1) + white.shape[1] * log(2 * pi))


def _identity(rank: int, transforms: int, hidden: int, bins: int) -> nn.Module:
    """Return a spline flow that changes nothing yet; its hidden layers are the same each time."""
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn by the global generator
        torch.manual_seed(0)
        return identity_flow(rank, transforms, hidden, bins).requires_grad_(False)


def _copied(flow: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in flow.state_dict().items()}
