"""A normalising flow between codes and standard normal ones: a density that is known exactly, and drawn from at once.

Durkan, Bekasov, Murray and Papamakarios, "Neural Spline Flows", NeurIPS 2019, in the implementation of zuko.
"""

from math import log, pi

import torch
from torch import Tensor, nn

from genmeta.errors import UserError, require_positive
from genmeta.models.decoder import CodesFlow


class SplineFlow(CodesFlow):
    """Coupling transforms by monotonic splines: each moves one half of a code's entries as the other half says.

    It begins as the identity, under which the density is that of N(0, I). Splines reach from -5 to 5; beyond, an entry
    stays as it is. Both directions cost one pass through each transform's network. Under mixed precision it computes in
    the type of its weights: inverses would not be ones otherwise.

    Args:
        latent_dim: size of a code, at least 2.
        transforms: one after the other, at least 2, so that both halves are moved.
        hidden: width of the two layers of each one's network.
        bins: pieces of each spline.

    Attributes:
        init_args: as of a `LatentDecoder`.

    Raises:
        UserError: a size is out of range.
    """

    def __init__(self, latent_dim: int = 32, transforms: int = 4, hidden: int = 64, bins: int = 8) -> None:
        super().__init__()
        require_positive("SplineFlow", latent_dim=latent_dim, transforms=transforms, hidden=hidden, bins=bins)
        if min(latent_dim, transforms, bins) < 2:
            raise UserError(
                f"SplineFlow: latent_dim, transforms and bins must be at least 2, "
                f"found {latent_dim}, {transforms}, {bins}"
            )
        self.init_args = {"latent_dim": latent_dim, "transforms": transforms, "hidden": hidden, "bins": bins}
        self.latent_dim = latent_dim
        self.layers = identity_flow(latent_dim, transforms, hidden, bins, passes=2)

    def to_base(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return for codes `[n, d]` standard normal ones, `[n, d]`, and the log determinants of that map, `[n]`."""
        with torch.autocast(z.device.type, enabled=False):
            return self.layers().transform.call_and_ladj(z.to(self._dtype))

    def base_of(self, z: Tensor) -> Tensor:
        return self.to_base(z)[0]

    def from_base(self, u: Tensor) -> Tensor:
        with torch.autocast(u.device.type, enabled=False):
            return self.layers().transform.inv(u.to(self._dtype))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log densities `[n]`, in nats, of codes `[n, d]`."""
        u, log_det = self.to_base(z)
        return log_det - 0.5 * (u.square().sum(1) + self.latent_dim * log(2 * pi))

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


def identity_flow(size: int, transforms: int, hidden: int, bins: int, passes: int | None = None) -> nn.Module:
    """Return a spline flow of zuko's over `size` numbers that changes nothing yet.

    Args:
        passes: 2 for coupling transforms; autoregressive ones if left out, whose inverse takes `size` passes.
    """
    from zuko.flows import NSF

    flow = NSF(size, bins=bins, transforms=transforms, hidden_features=(hidden, hidden), passes=passes)
    for transform in flow.transform.transforms:
        for weights in transform.hyper[-1].parameters():
            nn.init.zeros_(weights)
    return flow
