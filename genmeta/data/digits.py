"""`digits`: the handwritten digits that come with scikit-learn. Ten classes, so a check of the machinery, no benchmark.

Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998: 8×8 images of
some 180 drawings of each digit.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from genmeta.data.source import DataSource
from genmeta.data.table import ImageTable
from genmeta.errors import require_positive


@dataclass(frozen=True)
class Digits(DataSource):
    """Data source. The digits fill 20 of 28 pixels, and the rest is empty, as in MNIST; other sizes in proportion.

    Args:
        size: side of the images in pixels.

    Raises:
        UserError: the size is not positive.
    """

    size: int = 28

    def __post_init__(self) -> None:
        require_positive("Digits", size=self.size)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 1, self.size, self.size

    def load(self) -> ImageTable:
        """Return the table, ink = 255, made anew at each call (a fraction of a second)."""
        from sklearn.datasets import load_digits  # here: scikit-learn is slow to import

        digits = load_digits()
        labels = torch.from_numpy(digits.target).long()
        order = labels.argsort(stable=True)
        ink = torch.from_numpy(digits.images)[order, None].float() / 16  # counts of 0 to 16 pixels of the original
        side = max(1, round(self.size * 20 / 28))
        before = (self.size - side) // 2
        after = self.size - side - before
        drawn = F.interpolate(ink, (side, side), mode="bilinear", align_corners=False)
        return ImageTable(
            name="digits",
            images=(F.pad(drawn, (before, after, before, after)) * 255).round().to(torch.uint8),
            class_ids=labels[order],
            class_names=tuple(f"digits/{digit}" for digit in range(10)),
            groups=("digits",) * 10,
        )
