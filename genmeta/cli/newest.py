"""Which checkpoint is meant: by the path of a run or of an exported folder, or the newest where none is named."""

from collections.abc import Set
from pathlib import Path
from typing import Any

from genmeta.errors import UserError
from genmeta.experiments.run_folder import CONFIG_FILE, RunSettings, lays_debug, made_checkpoint
from genmeta.models.checkpoint import KEY, read_checkpoint
from genmeta.models.exported import is_exported

TO_TRAIN = {"generator": "make train-vae", "redrawer": "make train-vae VAE=vae_deformation"}


def role_of(path: str | Path) -> str | None:
    """Return what a checkpoint is by its own record: `generator` (draws from codes), `redrawer` (draws given images
    again), or None, such as a learner's.

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
    """Return the newest best checkpoint under `runs` that is of one of these roles.

    Debug runs, what cannot be read, and what is of another split are passed over.

    Args:
        roles: `generator`, `redrawer`.
        split: name of the split that it was trained on; None: any.

    Raises:
        UserError: there is none.
    """
    root = RunSettings().root
    found = {path: path.stat().st_mtime for path in root.glob("**/checkpoints/best.ckpt")}
    for path in sorted(found, key=lambda path: found[path], reverse=True):
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
    """Return the checkpoint that `--ckpt` means: a file, an exported folder, or that of a run folder.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    if not path.is_dir() or is_exported(path):
        return path  # whoever reads it says what is wrong
    if made := made_checkpoint(path):
        return made
    inside = sorted(path.glob("**/checkpoints/best.ckpt"))
    example = f"; there is {inside[0]}" if inside else ""
    raise UserError(f"--ckpt: {path} holds no checkpoints/best.ckpt; expected a run folder, or a checkpoint{example}")
