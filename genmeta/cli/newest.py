"""Finds a checkpoint: by the path of a run or an exported folder, or the newest one."""

from collections.abc import Set
from pathlib import Path
from typing import Any

from genmeta.errors import UserError
from genmeta.experiments.run_folder import CONFIG_FILE, RunSettings, lays_debug, made_checkpoint
from genmeta.models.checkpoint import KEY, read_checkpoint
from genmeta.models.exported import is_exported

TO_TRAIN = {
    "generator": "genmeta fit --config generator/vae.yaml",
    "redrawer": "genmeta fit --config generator/vae_deformation.yaml",
}


def role_of(path: str | Path) -> str | None:
    """Return the role that a checkpoint records: `generator` (draws from codes), `redrawer` (draws given images again),
    or None, for example for a learner.

    Raises:
        UserError: it cannot be read.
    """
    return _role(_record(path))


def _record(path: str | Path) -> dict[str, Any]:
    record = read_checkpoint(path).get(KEY)
    return record if isinstance(record, dict) else {}


def _role(record: dict[str, Any]) -> str | None:
    networks = record.get("networks") or ()
    return "redrawer" if "redrawer" in networks else "generator" if "decoder" in networks else None


def newest(roles: Set[str], split: str | None = None) -> Path:
    """Return the newest best checkpoint under `runs` with one of these roles.

    Passes over debug runs, checkpoints of other splits, and files that cannot be read.

    Args:
        roles: `generator`, `redrawer`.
        split: name of its split; None: any.

    Raises:
        UserError: there is no such checkpoint.
    """
    root = RunSettings().root
    for path in sorted(root.glob("**/checkpoints/best.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True):
        if lays_debug([path.parent.parent / CONFIG_FILE]):
            continue
        try:
            record = _record(path)
        except UserError:
            continue
        if _role(record) in roles and split in (None, record.get("split_name")):
            return path
    what = " or ".join(f"{role} ({TO_TRAIN[role]})" for role in sorted(roles))
    of = f" of split '{split}'" if split else ""
    raise UserError(
        f"--ckpt: not given, and there is no {what}{of} under {root}, debug runs aside; train one or name one"
    )


def checkpoint_of(path: str | Path) -> Path:
    """Return the checkpoint of `--ckpt`, which is a file, an exported folder, or a run folder.

    Raises:
        UserError: the folder has no checkpoint.
    """
    path = Path(path)
    if not path.is_dir() or is_exported(path):
        return path  # the reader says what is wrong with it
    if made := made_checkpoint(path):
        return made
    inside = sorted(path.glob("**/checkpoints/best.ckpt"))
    example = f"; there is {inside[0]}" if inside else ""
    raise UserError(f"--ckpt: {path} holds no checkpoints/best.ckpt; expected a run folder, or a checkpoint{example}")
