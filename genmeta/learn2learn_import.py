"""The one place that imports learn2learn.

Its `__init__` imports its reinforcement-learning half, which needs gym (unmaintained, noisy). Nothing of it is used
here, so an empty module stands in for it; if gym is installed, it is left alone.
"""

import sys
from types import ModuleType

from genmeta.errors import UserError


def leave_out_gym() -> None:
    """Put the empty module in place, for whoever imports learn2learn by the name of a class (YAMLs do)."""
    sys.modules.setdefault("learn2learn.gym", ModuleType("learn2learn.gym"))


def import_learn2learn() -> ModuleType:
    """Import and return learn2learn, silently.

    Raises:
        UserError: it is not installed.
    """
    leave_out_gym()
    try:
        import learn2learn
    except ModuleNotFoundError as error:
        raise UserError(
            f"learn2learn cannot be imported ({error.name} is missing); "
            "install it with: pip install --no-deps -r requirements-learn2learn.txt"
        ) from error
    return learn2learn
