"""Options of the commands that are not training."""

import argparse
from pathlib import Path
from typing import NoReturn

from genmeta.errors import UserError, nearest

CONFIGS = Path("configs")


class OptionParser(argparse.ArgumentParser):
    """Raises UserError instead of printing usage; options must be spelt out.

    Args:
        prog: the command.
        docstring: of the command's function; its first paragraph stands in the help.
    """

    def __init__(self, prog: str, docstring: str | None = None) -> None:
        super().__init__(prog=prog, description=(docstring or "").split("\n\n")[0], allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def find_config(option: str, name: str) -> Path:
    """Return the YAML that an option names: a file of its folder in `configs` without its ending, or a path.

    The folder has the option's name, but `redrawer` is one of the generators.

    Raises:
        UserError: there is none.
    """
    folder = CONFIGS / ("generator" if option == "redrawer" else option)
    known = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    path = known.get(name, Path(name))
    if not path.is_file():
        if not known:
            raise UserError(
                f"--{option}: '{name}' is no file, and there is no folder {folder}; run in the project's folder"
            )
        raise UserError(f"--{option}: '{name}' is no file and none of {', '.join(known)}{nearest(name, known)}")
    return path
