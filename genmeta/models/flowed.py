"""Networks whose codes live in the base of a normalising flow: whoever samples from them draws from N(0, I).

With a flow as prior, a code of training has a density that is no mixture of Gaussians. Tasks keep to the flow's base:
they draw u from N(0, I), separate and mix codes there, and the flow makes a code of training of each before it is
decoded.
"""

import torch
from torch import Tensor

from genmeta.models.decoder import CodesFlow, LatentDecoder, LatentEncoder, Redrawer
from genmeta.models.networks import part_of


class FlowedDecoder(LatentDecoder):
    """`decoder(flow(u))`."""

    def __init__(self, decoder: LatentDecoder, flow: CodesFlow) -> None:
        super().__init__()
        self.init_args = {"decoder": part_of(decoder), "flow": part_of(flow)}
        self.latent_dim, self.image_shape = decoder.latent_dim, decoder.image_shape
        self.chunk_size = decoder.chunk_size
        self.decoder, self.flow = decoder, flow

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder.decode(self.flow.from_base(z))


class FlowedEncoder(LatentEncoder):
    """The posterior of an encoder, brought to the flow's base.

    The mean is that of the posterior's mean, so that reconstructions are the same. Variances are of first order: each
    axis of the posterior adds the square of half the way between the ends of its standard deviation. (The slope over
    that way, as in the divided-difference filter of Nørgaard, Poulsen and Ravn, Automatica 2000, and not at a point: a
    spline may be steep between two knots.)
    """

    def __init__(self, encoder: LatentEncoder, flow: CodesFlow) -> None:
        super().__init__()
        self.init_args = {"encoder": part_of(encoder), "flow": part_of(flow)}
        self.latent_dim, self.image_shape = encoder.latent_dim, encoder.image_shape
        self.encoder, self.flow = encoder, flow

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.encoder(x)
        scale = torch.exp(log_var / 2)
        variance = torch.zeros_like(mean)
        for axis in range(self.latent_dim):  # all at once would take `latent_dim` times the memory
            step = torch.zeros_like(mean)
            step[:, axis] = scale[:, axis]
            ends = self.flow.base_of(torch.cat([mean + step, mean - step]))
            above, below = ends.chunk(2)
            variance = variance + ((above - below) / 2).square()
        return self.flow.base_of(mean), variance.log()


class FlowedRedrawer(Redrawer):
    """`redraw(x, flow(u))`."""

    def __init__(self, redrawer: Redrawer, flow: CodesFlow) -> None:
        super().__init__()
        self.init_args = {"redrawer": part_of(redrawer), "flow": part_of(flow)}
        self.latent_dim, self.image_shape = redrawer.latent_dim, redrawer.image_shape
        self.redrawer, self.flow = redrawer, flow

    def redraw(self, x: Tensor, z: Tensor) -> Tensor:
        return self.redrawer.redraw(x, self.flow.from_base(z))
