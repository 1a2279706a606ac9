"""Which generators a learner's tasks need, and whether a YAML makes one."""

from collections.abc import Sequence
from pathlib import Path

from genmeta.cli.training import TrainingCLI
from genmeta.errors import UserError
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.generative_module import CodesModule
from genmeta.modules.redraw_module import RedrawModule


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


def check_role(role: str, config: Path, options: Sequence[str], set_up: bool = True) -> None:
    """Check what can be checked of a generator's training before time is spent on it.

    Args:
        role: `generator` or `redrawer`.
        config: its YAML.
        options: of its `genmeta fit`.
        set_up: load its data too, which trains the network that its images are measured with.

    Raises:
        UserError: its configuration is wrong, or it is of the other kind.
    """
    cli = TrainingCLI(["fit", *options], check_only=True, set_up=set_up)
    try:
        cli.check_ends_with_best()
    except UserError as error:
        raise UserError(f"--{role}: {error}") from error
    model = cli.model
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
