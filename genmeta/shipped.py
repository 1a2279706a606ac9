"""The YAMLs of the package, and how names and paths of YAMLs are resolved."""

from collections.abc import Sequence
from pathlib import Path

import yaml

import genmeta
from genmeta.errors import UserError, nearest

CONFIGS = "configs"
SHIPPED = Path(genmeta.__file__).with_name(CONFIGS)  # in a checkout, a link


def config_file(path: str | Path) -> Path:
    """Return the file for a path of a YAML: the user's own, or else the package's.

    `configs/learner/protonet.yaml`, or `learner/protonet.yaml` for short, is found from any folder. Files of the
    current folder, and of `configs` in it, come first. A path that does not exist is returned as it is: its reader says
    so.
    """
    path = Path(path)
    below = path.relative_to(CONFIGS) if path.parts[:1] == (CONFIGS,) else path
    return next((file for file in (path, CONFIGS / below, SHIPPED / below) if file.is_file()), path)


def with_config_files(options: Sequence[str]) -> list[str]:
    """Return the options of a command with the file of each `--config` (`config_file`).

    If a YAML names tasks (`tasks: NAME`), the YAML of `configs/tasks` stands before it. `--tasks NAME` replaces that
    name.

    Raises:
        UserError: there are no such tasks, or no YAML names tasks that they could replace.
    """
    options = _in_one_word(options)
    in_place = [option.removeprefix("--tasks=") for option in options if option.startswith("--tasks=")]
    resolved, is_over = [], False
    for option in options:
        if option.startswith("--config="):
            config = config_file(option.removeprefix("--config="))
            if name := tasks_of(config):
                is_over = True
                resolved.append(f"--config={find_config('tasks', in_place[-1] if in_place else name)}")
            option = f"--config={config}"
        resolved.append(option)
    if in_place and not is_over:
        raise UserError(f"--tasks: {in_place[-1]}: no YAML of this command is laid over tasks, as configs/learner are")
    return resolved


def _in_one_word(options: Sequence[str]) -> list[str]:
    """Return options with `--config FILE` and `--tasks NAME` written as one word each."""
    words: list[str] = []
    for option in options:
        if words and words[-1] in ("--config", "--tasks"):
            words[-1] += f"={option}"
        else:
            words.append(option)
    return words


def tasks_of(config: Path) -> str:
    """Return the entry `tasks` of a YAML: the name or path of the YAML that it is laid over.

    "" if it has none, or if it cannot be read: its reader tells the error.
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
    paths = {path.stem: path for folder in (SHIPPED, Path(CONFIGS)) for path in (folder / kind).glob("*.yaml")}
    return dict(sorted(paths.items()))


def find_config(option: str, name: str) -> Path:
    """Return the YAML that an option names: the name of one of its kind (`configs_of`), or a path.

    The kind has the option's name; a `redrawer` is a generator.

    Raises:
        UserError: there is no such YAML.
    """
    known = configs_of("generator" if option == "redrawer" else option)
    path = known.get(name) or config_file(name)
    if not path.is_file():
        raise UserError(f"--{option}: '{name}' is no file and none of {', '.join(known)}{nearest(name, known)}")
    return path
