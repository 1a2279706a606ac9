"""Loaders without a sampler: batches that are a pure function of the step, and fixed batches.

Neither is a torch DataLoader, so that Lightning shards nothing (what they hold is already this process's part).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset


class StepLoader:
    """Yields `plan(t)` for t = 0, 1, 2, …, each time it is asked the next epoch's steps.

    After a resume in mid-epoch Lightning takes what is left of the epoch only; an epoch that `max_steps` or a limit of
    batches has cut short is over, and the next is a whole one.

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
        steps = range(self.step, self.step + self.steps_per_epoch)
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
        """Return the loader of the training batches, which goes on where a checkpoint left off.

        With `trainer.overfit_batches` its first batches come again every epoch. A loader that the trainer asks for in
        mid-training (`reload_dataloaders_every_n_epochs`) goes on after the one before.
        """
        if self.trainer and (share := self.trainer.overfit_batches):  # type: ignore[attr-defined]
            plan = partial(_again, plan, share if isinstance(share, int) else max(1, int(share * steps_per_epoch)))
        going_on = self._loader is not None and self.trainer is not None and self.trainer.current_epoch > 0
        first = self._loader.step if going_on and self._loader else self._first_step
        self._loader = StepLoader(plan, steps_per_epoch, n_workers, first)
        return self._loader

    def state_dict(self) -> dict[str, Any]:
        """Return the number of batches handed out."""
        return self._loader.state_dict() if self._loader else {"step": self._first_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the batches of a saved state."""
        self._first_step, self._loader = state_dict["step"], None


class FixedLoader:
    """Yields the same batches every time (a bare list would mean several loaders to Lightning)."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def _again(plan: Callable[[int], Any], n: int, step: int) -> Any:
    return plan(step % n)


class _Plans(Dataset[Any]):
    def __init__(self, plan: Callable[[int], Any]) -> None:
        self.plan = plan

    def __getitem__(self, step: int) -> Any:
        return self.plan(step)
