"""Loaders without a sampler: batches that are a pure function of the step, and fixed batches.

Neither is a torch DataLoader, so that Lightning shards nothing (what they hold is already this process's part).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset


class StepLoader:
    """Yields `plan(t)` for t = 0, 1, 2, …, in epochs of a fixed number of steps.

    It has `state_dict` **and** `__len__`, so that Lightning saves the step, prefetches nothing and resumes in mid-
    epoch.

    Args:
        plan: step to batch; must pickle if there are workers.
        steps_per_epoch: batches of one iteration.
        n_workers: loader processes; the batches are the same for any number.
        first_step: where to begin.
    """

    def __init__(
        self, plan: Callable[[int], Any], steps_per_epoch: int, n_workers: int = 0, first_step: int = 0
    ) -> None:
        self.plan, self.steps_per_epoch, self.n_workers = plan, steps_per_epoch, n_workers
        self.step = first_step

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[Any]:
        end = (self.step // self.steps_per_epoch + 1) * self.steps_per_epoch
        steps = range(self.step, end)
        # the loader draws a seed for its workers, from this generator instead of the global one
        source = (
            DataLoader(
                _Plans(self.plan),
                batch_size=None,
                sampler=steps,
                num_workers=self.n_workers,
                generator=torch.Generator().manual_seed(0),
            )
            if self.n_workers
            else map(self.plan, steps)
        )
        for batch in source:
            self.step += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches handed out."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches of a saved state."""
        self.step = state["step"]


class StepDataModule(LightningDataModule):
    """Has one `StepLoader`, whose step is saved with the data module.

    Lightning gives a loader its state back in mid-epoch only; from a checkpoint of an epoch's end it would begin with
    the batches of step 0 again.
    """

    _loader: StepLoader | None = None
    _first_step = 0

    def step_loader(self, plan: Callable[[int], Any], steps_per_epoch: int, n_workers: int = 0) -> StepLoader:
        """Return the loader of the training batches, which goes on where a checkpoint left off."""
        self._loader = StepLoader(plan, steps_per_epoch, n_workers, self._first_step)
        return self._loader

    def state_dict(self) -> dict[str, Any]:
        """Return the number of batches handed out."""
        return self._loader.state_dict() if self._loader else {"step": self._first_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the batches of a saved state."""
        self._first_step = state_dict["step"]


class FixedLoader:
    """Yields the same batches every time (a bare list would mean several loaders to Lightning)."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class _Plans(Dataset[Any]):
    def __init__(self, plan: Callable[[int], Any]) -> None:
        self.plan = plan

    def __getitem__(self, step: int) -> Any:
        return self.plan(step)
