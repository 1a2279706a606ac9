"""Options of the commands that do not train."""

import argparse
from typing import NoReturn

from genmeta.errors import UserError


class OptionParser(argparse.ArgumentParser):
    """Raises UserError instead of printing usage; options must be spelt out.

    Args:
        prog: the command.
        docstring: of the command's function; its first paragraph is shown in the help.
    """

    def __init__(self, prog: str, docstring: str | None = None) -> None:
        super().__init__(prog=prog, description=(docstring or "").split("\n\n")[0], allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(message)
