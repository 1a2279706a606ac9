"""`genmeta audit`: are the generated classes of a run good enough to learn from?"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.utils import save_image

from genmeta.cli.labels import tags
from genmeta.cli.lineage import describe_inputs, log_inputs
from genmeta.cli.newest import newest, role_of
from genmeta.cli.options import OptionParser
from genmeta.cli.tracking import tracking
from genmeta.cli.training import TrainingCLI
from genmeta.data.splits import SPLITS_FOLDER
from genmeta.data.table import gather
from genmeta.episode import EpisodeBatch, EpisodePlan, EpisodeShape
from genmeta.errors import UserError
from genmeta.evaluation.audit import Reference, audit_numbers, episode_accuracy, generated_classes, verdicts
from genmeta.evaluation.features import FeatureNetwork
from genmeta.evaluation.tables import markdown_table
from genmeta.experiments.checks import needed_roles
from genmeta.experiments.run_folder import RunSettings, claim_run_folder
from genmeta.explore.exploration import encode
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.generative_module import evenly
from genmeta.modules.image_data import ImageDataModule
from genmeta.modules.meta_module import MetaModule
from genmeta.modules.pictures import draw_episode, support_width, with_legend
from genmeta.rng import make_rng
from genmeta.tasks.real import RealTasks
from genmeta.tasks.render import render, table_of_turns
from genmeta.tasks.sampler import TaskPool

N_CLASSES = 200  # generated classes to audit
N_EPISODES = 5  # on the picture
_MOST_STEPS = 2000  # training steps to search for them: a schedule may begin without any
_N_TRAINING = 5000  # training images among which copies are sought, times four turns


def audit(args: Sequence[str]) -> int:
    """Check the generated tasks of a run before training: do the classes differ, do their images vary, are they copies,
    are they as varied as real classes? Takes the options of `genmeta fit`.

    Returns:
        0; with `--strict`, 1 if a flag is raised.

    Raises:
        UserError: an option or a file is wrong, or the run has no generated tasks.
    """
    parser = OptionParser("genmeta audit", audit.__doc__)
    parser.epilog = "All other options are those of genmeta fit (genmeta fit --help), e.g. --config RUN/config.yaml"
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a flag is raised")
    parser.add_argument(
        "--feature_steps",
        type=int,
        default=600,
        help="training steps of the feature network, by which images are measured",
    )
    parser.add_argument(
        "--ckpt",
        help="checkpoint of the generator or redrawer (default: what the options name, else the newest under runs)",
    )
    options, fit_options = parser.parse_known_args(args)
    cli = TrainingCLI(["fit", *fit_options, *_checkpoints(options.ckpt, fit_options)], check_only=True)
    data = cli.datamodule
    if not isinstance(cli.model, MetaModule) or not isinstance(data, EpisodicDataModule):
        raise UserError("genmeta audit is for the tasks of learners; genmeta validate measures a generator")
    run = RunSettings(**cli.config.run.as_dict())

    images = ImageDataModule(
        data.source, data.split_name, batch_size=2, feature_steps=options.feature_steps, low_data=data.low_data
    )
    images.setup("fit")
    classes, accuracy, chance, picture = collect(data, images.features)
    reference = real_reference(images, data.train_shape, images.features)
    generator = data.generator
    has_encoder = generator is not None and "encoder" in generator.networks
    with torch.no_grad():
        numbers = audit_numbers(
            classes,
            accuracy,
            chance,
            reference,
            images.features,
            (lambda x: encode(generator, x)[0]) if generator is not None and has_encoder else None,
        )
    lines = verdicts(numbers)

    folder = claim_run_folder(replace(run, name=f"audit-{run.name}", version=None))
    save_image(picture.repeat_interleave(2, 1).repeat_interleave(2, 2), folder / "episodes.png")
    facts = {
        "generator": data.generator_path,
        "split": {"name": data.split.name, "hash": data.split.hash},
        "features": images.features.name,
        "coverage_in": "codes of the generator's encoder" if has_encoder else "features",
        "n_classes": len(classes),
        "images_per_class": classes.shape[1],
    }
    content = {**facts, "numbers": numbers, "flags": lines}
    (folder / "audit.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    _track(cli, run, folder, content)
    text = _text(numbers, lines)
    details = "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items())
    (folder / "audit.md").write_text(f"{text}\n\n{details}\n", encoding="utf-8")
    print(f"{text}\n\naudit       {folder}/audit.md, audit.json, episodes.png", flush=True)
    return 1 if lines and options.strict else 0


def _checkpoints(given: str | None, fit_options: Sequence[str]) -> list[str]:
    """Return options that name the generators that the tasks need, where the configuration names none.

    Raises:
        UserError: the given checkpoint is not of a generator, or no generator was trained yet.
    """
    named = {}
    if given is not None:
        role = role_of(Path(given))
        if role is None:
            raise UserError(
                f"--ckpt: {given} is not from a generator; expected one that genmeta fit has trained with a YAML of "
                f"configs/generator"
            )
        named[role] = given
    data = TrainingCLI(["fit", *fit_options], check_only=True, set_up=False).datamodule
    if isinstance(data, EpisodicDataModule):
        has = {"generator": data.generator_path, "redrawer": data.redrawer_path}
        split = data.split_name if isinstance(data.split_name, str) else None
        split = split if (SPLITS_FOLDER / f"{split}.json").is_file() else None
        for role in sorted(needed_roles(data)):
            if role not in named and has[role] is None:
                named[role] = str(newest({role}, split))
                print(f"{role:11} {named[role]}, the newest", flush=True)
    return [f"--data.{role}={path}" for role, path in named.items()]


def _track(cli: TrainingCLI, run: RunSettings, folder: Path, content: dict[str, Any]) -> None:
    """Send the numbers and the picture to W&B, under `audit/`."""
    with tracking(
        replace(run, name=folder.parent.name), folder, "audit", tags(cli.model, cli.datamodule)
    ) as experiment:
        if experiment is None:
            return
        import wandb

        experiment.config.update(content)
        experiment.config.update({"inputs": describe_inputs(cli.inputs)})
        if run.artifacts:
            log_inputs(experiment, cli.inputs)
        numbers = {f"audit/{name}": value for name, value in content["numbers"].items()}
        experiment.log({**numbers, "audit/episodes": wandb.Image(str(folder / "episodes.png"))})


@torch.no_grad()
def collect(data: EpisodicDataModule, features: FeatureNetwork) -> tuple[Tensor, float, float, Tensor]:
    """Return the classes with generated images, from a run's first training episodes with such classes.

    Returns:
        Images `[n_classes, n_images, C, H, W]`, the accuracy of prototypes on their queries, the accuracy of guessing,
        and a picture of the first episodes.

    Raises:
        UserError: there is no such class in many steps.
    """
    classes: list[Tensor] = []
    right: list[Tensor] = []
    pictures: list[Tensor] = []
    for step in range(_MOST_STEPS):
        plan = data.train_plan(step)
        generated = torch.zeros_like(plan.is_generated).scatter(1, plan.labels, plan.has_generated)
        if not generated.any():
            continue
        batch: EpisodeBatch = data.on_after_batch_transfer(plan, 0)
        classes.append(generated_classes(batch, generated))
        right.append(episode_accuracy(features, batch, generated))
        with_some = generated.any(1).nonzero().flatten().tolist()
        pictures += [draw_episode(batch, task) for task in with_some[: N_EPISODES - len(pictures)]]
        if sum(map(len, classes)) >= N_CLASSES and len(pictures) >= N_EPISODES:
            break
    if not classes:
        raise UserError(
            f"data.train_tasks draws no generated image in the first {_MOST_STEPS} steps: there is nothing to audit"
        )
    return (
        torch.cat(classes),
        torch.cat(right).mean().item(),
        1 / data.train_shape.n_way,
        with_legend(pictures, support_width(batch)),
    )


@torch.no_grad()
def real_reference(images: ImageDataModule, wanted: EpisodeShape, features: FeatureNetwork) -> Reference:
    """Return real images of the meta-train classes to compare generated classes with, held-out images first.

    The episodes have the wanted shape if the classes have enough images, else a smaller one.
    """
    table = images.table
    assert table is not None
    usable = [number for number, rows in enumerate(images.class_rows) if len(rows) > 1]
    if not usable:
        raise UserError(
            "audit compares generated classes with real ones, but no real class has two images (data.labels)"
        )
    held_out = [len(images.class_rows[n]) - len(images.train_of_class[n]) for n in usable]
    smallest = min(len(images.class_rows[n]) for n in usable)
    n_images = min(wanted.n_images, smallest)
    n_shot = min(wanted.n_shot, n_images - 1)
    shape = EpisodeShape(min(wanted.n_way, len(usable)), n_shot, n_images - n_shot)
    rows = [images.class_rows[n][-max(n_images, kept) :] for n, kept in zip(usable, held_out, strict=True)]
    pool = TaskPool.of_rows(rows, images.group_ids[usable])
    plan: EpisodePlan = RealTasks().sample(pool, shape, 50, 0, make_rng("audit", "real"))
    batch = render(plan, images.images)
    everything = torch.ones_like(batch.is_generated)
    training = images.rendered(evenly(images.train_rows, _N_TRAINING))
    _, height, width = images.image_shape
    centres = [features(images.rendered(of)).mean(0) for of in images.train_of_class]
    chosen = torch.stack([of[-n_images:] for of in rows])
    return Reference(
        classes=gather(images.images, chosen.flatten()).float().div(255).unflatten(0, chosen.shape),
        centres=torch.stack(centres),
        training=table_of_turns(training).flatten(0, 1) if height == width else training,
        accuracy=episode_accuracy(features, batch, everything).mean().item(),
        chance=1 / shape.n_way,
    )


def _text(numbers: dict[str, float], flags: list[str]) -> str:
    """Return the numbers as a Markdown table, and a line for each flag."""
    rows = [("", "generated", "real")]
    rows += [
        (name.replace("_", " "), f"{value:.3f}", f"{numbers[real]:.3f}" if (real := f"{name}_real") in numbers else "")
        for name, value in numbers.items()
        if not name.endswith("_real") or name == "nearest_real"
    ]
    lines = [f"FLAG: {flag}" for flag in flags] or ["no flag: nothing speaks against these classes"]
    return "\n".join([markdown_table(rows), "", *lines])
