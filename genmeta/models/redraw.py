"""VAEs conditioned on an image: new instances of the class of *one given image*, seen or unseen.

p(x' | x, z) with x and x' of one class, as in DAGAN (Antoniou, Storkey and Edwards, "Data Augmentation Generative
Adversarial Networks", 2017) but trained by the evidence lower bound with q(z | x, x'). What it learns is how two
instances of a class differ, and that carries to classes never seen.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import torch
from torch import Tensor, nn
from torch.func import vjp
from torch.nn import functional as F

from genmeta.errors import UserError, require_positive
from genmeta.models.decoder import Redrawer
from genmeta.models.networks import Down, Shape, Up, checked_shape
from genmeta.models.registration import affine_displacement, enlarge, identity_grid
from genmeta.models.vae_networks import ConvEncoder


class PairEncoder(nn.Module):
    """q(z | x, x'): a `ConvEncoder` of both images as channels."""

    def __init__(
        self,
        latent_dim: int = 16,
        image_shape: Shape = None,
        channels: Sequence[int] = (32, 64),
        hidden: int = 128,
    ) -> None:
        super().__init__()
        c, h, w = self.image_shape = checked_shape(image_shape)
        self.init_args = {
            "latent_dim": latent_dim,
            "image_shape": [c, h, w],
            "channels": list(channels),
            "hidden": hidden,
        }
        self.latent_dim = latent_dim
        self.of_both = ConvEncoder(latent_dim, (2 * c, h, w), channels, hidden)

    def forward(self, x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance, each `[n, latent_dim]`, for pairs of images `[n, C, H, W]` in [0, 1]."""
        return self.of_both(torch.cat([x, other], 1))


class PixelRedrawer(Redrawer):
    """p(x' | x, z) pixel by pixel: features of x are joined with z and decoded; `logits` are those of a likelihood."""

    def __init__(
        self,
        latent_dim: int = 16,
        image_shape: Shape = None,
        channels: Sequence[int] = (32, 64),
        hidden: int = 256,
    ) -> None:
        super().__init__()
        require_positive("PixelRedrawer", latent_dim=latent_dim, channels=min(channels, default=1), hidden=hidden)
        self.init_args = {
            "latent_dim": latent_dim,
            "image_shape": list(checked_shape(image_shape)),
            "channels": list(channels),
            "hidden": hidden,
        }
        self.latent_dim, self.image_shape = latent_dim, checked_shape(image_shape)
        body = Down(self.image_shape, channels)
        self.look = nn.Sequential(body, nn.Flatten(), nn.Linear(prod(body.out_shape), hidden), nn.ReLU())
        self.draw = nn.Sequential(
            nn.Linear(hidden + latent_dim, hidden),
            nn.ReLU(),
            Up(hidden, self.image_shape, list(channels)[::-1], batch_norm=False),
        )

    def logits(self, x: Tensor, z: Tensor) -> Tensor:
        """Return logits `[n, C, H, W]`, whose sigmoid is the mean image."""
        return self.draw(torch.cat([self.look(x), z], 1))

    def redraw(self, x: Tensor, z: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(x, z))


class DeformationRedrawer(Redrawer):
    """p(x' | x, z) by moving ink: z and x give a smooth displacement field, an affine map and a change of stroke width.

    The field is drawn on a quarter of the resolution and enlarged, so that it is smooth; stroke width blends the moved
    image with its 3×3 dilation or erosion. There is no path from z to a pixel but through these, so the result
    keeps the strokes of the given image, whatever its class.

    Args:
        latent_dim: size of a code.
        image_shape: `[C, H, W]`, height and width multiples of 4; the data's if left out.
        channels: feature maps of the network that draws the field.
        reach: largest displacement by the field, as a share of half the width.
    """

    def __init__(
        self,
        latent_dim: int = 16,
        image_shape: Shape = None,
        channels: int = 32,
        reach: float = 0.35,
    ) -> None:
        super().__init__()
        require_positive("DeformationRedrawer", latent_dim=latent_dim, channels=channels)
        c, h, w = checked_shape(image_shape)
        if h % 4 or w % 4:
            raise UserError(f"DeformationRedrawer: height and width must be multiples of 4, found {[c, h, w]}")
        if not 0 < reach <= 1:
            raise UserError(f"DeformationRedrawer: reach must be in (0, 1], found {reach}")
        self.init_args = {
            "latent_dim": latent_dim,
            "image_shape": list(checked_shape(image_shape)),
            "channels": channels,
            "reach": reach,
        }
        self.latent_dim, self.image_shape, self.reach = latent_dim, (c, h, w), reach
        self.look = Down(self.image_shape, (channels, channels))
        self.place = nn.Linear(latent_dim, channels * (h // 4) * (w // 4))
        self.field = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2, 3, padding=1),
        )
        self.affine = nn.Linear(latent_dim, 6)
        self.width = nn.Linear(latent_dim, 1)
        for layer in (self.field[-1], self.affine, self.width):  # starts near the identity
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            with torch.no_grad():
                layer.weight.mul_(0.1)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return images `[n, C, H, W]` in [0, 1] and the displacements `[n, 2, H/4, W/4]` in half widths."""
        n = len(x)
        features = self.look(x)
        joined = torch.cat([features, self.place(z).view_as(features)], 1)
        field = torch.tanh(self.field(joined)) * self.reach
        fine = F.interpolate(field, x.shape[2:], mode="bicubic", align_corners=False)
        identity = torch.eye(2, 3, device=x.device, dtype=x.dtype)
        affine = identity + 0.5 * torch.tanh(self.affine(z)).view(n, 2, 3)
        grid = F.affine_grid(affine, list(x.shape), align_corners=False) + fine.permute(0, 2, 3, 1)
        moved = F.grid_sample(x, grid, align_corners=False)
        thick, thin = F.max_pool2d(moved, 3, 1, 1), -F.max_pool2d(-moved, 3, 1, 1)
        width = torch.tanh(self.width(z))[:, :, None, None]
        return moved + width.clamp(min=0) * (thick - moved) + (-width).clamp(min=0) * (thin - moved), field

    def redraw(self, x: Tensor, z: Tensor) -> Tensor:
        return self(x, z)[0]

    def linearised(self, x: Tensor, features: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images that codes draw, `[n, C, H, W]`, and their derivatives by the code, `[n, k, C, H, W]`.

        All k directions go forward through the network together: its first layer is linear in the code, so its
        derivative is one for all images, and ink moves by the slope of the image along the displacement. That costs a
        third of k products by `torch.func.jvp`, which `grid_sample` does not have.

        Args:
            x: images `[n, C, H, W]`.
            features: `look(x)`, which no code changes.
            z: codes `[n, k]`.
        """
        n, k = z.shape
        field, d_field = self._field_and_derivative(features, z)
        a, w = torch.tanh(self.affine(z)), torch.tanh(self.width(z))
        d_affine = 0.5 * (1 - a.square())[:, None] * self.affine.weight.T.to(z)  # [n, k, 6]
        d_width = (1 - w.square()) * self.width.weight.to(z)  # [n, k]
        identity, height, wide = identity_grid(x), x.shape[2], x.shape[3]

        def displacement(affine: Tensor, field: Tensor) -> Tensor:
            fine = enlarge(field, height, wide).permute(0, 2, 3, 1)
            return affine_displacement(identity, affine.view(-1, 2, 3)) + fine

        grid = identity + displacement(0.5 * a, field)
        moved, slope = _sampled(x, grid)  # slope: [n, C, H, W, 2]
        d_grid = displacement(d_affine.flatten(0, 1), d_field.flatten(0, 1)).view(n, k, 1, height, wide, 2)
        d_moved = (slope[:, None] * d_grid).sum(-1)
        sign = torch.where(w > 0, 1.0, -1.0).to(z)[:, :, None, None]
        pooled, places = F.max_pool2d(sign * moved, 3, 1, 1, return_indices=True)  # as thick or as thin as w says
        change, size = sign * pooled - moved, w.abs()[:, :, None, None]
        d_pooled = d_moved.flatten(3).gather(3, places.flatten(2)[:, None].expand(-1, k, -1, -1)).view_as(d_moved)
        d_size = (sign[:, :, 0, 0] * d_width)[:, :, None, None, None]
        drawn = moved + size * change
        return drawn, d_moved + size[:, None] * (d_pooled - d_moved) + d_size * change[:, None]

    def _field_and_derivative(self, features: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the field `[n, 2, h, w]` and its derivatives by the code, `[n, k, 2, h, w]`."""
        n, k = z.shape
        first, *later = self.field
        assert isinstance(first, nn.Conv2d)
        places = self.place.weight.T.to(z).view(k, *features.shape[1:])
        d = F.conv2d(places, first.weight[:, features.shape[1] :].to(z), padding=1)[None]  # the same for all images
        y = first(torch.cat([features, self.place(z).view_as(features)], 1))
        for layer in later:
            if isinstance(layer, nn.Conv2d):
                d = F.conv2d(d.flatten(0, 1), layer.weight.to(z), padding=1).unflatten(0, (n, k))
            else:  # ReLU
                d = d * (y > 0)[:, None]
            y = layer(y)
        field = torch.tanh(y)
        return self.reach * field, self.reach * (1 - field.square())[:, None] * d


def _sampled(x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Return images `[n, C, H, W]` sampled at a grid, and their derivatives by its places, `[n, C, H, W, 2]`."""
    # two values without has_aux, whatever its annotation says
    moved, pull = vjp(lambda places: F.grid_sample(x, places, align_corners=False), grid)  # type: ignore[misc]
    slopes = []
    for channel in range(x.shape[1]):
        one = torch.zeros_like(moved)
        one[:, channel] = 1
        slopes.append(pull(one)[0])
    return moved, torch.stack(slopes, 1)


ERROR_WEIGHT = 20.0  # of `blurred_error` against the KL divergence in nats: -log p(x' | x, z) but for a constant


PASSES = ((1, 0.3), (3, 1.0), (6, 2.0))  # of a 3×3 mean, and the weight of what is left after so many


def blurred_error(drawn: Tensor, x: Tensor) -> Tensor:
    """Return squared errors of images blurred by 1, 3 and 6 passes of a 3×3 mean, weighted 0.3, 1 and 2, `[n]`.

    Pixels alone have no gradient from a stroke to one beside it; blurred, a near miss costs less than a far one.
    """
    difference = drawn - x
    total = torch.zeros(len(x), device=x.device, dtype=x.dtype)
    passes = 0
    for until, weight in PASSES:
        for _ in range(until - passes):
            difference = F.avg_pool2d(difference, 3, 1, 1)
        passes = until
        total = total + weight * difference.square().flatten(1).sum(1)
    return total


def twice_blurred(images: Tensor, more: int = 0) -> Tensor:
    """Return what `blurred_error` is the product of a difference with, `[..., H, W]`, linear in the images.

    `blurred_error(x, y)` is the sum of `(x - y) * twice_blurred(x - y)`: each blur is its own adjoint. It is that of
    images blurred by `more` passes of the 3×3 mean before, whose standard deviation is that of so many, √(2/3 `more`).
    """
    total = torch.zeros_like(images)
    for passes, weight in PASSES:
        rows, columns = (_mean_of_three(size, 2 * (passes + more)).to(images) for size in images.shape[-2:])
        total = total + weight * (rows @ images @ columns)
    return total


@lru_cache(maxsize=64)
def _mean_of_three(size: int, passes: int) -> Tensor:
    """Return the symmetric matrix `[size, size]` of so many passes of a mean over three neighbours; outside is 0."""
    with torch.inference_mode(False):  # it is kept, and a training may need it after a test
        one = torch.ones(size, size, dtype=torch.float64).tril(1).triu(-1) / 3
        return torch.linalg.matrix_power(one, passes)


def roughness(field: Tensor) -> Tensor:
    """Return the sum of squared differences of neighbouring displacements of a field `[n, 2, h, w]`, `[n]`."""
    return sum(
        (step.square().flatten(1).sum(1) for step in (field.diff(dim=2), field.diff(dim=3))),
        torch.zeros(len(field), device=field.device, dtype=field.dtype),
    )
