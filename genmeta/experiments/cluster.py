"""Runs as jobs of a SLURM array or of submitit's local executor: `configs/cluster/*.yaml`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from genmeta.errors import UserError
from genmeta.experiments.execute import Begin, run_one
from genmeta.experiments.run import Run
from genmeta.read_yaml import read_typed


@dataclass(frozen=True)
class ClusterSettings:
    """Where runs go.

    Attributes:
        executor: `slurm`, or `local`: processes of this machine, for a trial.
        at_once: runs at the same time.
        minutes: a job's limit.
        options: more of submitit's parameters, e.g. `slurm_partition: gpu`, `gpus_per_node: 1`, `mem_gb: 8`.
    """

    executor: Literal["slurm", "local"]
    at_once: int
    minutes: int
    options: dict[str, Any] = field(default_factory=dict)


def read_cluster(path: Path) -> ClusterSettings:
    """Read the YAML of a cluster.

    Raises:
        UserError: it cannot be read, or a key or a value is wrong.
    """
    settings: ClusterSettings = read_typed(ClusterSettings, path, "--cluster")
    for name in ("at_once", "minutes"):
        if getattr(settings, name) < 1:
            raise UserError(f"{path}: {name} must be at least 1, found {getattr(settings, name)}")
    return settings


def jobs_of(settings: ClusterSettings, logs: Path) -> Begin:
    """Return a function that begins runs as jobs. Runs that are ready at the same time are one array.

    A job calls `run_one` for one run. It takes the run's lock, so all machines must see the folder of all runs.

    Args:
        settings: of the cluster.
        logs: folder of submitit's own files.

    Raises:
        UserError: submitit or SLURM is not there, or does not know an option.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError('--cluster needs submitit: pip install "genmeta[slurm]"') from error
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=settings.executor)
        array = {"slurm_array_parallelism": settings.at_once} if settings.executor == "slurm" else {}
        executor.update_parameters(timeout_min=settings.minutes, **array, **settings.options)
    except (RuntimeError, TypeError, NameError, ValueError) as error:
        raise UserError(f"--cluster: {' '.join(str(error).split())}") from error

    def begin(runs: Sequence[Run], program: Sequence[str]) -> list[Callable[[], str]]:
        if not runs:
            return []
        return [partial(_end, job) for job in executor.map_array(run_one, runs, [list(program)] * len(runs))]

    return begin


def _end(job: Any) -> str:
    """Wait for a job; return its output, or why it failed, such as a time limit."""
    return str(job.exception() or job.result())
