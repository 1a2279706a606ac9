"""Options of the commands that are not training."""

import argparse
from typing import NoReturn

from genmeta.errors import UserError


class OptionParser(argparse.ArgumentParser):
    """Raises UserError instead of printing usage; options must be spelt out."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(message)
