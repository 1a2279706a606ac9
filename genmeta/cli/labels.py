"""Job type and tags of a run in Weights & Biases, by which runs can be grouped and filtered."""

from typing import Any

from lightning.pytorch import LightningModule

from genmeta.experiments.run_folder import RunSettings
from genmeta.models.checkpoint import LatentModel
from genmeta.models.gan_networks import Generator
from genmeta.models.image_ode import ODEDecoder
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.gan_module import GANModule
from genmeta.modules.generative_module import RedrawingModule
from genmeta.modules.image_data import ImageDataModule
from genmeta.modules.meta_module import MetaModule
from genmeta.modules.ode_module import ODEModule
from genmeta.tasks.latent import LatentTasks

LONGEST_TAG = 64  # W&B refuses longer ones


def job_type(model: LightningModule, stage: str) -> str:
    """Return the kind of work of a run: `pretrain-gan`, `pretrain-vae`, `pretrain-flow`, `pretrain-diffusion`,
    `pretrain-redrawer`, `meta-train`, `meta-test` or `validate`.
    """
    if stage != "fit":
        return "meta-test" if stage == "test" else "validate"
    return "meta-train" if isinstance(model, MetaModule) else f"pretrain-{_kind(model)}"


def tags(model: LightningModule, data: EpisodicDataModule | ImageDataModule) -> list[str]:
    """Return the tags `data:` and `split:`, and `generator:`, `learner:`, `tasks:`, `policy:` if the run has that part.

    Args:
        model: of the run.
        data: after its `setup`.
    """
    found = [f"data:{data.split.dataset}", f"split:{data.split.name}"]
    if isinstance(model, MetaModule):
        found.append(f"learner:{type(model.learner).__name__}")
    else:
        found.append(f"generator:{_kind(model)}")
    if isinstance(data, EpisodicDataModule):
        if data.train_tasks.latent_range[1] > 0 or data.redrawer is not None:
            samplers = list(data.train_tasks.walk())
            found += [f"tasks:{type(sampler).__name__}" for sampler in samplers]
            found += [f"policy:{type(s.policy).__name__}" for s in samplers if isinstance(s, LatentTasks)]
        else:
            found.append("tasks:real")
        found += [f"generator:{kind_of(drawn)}" for drawn in (data.generator, data.redrawer) if drawn is not None]
    return sorted({tag[:LONGEST_TAG] for tag in found})


def place_of(run: RunSettings, seed: int) -> dict[str, Any]:
    """Return where a run belongs: `arm`, `arm_title`, `seed`, and, if it is part of an experiment, `experiment` and
    `experiment_version`. A run on its own is an arm with its own name.
    """
    arm = run.arm or run.name
    found = {"arm": arm, "arm_title": run.arm_title or arm, "seed": seed}
    if run.experiment:
        name, _, version = run.experiment.partition("/")
        found |= {"experiment": name, "experiment_version": version}
    return found


def place_tags(place: dict[str, Any]) -> list[str]:
    """Return the tags `arm:`, `seed:`, `experiment:` and `version:` from `place_of`."""
    names = {"arm": "arm", "seed": "seed", "experiment": "experiment", "experiment_version": "version"}
    return [f"{names[key]}:{value}"[:LONGEST_TAG] for key, value in place.items() if key in names]


def kind_of(model: LatentModel) -> str:
    """Return `gan`, `vae`, `flow`, `diffusion` or `redrawer` for a generator that was read from a checkpoint."""
    if "redrawer" in model.networks:
        return "redrawer"
    decoder = model.networks["decoder"]
    if isinstance(decoder, ODEDecoder):
        return decoder.ode.kind
    return "gan" if isinstance(decoder, Generator) else "vae"


def _kind(model: LightningModule) -> str:
    if isinstance(model, RedrawingModule):
        return "redrawer"
    if isinstance(model, ODEModule):
        return model.ode.kind
    return "gan" if isinstance(model, GANModule) else "vae"
