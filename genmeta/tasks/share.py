"""The share of generated class slots as a function of the optimiser step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from genmeta.errors import UserError


class Share(ABC):
    """A schedule of the share of generated slots, in [0, 1]."""

    @property
    @abstractmethod
    def range(self) -> tuple[float, float]:
        """Smallest and largest share."""

    @abstractmethod
    def until(self, step: float) -> float:
        """Return the integral of the share from step 0 to `step`; its differences deal whole numbers exactly."""


def _check(name: str, *shares: float) -> None:
    if not all(0 <= share <= 1 for share in shares):
        raise UserError(f"{name}: shares must be in [0, 1], found {', '.join(map(str, shares))}")


def _check_steps(name: str, steps: float) -> None:
    if steps < 1:
        raise UserError(f"{name}: steps must be at least 1, found {steps}")


@dataclass(frozen=True)
class Constant(Share):
    """Always the same share."""

    share: float

    def __post_init__(self) -> None:
        _check("share", self.share)

    @property
    def range(self) -> tuple[float, float]:
        return self.share, self.share

    def until(self, step: float) -> float:
        return self.share * step


@dataclass(frozen=True)
class Linear(Share):
    """From `start` to `end` in a straight line over `steps`, then `end`."""

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _check("Linear", self.start, self.end)
        _check_steps("Linear", self.steps)

    @property
    def range(self) -> tuple[float, float]:
        return min(self.start, self.end), max(self.start, self.end)

    def until(self, step: float) -> float:
        t = min(step, self.steps)
        moving = self.start * t + (self.end - self.start) * t * t / (2 * self.steps)
        return moving + self.end * (step - t)


@dataclass(frozen=True)
class Cosine(Share):
    """From `start` to `end` along half a cosine over `steps`, then `end`."""

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _check("Cosine", self.start, self.end)
        _check_steps("Cosine", self.steps)

    @property
    def range(self) -> tuple[float, float]:
        return min(self.start, self.end), max(self.start, self.end)

    def until(self, step: float) -> float:
        t = min(step, self.steps)
        middle, half = (self.start + self.end) / 2, (self.start - self.end) / 2
        return middle * t + half * self.steps / math.pi * math.sin(math.pi * t / self.steps) + self.end * (step - t)


@dataclass(frozen=True)
class Steps(Share):
    """`shares[i]` until step `milestones[i]`, and the last share from then on."""

    shares: Sequence[float]
    milestones: Sequence[int]

    def __post_init__(self) -> None:
        _check("Steps", *self.shares)
        if len(self.shares) != len(self.milestones) + 1 or list(self.milestones) != sorted(set(self.milestones)):
            raise UserError(
                f"Steps: one share more than milestones is needed, and milestones that rise; found "
                f"{len(self.shares)} shares, milestones {list(self.milestones)}"
            )
        if self.milestones and self.milestones[0] < 1:
            raise UserError(f"Steps: milestones must be at least 1, found {list(self.milestones)}")

    @property
    def range(self) -> tuple[float, float]:
        return min(self.shares), max(self.shares)

    def until(self, step: float) -> float:
        total, begin = 0.0, 0.0
        for share, end in zip(self.shares, [*self.milestones, math.inf], strict=True):
            if step <= begin:
                break
            total += share * (min(step, end) - begin)
            begin = end
        return total


@dataclass(frozen=True)
class WarmupThenAnneal(Share):
    """Straight from 0 to `peak` over `warmup` steps, then along half a cosine to `end` over `anneal` steps."""

    peak: float
    warmup: int
    anneal: int
    end: float = 0.0

    def __post_init__(self) -> None:
        _check("WarmupThenAnneal", self.peak, self.end)
        _check_steps("WarmupThenAnneal", min(self.warmup, self.anneal))

    @property
    def range(self) -> tuple[float, float]:
        return 0.0, max(self.peak, self.end)

    def until(self, step: float) -> float:
        up = Linear(0.0, self.peak, self.warmup).until(min(step, self.warmup))
        return up + Cosine(self.peak, self.end, self.anneal).until(max(step - self.warmup, 0))


class Adaptive(Share):
    """A share that is changed after each validation by what has been measured; its state is saved and restored.

    Args:
        start: the first share.
        low, high: it stays in this range.
        change: by how much it changes at a time.
        by: `gap`: after validation the share rises by `change` if queries of made-up classes were answered worse than
            those of real classes in training (there is something to learn from them), and falls if they were answered
            better. A class of the data is a real one, also where images of it are redrawn.
            `validation`: it goes on in one direction, upwards at first, as long as the validation accuracy rises, and
            turns round when that falls.
    """

    def __init__(
        self,
        start: float = 0.25,
        low: float = 0.0,
        high: float = 0.75,
        change: float = 0.05,
        by: Literal["gap", "validation"] = "gap",
    ) -> None:
        _check("Adaptive", start, low, high)
        if not low <= start <= high or change <= 0:
            raise UserError(
                f"Adaptive: low <= start <= high and change > 0 are needed; found low={low}, start={start}, "
                f"high={high}, change={change}"
            )
        if by not in ("gap", "validation"):
            raise UserError(f"Adaptive: by must be gap or validation, found '{by}'")
        self.low, self.high, self.change, self.by = low, high, change, by
        self.share = start
        self.since, self.given = 0, 0.0  # the step at which this share began, and the integral until then
        self.direction, self.last = 1.0, -math.inf

    @property
    def range(self) -> tuple[float, float]:
        return self.low, self.high

    def until(self, step: float) -> float:
        return self.given + self.share * (step - self.since)

    def update(self, step: int, acc_real: float, acc_latent: float, val_acc: float) -> None:
        """Choose the share from `step` on, from accuracies in [0, 1]; NaN (nothing was seen) changes nothing."""
        if self.by == "gap":
            gap = acc_real - acc_latent
            direction = math.copysign(1.0, gap) if abs(gap) > 0 else 0.0  # False for NaN
        else:
            if val_acc < self.last:
                self.direction = -self.direction
            self.last, direction = val_acc, self.direction
        self.given, self.since = self.until(step), step
        self.share = min(max(self.share + direction * self.change, self.low), self.high)

    def state_dict(self) -> dict[str, Any]:
        """Return what decides all later shares."""
        return {name: getattr(self, name) for name in ("share", "since", "given", "direction", "last")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        for name, value in state.items():
            setattr(self, name, value)
