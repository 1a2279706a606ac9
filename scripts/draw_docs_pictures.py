"""Pictures of docs/concepts.md, drawn with the project's own parts on the embedded data set.

    python scripts/draw_docs_pictures.py --generator VAE_CHECKPOINT --redrawer REDRAWER_CHECKPOINT

The checkpoints are those of `make train-vae` and `make train-vae VAE=vae_deformation`, on `glyphs`, seed 0.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from genmeta.data.glyphs import Glyphs
from genmeta.episode import DECODER, EpisodePlan, EpisodeShape
from genmeta.explore.drawing import sheet
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.rng import make_rng
from genmeta.tasks.effects import Redrawing
from genmeta.tasks.evaluated import Episodes
from genmeta.tasks.latent import LatentTasks
from genmeta.tasks.mixed import MixedTasks
from genmeta.tasks.policies import ClassInterpolation, EncodedNoise, LatentPolicy, PriorNoise, RandomOther, draw_classes
from genmeta.tasks.real import RealTasks
from genmeta.tasks.redrawn import Redraw, RedrawnTasks
from genmeta.tasks.render import render
from genmeta.tasks.share import Cosine, Linear, Share, Steps, WarmupThenAnneal

OUT = Path(__file__).parents[1] / "docs" / "pictures"
REAL, GENERATED, REDRAWN = "#d7e3ff", "#ffe0b8", "#d8f0d3"  # backgrounds of a plan's cells


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--generator", required=True, help="checkpoint of a VAE that draws from codes")
    parser.add_argument("--redrawer", required=True, help="checkpoint of a model that draws given images again")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data = load(options.generator, options.redrawer)
    pictures = {"classes": classes(data), "episode": episode(data), "plan": plan(data)}
    pictures |= {"policies": policies(data), "redrawn": versions(data), "share": shares()}
    for name, picture in pictures.items():
        path = options.out / f"concepts-{name}.png"
        picture.save(path) if isinstance(picture, Image.Image) else picture.savefig(path, dpi=110)
        print(path)


def load(generator: str, redrawer: str) -> EpisodicDataModule:
    """Return data whose tasks use everything: real classes, some images drawn again, and generated classes."""
    data = EpisodicDataModule(
        source=Glyphs(),
        split="glyphs_minimal",
        train_tasks=MixedTasks(
            real=RedrawnTasks(RealTasks(), Redraw(1.0), share=0.3),
            latent=LatentTasks(ClassInterpolation(), separation=0.5),  # asks for encodings, which policies() needs too
            share=0.4,
            per="class",
        ),
        train=EpisodeShape(5, 1, 3),
        val=Episodes(5, 1, 4, n_episodes=1),
        test=[Episodes(5, 1, 4, n_episodes=1)],
        tasks_per_step=1,
        generator=generator,
        redrawer=redrawer,
    )
    data.setup("fit")
    return data


def real_images(data: EpisodicDataModule, class_id: int, n: int) -> Tensor:
    """Return the first images of a class, `[n, C, H, W]` in [0, 1]."""
    table = data.table
    assert table is not None
    start = int(table.starts[class_id])
    return table.images[start : start + n].float() / 255


def classes(data: EpisodicDataModule) -> Image.Image:
    """Draw classes of two groups of the train part, and of one group of val and test each."""
    table = data.table
    assert table is not None
    rows, names = [], []
    for part, n_groups in (("train", 2), ("val", 1), ("test", 1)):
        ids = data.split.class_ids(table, part).tolist()  # type: ignore[arg-type]
        for group in list(dict.fromkeys(table.groups[i] for i in ids))[:n_groups]:
            of_group = [i for i in ids if table.groups[i] == group]
            for i in of_group[3:6]:
                rows.append(real_images(data, i, 8))
                names.append(f"{part}   {group}   class {table.class_names[i].split('/')[-1]}")
    return sheet(torch.stack(rows), names, [f"{i}" for i in range(1, 9)])


def episode(data: EpisodicDataModule) -> Image.Image:
    """Draw a real test episode: a class a row."""
    drawn = data.eval_plan("test", data.test[0])
    batch = render(drawn, data.images)
    x = torch.cat([batch.support_x.unflatten(1, (5, 1)), batch.query_x.unflatten(1, (5, 4))], 2)[0]
    order = drawn.labels[0].argsort()
    return sheet(x[order], [f"label {i}" for i in range(5)], ["support", *["query"] * 4], marked={0})


def plan(data: EpisodicDataModule) -> Figure:
    """Draw a plan as a table of what its images are, and what is rendered from it."""
    drawn = data.train_plan(1)
    batch = data.on_after_batch_transfer(drawn, 0)
    x = torch.cat([batch.support_x.unflatten(1, (5, 1)), batch.query_x.unflatten(1, (5, 3))], 2)[0]
    figure = Figure(figsize=(9.5, 3.9), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    left.suptitle("the plan: a few kilobytes, made on the CPU", fontsize=10)
    right.suptitle("rendered, on the device", fontsize=10)
    for part, ratio in ((left, None), (right, x)):
        axes = part.subplots(5, 4, squeeze=False)
        for slot in range(5):
            for image in range(4):
                _cell(axes[slot, image], drawn, slot, image, None if ratio is None else ratio[slot, image, 0])
            axes[slot, 0].set_ylabel(f"label {int(drawn.labels[0, slot])}", fontsize=8)
        for image in range(4):
            axes[0, image].set_title("support" if image == 0 else "query", fontsize=8)
    return figure


def _cell(axes: Axes, drawn: EpisodePlan, slot: int, image: int, pixels: Tensor | None) -> None:
    """Draw one image of a plan, or in words where it comes from."""
    redrawing = drawn.effect(Redrawing)
    again = redrawing is not None and bool(redrawing.changes[0, slot, image])
    if drawn.source[0, slot, image] == DECODER:
        words, colour = f"code z\nno. {int(drawn.code_numbers[0, slot, image])}", GENERATED
    else:
        words, colour = f"table row\n{int(drawn.rows[0, slot, image])}", REAL
        if again:
            words, colour = f"{words}\n+ drawn again", REDRAWN
    axes.set(xticks=[], yticks=[], facecolor=colour)
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=3)
    if pixels is None:
        axes.text(0.5, 0.5, words, ha="center", va="center", fontsize=8, transform=axes.transAxes)
    else:
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)


def policies(data: EpisodicDataModule) -> Image.Image:
    """Draw two classes by each of four policies: the decoded centre, then images of the class."""
    chosen: list[LatentPolicy] = [PriorNoise(0.3), RandomOther(0.3), EncodedNoise(), ClassInterpolation()]
    space = data.pools["train"].space
    assert data.generator is not None
    rows, names = [], []
    for policy in chosen:
        drawn = draw_classes(policy, space, 1, 2, 0.5, make_rng("policies"))
        codes = policy.instances(drawn, 7, space, make_rng("images"))[0]
        z = torch.cat([drawn["centre"][0][:, None], codes], 1)
        rows += list(data.generator.decode(z.flatten(0, 1)).unflatten(0, z.shape[:2]))
        names += [type(policy).__name__, ""]
    return sheet(torch.stack(rows), names, ["centre", *(f"{i}" for i in range(1, 8))], marked={0})


def versions(data: EpisodicDataModule) -> Image.Image:
    """Draw characters of the validation scripts, which the redrawer never saw, eight times each."""
    table, redrawer = data.table, data.redrawer
    assert table is not None
    assert redrawer is not None
    codes = redrawer.prior.sample(8, rng=make_rng("versions"))
    rows = []
    for i in data.split.class_ids(table, "val").tolist()[2:42:8]:
        given = real_images(data, i, 1)
        rows.append(torch.cat([given, redrawer.redraw(given.expand(8, -1, -1, -1), codes)]))
    return sheet(torch.stack(rows), [""] * len(rows), ["given", *(f"version {i}" for i in range(1, 9))], marked={0})


def shares() -> Figure:
    """Draw schedules of the share of generated tasks over 1,000 steps."""
    schedules: list[Share] = [
        Linear(0.5, 0.0, 800),
        Cosine(0.5, 0.0, 800),
        Steps([0.5, 0.25, 0.0], [300, 600]),
        WarmupThenAnneal(0.5, 200, 600),
    ]
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    steps = range(0, 1001, 5)
    for schedule in schedules:
        share = [(schedule.until(t + 1) - schedule.until(t)) for t in steps]
        axes.plot(steps, share, label=type(schedule).__name__)
    axes.set(xlabel="optimiser step", ylabel="share of generated tasks")
    axes.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
