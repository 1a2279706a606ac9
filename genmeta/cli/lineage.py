"""Inputs and outputs of a run as W&B artifacts: split → generator → learner → test → table.

An artifact is identified by its name and content. So a run that reads a checkpoint names the same artifact as the run
that wrote it, without asking a server: offline runs are linked when they are sent.
"""

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from genmeta.cli.tracking import kept_id
from genmeta.data.splits import Split
from genmeta.experiments.run_folder import SPLIT_FILE

LARGEST_FILE = 200 * 2**20
"""In bytes. Of a larger file only path and checksum are sent."""


def describe_inputs(checkpoints: Mapping[str, str | Path]) -> dict[str, dict[str, Any]]:
    """Return by role (`generator`, `redrawer`, `learner`) the path, the SHA-256 and the W&B run of each checkpoint.

    It is part of a run's configuration, which so has the lineage even without artifacts.
    """
    return {
        role: {"path": str(path), "sha256": _sha256(Path(path)), "run_id": kept_id(Path(path).parent.parent)}
        for role, path in checkpoints.items()
    }


def log_split(run: Any, folder: Path, split: Split) -> None:
    """Register the split of a run folder as the run's input: runs on the same split share one artifact."""
    import wandb

    artifact = wandb.Artifact(_name("split", split.name), "dataset", metadata={"hash": split.hash})
    artifact.add_file(str((folder / SPLIT_FILE).resolve()), policy="immutable")
    _use(run, artifact)


def log_inputs(run: Any, checkpoints: Mapping[str, str | Path]) -> None:
    """Register checkpoints as inputs of a run."""
    for role, path in checkpoints.items():
        _use(run, checkpoint_artifact(Path(path), {"role": role}))


def log_checkpoint(run: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    """Register a checkpoint as an output of a run."""
    run.log_artifact(checkpoint_artifact(path, metadata), aliases=["best"])


def log_results(run: Any, name: str, *files: Path) -> None:
    """Register tables as outputs of a run."""
    import wandb

    artifact = wandb.Artifact(_name("results", name), "results")
    for file in files:
        artifact.add_file(str(file.resolve()), policy="immutable")
    run.log_artifact(artifact)


def checkpoint_artifact(path: Path, metadata: Mapping[str, Any]) -> Any:
    """Return the artifact of a checkpoint: named by the run that wrote it and by its content."""
    import wandb

    digest = _sha256(path)
    artifact = wandb.Artifact(
        _name(path.parent.parent.parent.name, digest[:8]), "model", metadata={**metadata, "sha256": digest}
    )
    if path.stat().st_size > LARGEST_FILE:
        artifact.add_reference(path.resolve().as_uri(), name="best.ckpt")
    else:
        artifact.add_file(str(path.resolve()), name="best.ckpt", policy="immutable")  # it stays as it is: no copy
    return artifact


def _use(run: Any, artifact: Any) -> None:
    """Register an artifact as an input, also offline.

    Offline, `use_artifact` refuses. This does what it does online for an artifact that is not there yet (wandb 0.31).
    """
    if run.offline:
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
    else:
        run.use_artifact(artifact)


def _name(*parts: str) -> str:
    """Return a name with only the letters that W&B allows."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", "-".join(part for part in parts if part))[:128]


def _sha256(path: Path) -> str:
    stat = path.stat()
    return _hashed(path.resolve(), stat.st_size, stat.st_mtime_ns)


@cache
def _hashed(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
