"""Trainings of a second on fifteen classes of small pictures, one of each kind of module."""

import copy
import os
from pathlib import Path
from typing import Any

import yaml

from genmeta.cli.main import main


def part(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


def adam(lr: float) -> dict[str, Any]:
    return part("torch.optim.Adam", lr=lr)


CONV4 = part("genmeta.models.backbones.Conv4", hidden=4, norm="running")
SIZES = {"latent_dim": 4, "channels": [4, 8]}
MODELS = {
    "learner": part(
        "genmeta.modules.meta_module.MetaModule",
        learner=part("genmeta.learners.metric.ProtoNet", backbone=CONV4),
        optimizer=adam(0.001),
    ),
    "gan": part(
        "genmeta.modules.gan_module.GANModule",
        generator=part("genmeta.models.gan_networks.FullyConnectedGenerator", latent_dim=4, hidden=[8]),
        discriminator=part("genmeta.models.gan_networks.FullyConnectedDiscriminator", hidden=[8]),
        optimizer=adam(0.001),
    ),
    "vae": part(
        "genmeta.modules.vae_module.VAEModule",
        encoder=part("genmeta.models.vae_networks.ConvEncoder", hidden=8, **SIZES),
        decoder=part("genmeta.models.vae_networks.ConvDecoder", hidden=8, **SIZES),
        importance_samples=1,
        optimizer=part("torch.optim.Adam", lr=0.001, fused=True),
    ),
    "redrawer": part(
        "genmeta.modules.redraw_module.RedrawModule",
        encoder=part("genmeta.models.redraw.PairEncoder", **SIZES),
        redrawer=part("genmeta.models.redraw.PixelRedrawer", **SIZES),
        optimizer=adam(0.001),
    ),
}


def config(kind: str, pictures: Path) -> dict[str, Any]:
    """Return a training of three steps an epoch on a folder of pictures."""
    source = part("genmeta.data.image_folder.ImageFolder", folder=str(pictures), size=16, channels=1)
    common = {"source": source, "split": {"seed": 0, "val": 0.3, "test": 0.3}, "steps_per_epoch": 3}
    if kind == "learner":
        test = {"n_way": 3, "n_shot": 1, "n_query": 5, "n_episodes": 6}
        episodes = {"train": {"n_way": 3, "n_shot": 1, "n_query": 2}, "val": test, "test": [test]}
        tasks = {"train_tasks": "genmeta.tasks.real.RealTasks", "tasks_per_step": 2}
        data = part("genmeta.modules.episodic_data.EpisodicDataModule", **common, **episodes, **tasks)
    else:
        more = {"batch_size": 16, "feature_steps": 1}
        data = part("genmeta.modules.image_data.ImageDataModule", **common, **more)
    return {
        "run": {"name": kind, "wandb": "off"},
        "model": copy.deepcopy(MODELS[kind]),  # tests change what they are given
        "data": data,
        "trainer": {"max_epochs": 1, "log_every_n_steps": 1, "accelerator": "cpu"},
    }


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def fit(yaml_file: Path, runs: Path, *options: object, command: str = "fit") -> int:
    """Return the exit code of a command with a YAML, whose run goes into the folder `runs`."""
    os.environ.pop("GENMETA_RUN_FOLDER", None)  # of the run before
    return main([command, "--config", str(yaml_file), f"--run.folder={runs}", *map(str, options)])


def newest(runs: Path) -> Path:
    """Return the folder of the run that was begun last."""
    return max(runs.glob("*/*/config.yaml"), key=lambda path: path.stat().st_mtime_ns).parent
