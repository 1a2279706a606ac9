"""The YAMLs that come with the package, and where a name or a path of one leads."""

from collections.abc import Sequence
from pathlib import Path

import genmeta
from genmeta.errors import UserError, nearest

CONFIGS = "configs"
SHIPPED = Path(genmeta.__file__).with_name(CONFIGS)  # in a checkout, a link


def config_file(path: str | Path) -> Path:
    """Return the file that a path of a YAML means: one's own, or else the package's of that name.

    `configs/learner/protonet.yaml`, and `learner/protonet.yaml` for short, are found from any folder; files of the
    current folder, and of `configs` in it, come first. What is nowhere is returned as it is: whoever reads it says so.
    """
    path = Path(path)
    below = path.relative_to(CONFIGS) if path.parts[:1] == (CONFIGS,) else path
    return next((found for found in (path, CONFIGS / below, SHIPPED / below) if found.is_file()), path)


def with_config_files(options: Sequence[str]) -> list[str]:
    """Return the options of a command with the file that each `--config` means (`config_file`)."""
    found = list(options)
    for place, option in enumerate(options):
        if option.startswith("--config="):
            found[place] = f"--config={config_file(option.removeprefix('--config='))}"
        elif place and options[place - 1] == "--config":
            found[place] = str(config_file(option))
    return found


def configs_of(kind: str) -> dict[str, Path]:
    """Return the YAMLs of a kind (`data`, `learner`, …) by name: those of `configs` in the current folder, and the
    package's.
    """
    found = {path.stem: path for folder in (SHIPPED, Path(CONFIGS)) for path in (folder / kind).glob("*.yaml")}
    return dict(sorted(found.items()))


def find_config(option: str, name: str) -> Path:
    """Return the YAML that an option names: one of its kind (`configs_of`) without its ending, or a path.

    The kind has the option's name, but `redrawer` is one of the generators.

    Raises:
        UserError: there is none.
    """
    known = configs_of("generator" if option == "redrawer" else option)
    path = known.get(name) or config_file(name)
    if not path.is_file():
        raise UserError(f"--{option}: '{name}' is no file and none of {', '.join(known)}{nearest(name, known)}")
    return path
