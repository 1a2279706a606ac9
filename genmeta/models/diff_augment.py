"""Augmentation of real and generated images alike, through which gradients flow."""

import torch
from torch import Tensor
from torch.nn import functional as F

from genmeta.errors import UserError
from genmeta.rng import Rng, uniform


class DiffAugment:
    """What the discriminator sees is augmented, real and generated images alike, in the steps of both networks.

    So it cannot learn a small data set by heart, and the generator does not learn the augmentation.

    Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020; reference code:
    github.com/mit-han-lab/data-efficient-gans. What is outside of a shifted image is background (-1), not grey.

    Args:
        translation: largest shift, as a share of the side (paper: 0.125).
        cutout: side of the square that is blanked, as a share of the side (paper: 0.5; 0: none).
        colour: random brightness (±0.5 of half the range), saturation (0 to 2) and contrast (0.5 to 1.5). Not for
            drawings, where it changes nothing but what ink is.
    """

    def __init__(self, translation: float = 0.125, cutout: float = 0.0, colour: bool = False) -> None:
        if not 0 <= translation < 1 or not 0 <= cutout < 1:
            raise UserError(f"DiffAugment: translation and cutout must be in [0, 1), found {translation} and {cutout}")
        self.translation, self.cutout, self.colour = translation, cutout, colour

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """Return augmented images `[n, C, H, W]` in [-1, 1] (colour may leave that range); `rng` is on their device."""
        n, _, h, w = x.shape
        if self.colour:
            x = x + uniform(rng, n, 1, 1, 1) - 0.5
            mean = x.mean(1, keepdim=True)
            x = mean + (x - mean) * 2 * uniform(rng, n, 1, 1, 1)
            mean = x.mean((1, 2, 3), keepdim=True)
            x = mean + (x - mean) * (0.5 + uniform(rng, n, 1, 1, 1))
        rows, columns = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
        if self.translation:
            reach = torch.tensor([round(h * self.translation), round(w * self.translation)], device=x.device)
            shift = (uniform(rng, n, 2) * (2 * reach + 1)).floor().long()
            pad_h, pad_w = int(reach[0]), int(reach[1])
            padded = F.pad(x, (pad_w, pad_w, pad_h, pad_h), value=-1.0)
            at = torch.arange(n, device=x.device)[:, None, None]
            # [n, h, w, C] back to [n, C, h, w]
            x = padded.permute(0, 2, 3, 1)[
                at, (rows + shift[:, :1])[:, :, None], (columns + shift[:, 1:])[:, None, :]
            ].permute(0, 3, 1, 2)
        if self.cutout:
            centre = uniform(rng, n, 2)
            blank_rows = (rows - centre[:, :1] * h).abs() < self.cutout * h / 2
            blank_columns = (columns - centre[:, 1:] * w).abs() < self.cutout * w / 2
            keep = ~(blank_rows[:, :, None] & blank_columns[:, None, :])
            # -1 is background
            x = (x + 1) * keep[:, None] - 1
        return x
