"""What a plan asks of the command line: whether a run could be made, and which generators its tasks need."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from genmeta.errors import UserError
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.generative_module import CodesModule
from genmeta.modules.redraw_module import RedrawModule


class Parts(Protocol):
    """What a command would run with."""

    model: Any
    datamodule: Any

    @property
    def account(self) -> str:
        """One line of what was used of the files that the data were read from; "" before they are set up."""

    def check_ends_with_best(self) -> None:
        """Raise UserError if a training would end without a best checkpoint."""

    def resolved(self) -> str:
        """Return the whole configuration as YAML."""


class Check(Protocol):
    """Returns the parts of a command that is not run; raises UserError if an option of it is wrong."""

    def __call__(self, args: Sequence[str], *, set_up: bool = True) -> Parts:
        """Without `set_up` no data are loaded, and sizes are not compared."""


def needed_roles(data: EpisodicDataModule, *stages: str) -> set[str]:
    """Return what the tasks of stages need: `generator` (draws from codes), `redrawer` (draws given images again).

    Args:
        data: before or after its setup.
        stages: `fit`, `test`; `fit` by default.
    """
    samplers = [sampler for stage in stages or ("fit",) for sampler in data.samplers(stage)]
    needs = {need for sampler in samplers for need in sampler.needs}
    roles = {"generator"} if needs & {"decoder", "encoder"} else set()
    return roles | ({"redrawer"} if "redrawer" in needs else set())


def check_role(check: Check, role: str, config: Path, options: Sequence[str], set_up: bool = True) -> None:
    """Check what can be checked of a generator's training before time is spent on it.

    Args:
        check: whether a run could be made.
        role: `generator` or `redrawer`.
        config: its YAML.
        options: of its `genmeta fit`.
        set_up: load its data too, which trains the network that its images are measured with.

    Raises:
        UserError: its configuration is wrong, or it is of the other kind.
    """
    parts = check(["fit", *options], set_up=set_up)
    try:
        parts.check_ends_with_best()
    except UserError as error:
        raise UserError(f"--{role}: {error}") from error
    model = parts.model
    if role == "generator" and not isinstance(model, CodesModule):
        raise UserError(
            f"--generator: {config} is a {type(model).__name__}, which draws given images again, not new classes "
            f"from codes; choose a GAN or a VAE of codes, or name it as --redrawer"
        )
    if role == "redrawer" and not isinstance(model, RedrawModule):
        raise UserError(
            f"--redrawer: {config} is a {type(model).__name__}, which draws from codes; choose a model that draws "
            f"given images again, such as vae_deformation"
        )
