"""Random smooth deformations of images: the plain augmentation that generated instances must beat.

Simard, Steinkraus and Platt, "Best Practices for Convolutional Neural Networks applied to Visual Document Analysis",
ICDAR 2003, deform digits by smoothed random fields. Here the field is bicubic between a few control points, with a
random affine map beside it, and its parameters are drawn apart from the images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from genmeta.errors import UserError

_AFFINE = 6  # of the parameters: what a 2×3 matrix has beyond the identity


@dataclass(frozen=True)
class Elastic:
    """How large deformations are: standard deviations of normal draws, in half widths of the image where not said.

    The defaults were chosen on validation classes (docs/sampling_results.md).

    Args:
        field: of each control point's displacement.
        cells: control points a side.
        rotation: in radians.
        scale: of the logarithm of the size, drawn for height and width together.
        aspect: of the logarithm of the ratio of width to height.
        shear: of the slant, a ratio.
        shift: of the translation.

    Raises:
        UserError: a size is negative, or there are fewer than 2 control points a side.
    """

    field: float = 0.1
    cells: int = 4
    rotation: float = 0.1
    scale: float = 0.1
    aspect: float = 0.1
    shear: float = 0.1
    shift: float = 0.07

    def __post_init__(self) -> None:
        sizes = (self.field, self.rotation, self.scale, self.aspect, self.shear, self.shift)
        if min(sizes) < 0 or self.cells < 2:
            raise UserError(f"Elastic: sizes must be at least 0 and cells at least 2, found {self}")

    @property
    def n_parameters(self) -> int:
        """Numbers that describe one deformation."""
        return _AFFINE + 2 * self.cells**2

    def draw(self, *shape: int, rng: torch.Generator) -> Tensor:
        """Return parameters of deformations, float32 `[*shape, n_parameters]`; 0 is the identity.

        Sums of parameters compose small deformations approximately.
        """
        normal = torch.randn(*shape, _AFFINE + 2 * self.cells**2, generator=rng)
        angle, size, aspect, shear = (normal[..., :4] * torch.tensor(self._affine_sizes)).unbind(-1)
        wide, high = (size + aspect / 2).exp(), (size - aspect / 2).exp()
        cos, sin = angle.cos(), angle.sin()
        # rotation · shear · scales, less the identity, then the translation
        rows = [cos * wide - 1, (cos * shear - sin) * high, self.shift * normal[..., 4]]
        rows += [sin * wide, (sin * shear + cos) * high - 1, self.shift * normal[..., 5]]
        return torch.cat([torch.stack(rows, -1), self.field * normal[..., _AFFINE:]], -1)

    @property
    def _affine_sizes(self) -> tuple[float, ...]:
        return self.rotation, self.scale, self.aspect, self.shear


def deform(images: Tensor, parameters: Tensor) -> Tensor:
    """Return images `[n, C, H, W]` moved by deformations `[n, n_parameters]` of `Elastic.draw`; outside is 0 (no ink).

    Parameters are in half widths, so that they carry over between image sizes.
    """
    cells = round(((parameters.shape[1] - _AFFINE) / 2) ** 0.5)
    affine = parameters[:, :_AFFINE].view(-1, 2, 3) + torch.eye(2, 3, device=images.device)
    field = parameters[:, _AFFINE:].view(-1, 2, cells, cells)
    fine = F.interpolate(field, images.shape[2:], mode="bicubic", align_corners=True)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False) + fine.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, align_corners=False)
