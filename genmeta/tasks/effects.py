"""The effects: halves of other images pasted on, images drawn again, deformations."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from genmeta.effect import Effect, Sources
from genmeta.episode import REDRAWN, EpisodePlan
from genmeta.tasks.elastic import deform


@dataclass(frozen=True)
class Pasting(Effect):
    """Halves of other images of the table over those of an image; the image counts as real.

    Attributes:
        pasted: int64 `[task, way, shot + query]`, rows of the table; the right half of each covers that of the image in
            its place. -1 for none.
        pasted_turns: int64 `[task, way]`, turns of what is pasted.
        pasted_below: bool `[task, way]`, whether it is the lower half instead.
    """

    rendered_at = 0
    hashed_at = 2
    pasted: Tensor = field(metadata={"fill": -1})
    pasted_turns: Tensor = field(metadata={"fill": 0})
    pasted_below: Tensor = field(metadata={"fill": False})

    @property
    def changes(self) -> Tensor:
        return self.pasted >= 0

    def render(self, x: Tensor, sources: Sources) -> Tensor:
        other = sources.table(self.pasted.clamp(min=0), self.pasted_turns)
        height, width = x.shape[-2:]
        right = (torch.arange(width, device=x.device) >= width // 2).expand(height, width)
        below = (torch.arange(height, device=x.device) >= height // 2)[:, None].expand(height, width)
        half = torch.where(self.pasted_below[..., None, None], below, right)[:, :, None, None]
        return torch.where(half & self.changes[..., None, None, None], other, x)


@dataclass(frozen=True)
class Redrawing(Effect):
    """Images drawn again by a learned redrawer.

    Attributes:
        redraw_codes: float32 `[task, way, shot + query, k]`, codes of the redrawer, NaN for images that it leaves
            alone.
    """

    rendered_at = 1
    hashed_at = 0
    redraw_codes: Tensor = field(metadata={"fill": torch.nan, "hashed_as": "hands"})

    @property
    def changes(self) -> Tensor:
        return ~self.redraw_codes[..., 0].isnan()

    def provenance(self, before: Tensor) -> Tensor:
        return torch.where(self.changes, before.clamp(min=REDRAWN), before)  # what was decoded stays decoded

    def render(self, x: Tensor, sources: Sources) -> Tensor:
        if sources.redraw is None:
            raise ValueError("the plan has codes of a redrawer, but there is nothing to draw images again with")
        changed = self.changes
        with torch.no_grad():
            x[changed] = sources.redraw(x[changed], self.redraw_codes[changed]).float()
        return x


@dataclass(frozen=True)
class Deformation(Effect):
    """Images deformed at random; they stay real, or redrawn, or decoded.

    Attributes:
        elastic: float32 `[task, way, shot + query, e]`, parameters of `genmeta.tasks.elastic.deform`, 0 for none.
    """

    rendered_at = 2
    hashed_at = 1
    elastic: Tensor = field(metadata={"fill": 0.0})

    @property
    def changes(self) -> Tensor:
        return (self.elastic != 0).any(3)

    def render(self, x: Tensor, sources: Sources) -> Tensor:
        return deform(x.flatten(0, 2), self.elastic.flatten(0, 2)).view(x.shape)

    @classmethod
    def added(cls, plan: EpisodePlan, parameters: Tensor) -> EpisodePlan:
        """Return the plan with further deformations, `[task, way, shot + query, e]`, on top of those that it has."""
        before = plan.effect(cls)
        return plan.having(cls(parameters if before is None else before.elastic + parameters))
