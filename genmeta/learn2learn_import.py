"""The one place that imports learn2learn.

Its `__init__` imports its reinforcement-learning half, which needs gym (unmaintained, noisy). Nothing of it is used
here, so an empty module stands in for it; if gym is installed, it is left alone.
"""

import sys
from types import ModuleType

from genmeta.errors import UserError

# pip >= 23.1 and a C compiler: its C files compile on Python >= 3.11 with this option only. Its declared dependencies
# (gym, gsutil, qpth) are not used and would hold numpy below 2; what it imports comes with the extra.
INSTALL = 'pip install --no-deps --config-settings="--build-option=build_ext" learn2learn==0.2.0'


def leave_out_gym() -> None:
    """Put the empty module in place, for whoever imports learn2learn by the name of a class (YAMLs do)."""
    sys.modules.setdefault("learn2learn.gym", ModuleType("learn2learn.gym"))


def import_learn2learn() -> ModuleType:
    """Import and return learn2learn, silently.

    Raises:
        UserError: it is not installed. Nothing needs it but the published data sets that it reads.
    """
    leave_out_gym()
    try:
        import learn2learn
    except ModuleNotFoundError as error:
        raise UserError(
            f"learn2learn cannot be imported ({error.name} is missing), which reads this data set; install it with: "
            f'pip install "genmeta[learn2learn]" && {INSTALL}'
        ) from error
    return learn2learn
