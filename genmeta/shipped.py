"""The YAMLs that come with the package, and where a name or a path of one leads."""

from collections.abc import Sequence
from pathlib import Path

import yaml

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
    """Return the options of a command with the file that each `--config` means (`config_file`), after the YAML of
    `configs/tasks` that it is laid over, if it names one (`tasks: NAME`). `--tasks NAME` takes that one's place.

    Raises:
        UserError: there are no such tasks, or none whose place they could take.
    """
    options = _in_one_word(options)
    in_place = [option.removeprefix("--tasks=") for option in options if option.startswith("--tasks=")]
    found, is_over = [], False
    for option in options:
        if option.startswith("--config="):
            config = config_file(option.removeprefix("--config="))
            if name := tasks_of(config):
                is_over = True
                found.append(f"--config={find_config('tasks', in_place[-1] if in_place else name)}")
            option = f"--config={config}"
        found.append(option)
    if in_place and not is_over:
        raise UserError(f"--tasks: {in_place[-1]}: no YAML of this command is laid over tasks, as configs/learner are")
    return found


def _in_one_word(options: Sequence[str]) -> list[str]:
    """Return options with `--config FILE` and `--tasks NAME` written as one word each."""
    found: list[str] = []
    for option in options:
        if found and found[-1] in ("--config", "--tasks"):
            found[-1] += f"={option}"
        else:
            found.append(option)
    return found


def tasks_of(config: Path) -> str:
    """Return what a YAML says under `tasks`: the name, or path, of the YAML that it is laid over; "" for none, or if it
    cannot be read, which is told by who reads all of it.
    """
    try:
        root = yaml.compose(config.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return ""
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    named = [value for key, value in pairs if key.value == "tasks" and isinstance(value, yaml.ScalarNode)]
    return named[-1].value if named and named[-1].tag.endswith(":str") else ""


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
