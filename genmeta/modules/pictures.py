"""Pictures of what happens: samples, reconstructions, episodes, curves; in the run folder, W&B and TensorBoard."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image

from genmeta.episode import PROVENANCE, EpisodeBatch
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.generative_module import CodesModule, GenerativeModule
from genmeta.rng import make_rng

FRAMES = {"real": (0.25, 0.5, 1.0), "redrawn": (0.0, 0.65, 0.35), "decoded": (1.0, 0.6, 0.1)}
"""Colours of the frames of images: blue, green, orange."""


class GeneratorPictures(Callback):
    """What a generative model draws, every few epochs and at the end, always from the same codes.

    After ten pictures of a kind twice as many epochs lie between two, and again with every doubling of the epochs, so
    that a long training leaves some tens of pictures, not thousands.

    `samples`; with an encoder `reconstructions` (held-out images, each beside its reconstruction); at the end
    `interpolation` (from code to code: of held-out images if there is an encoder, else of the prior). Of a model that
    redraws images: `redrawn` (top row: images of validation classes; below: redrawn).

    Args:
        folder: where the PNG files go.
        every_n_epochs: how often at first.
    """

    def __init__(self, folder: Path, every_n_epochs: int = 5) -> None:
        self.folder, self.every_n_epochs = folder, every_n_epochs

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking and self.is_due(trainer.current_epoch):
            self._draw(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._draw(trainer, pl_module)
            if isinstance(pl_module, CodesModule):
                save_picture(trainer, self.folder, "interpolation", None, make_grid(interpolations(pl_module), 12))

    def is_due(self, epoch: int) -> bool:
        """Whether there is a picture of an epoch (of 0, 1, …)."""
        doublings = (epoch // (10 * self.every_n_epochs)).bit_length()
        return epoch % (self.every_n_epochs * 2**doublings) == 0

    @torch.no_grad()
    def _draw(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, GenerativeModule)
        training = module.training
        module.eval()
        suffix = f"epoch-{trainer.current_epoch:04d}"
        if isinstance(module, CodesModule):
            samples = module.sample(64, make_rng("fixed codes"))
            save_picture(trainer, self.folder, "samples", suffix, make_grid(samples, 8))
            if module.latent_encoder is not None:
                images = module.kept_back(32)["held_out"]
                pairs = torch.stack([images, module.reconstruct(images)], 1).flatten(0, 1)
                named = with_words(make_grid(pairs, 8), above=((4, "in pairs: held out, reconstructed"),))
                save_picture(trainer, self.folder, "reconstructions", suffix, named)
        else:
            columns = module.sample_classes(12, 9, make_rng("fixed codes")).transpose(0, 1)
            grid, height = make_grid(columns.flatten(0, 1), columns.shape[1]), columns.shape[3] + 2  # with a row's gap
            names = tuple((row * height + height // 2, "again" if row else "given") for row in range(len(columns)))
            save_picture(trainer, self.folder, "redrawn", suffix, with_words(grid, beside=names))
        module.train(training)


@torch.no_grad()
def interpolations(module: CodesModule, n_strips: int = 8, n_steps: int = 12) -> Tensor:
    """Return strips `[n_strips · n_steps, C, H, W]` on straight lines between codes.

    Codes of held-out images if the model has an encoder (a strip then runs from reconstruction to reconstruction), else
    of the prior.
    """
    training = module.training
    module.eval()
    if module.latent_encoder is not None:
        ends = module.latent_encoder(module.kept_back(2 * n_strips)["held_out"])[0].float()
        start, end = ends.chunk(2)
    else:
        start, end = module.prior().sample(2, n_strips, rng=make_rng("interpolation")).unbind()
    share = torch.linspace(0, 1, n_steps, device=start.device)[None, :, None]
    images = module.decode(torch.lerp(start[:, None], end[:, None], share).flatten(0, 1))
    module.train(training)
    return images


class EpisodePicture(Callback):
    """The first training episodes, one a row: support images, then query images; framed by provenance, with a legend.

    Args:
        folder: where the PNG file goes.
        n_tasks: how many episodes.
    """

    def __init__(self, folder: Path, n_tasks: int = 6) -> None:
        self.folder, self.n_tasks = folder, n_tasks

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not trainer.is_global_zero or not isinstance(data, EpisodicDataModule):
            return
        pictures: list[Tensor] = []
        step = 0
        while len(pictures) < self.n_tasks:
            batch = data.on_after_batch_transfer(data.train_plan(step).to(pl_module.device), 0)
            pictures += [draw_episode(batch, task) for task in range(len(batch.support_x))]
            step += 1
        episodes = with_legend(pictures[: self.n_tasks], support_width(batch))
        save_picture(trainer, self.folder, "episodes", None, episodes)


class Curves(Callback):
    """Losses and accuracies over the steps, drawn from `metrics.csv` when training ends.

    Args:
        metrics: the CSV file.
        folder: where the PNG file goes.
    """

    def __init__(self, metrics: Path, folder: Path) -> None:
        self.metrics, self.folder = metrics, folder

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.metrics.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            draw_curves(self.metrics, self.folder / "curves.png")


def draw_episode(batch: EpisodeBatch, task: int, n_columns: int = 20) -> Tensor:
    """Return one task as a picture `[3, h, w]`: support images, then as many query images as fit, by label; framed in
    the colour of their provenance, which the batch must tell.
    """
    colours = {number: FRAMES[name] for name, number in PROVENANCE.items()}

    def framed(x: Tensor, y: Tensor, provenance: Tensor | None) -> list[Tensor]:
        assert provenance is not None
        tiles = []
        for i in y.argsort(stable=True):
            colour = colours[int(provenance[i])]
            tile = torch.tensor(colour, device=x.device)[:, None, None].repeat(1, x.shape[2] + 4, x.shape[3] + 4)
            tile[:, 2:-2, 2:-2] = x[i].expand(3, -1, -1)
            tiles.append(tile)
        return tiles

    of_support, of_query = (x if x is None else x[task] for x in (batch.support_provenance, batch.query_provenance))
    support = framed(batch.support_x[task], batch.support_y[task], of_support)[: n_columns // 2]
    query = framed(batch.query_x[task], batch.query_y[task], of_query)
    query = query[:: max(1, len(query) // (n_columns - len(support)))][: n_columns - len(support)]
    gap = torch.ones(3, support[0].shape[1], 8, device=support[0].device)
    return torch.cat([*support, gap, *query], 2).cpu()


def support_width(batch: EpisodeBatch, n_columns: int = 20) -> int:
    """Return how many pixels the support images take in `draw_episode`."""
    return min(batch.support_x.shape[1], n_columns // 2) * (batch.support_x.shape[4] + 4)


def with_legend(episodes: Sequence[Tensor], queries_from: int) -> Tensor:
    """Return pictures of episodes `[3, h, w]` below each other, with what the colours of the frames mean below them and
    what is support and what is query above.

    Args:
        episodes: pictures of one size.
        queries_from: where the queries begin, in pixels.
    """
    from PIL import Image, ImageDraw, ImageFont

    rows = torch.cat(list(episodes), 1)
    width = max(rows.shape[2], 160)
    legend = Image.new("RGB", (width, 16), "white")
    draw, font, x = ImageDraw.Draw(legend), ImageFont.load_default(), 4
    for name, colour in FRAMES.items():
        draw.rectangle((x, 4, x + 7, 11), fill=tuple(round(255 * part) for part in colour))
        draw.text((x + 11, 2), name, fill="black", font=font)
        x += 22 + round(draw.textlength(name, font=font))
    below = torch.from_numpy(np.array(legend)).permute(2, 0, 1).float() / 255
    rows = torch.cat([nn.functional.pad(rows, (0, width - rows.shape[2]), value=1.0), below], 1)
    return with_words(rows, above=((4, "support"), (max(queries_from + 8, 54), "queries")))


def with_words(
    picture: Tensor, beside: Sequence[tuple[int, str]] = (), above: Sequence[tuple[int, str]] = ()
) -> Tensor:
    """Return a picture `[3, h, w]` with black words on white, on the left of it and above it.

    Args:
        picture: in [0, 1].
        beside: for each word the height of its middle in the picture.
        above: for each word where it begins, in pixels from the left.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default()
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = 8 + round(max((measure.textlength(word, font=font) for _, word in beside), default=-8))
    top, (_, h, w) = 14 if above else 0, picture.shape
    sheet = Image.new("RGB", (left + w, top + h), "white")
    draw = ImageDraw.Draw(sheet)
    for middle, word in beside:
        draw.text((4, top + middle), word, fill="black", font=font, anchor="lm")
    for x, word in above:
        draw.text((left + x, 1), word, fill="black", font=font)
    words = torch.from_numpy(np.array(sheet)).permute(2, 0, 1).float().to(picture.device) / 255
    words[:, top:, left:] = picture
    return words


def panel_of(name: str) -> str:
    """Return which panel a metric is drawn in: `acc` of `train/acc_real` and `val/acc`, `share` of all shares."""
    return "share" if name.endswith("_share") else name.split("/")[-1].split("_")[0]


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draw every column of a Lightning `metrics.csv` over the steps, in the panels of `panel_of`."""
    from matplotlib.figure import Figure  # here: matplotlib is slow to import

    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [c for c in rows[0] if c not in ("epoch", "step") and not c.endswith("ci95")] if rows else []
    panels: dict[str, list[str]] = {}
    for column in columns:
        panels.setdefault(panel_of(column), []).append(column)
    if not panels:
        return
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    width, height = 4.5 * n_columns, 3.4 * n_rows
    figure = Figure(figsize=(width, height))
    # not laid out by Matplotlib, which draws everything once more to measure it, a second for the panels of a GAN
    figure.subplots_adjust(
        left=0.65 / width, right=1 - 0.15 / width, bottom=0.5 / height, top=1 - 0.35 / height, wspace=0.22, hspace=0.33
    )
    axes_of_panels = figure.subplots(n_rows, n_columns, squeeze=False).flatten()
    for unused in axes_of_panels[len(panels) :]:
        unused.remove()
    for axes, (title, names) in zip(axes_of_panels, panels.items(), strict=False):
        for name in names:
            points = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
            alone = "." if len(points) == 1 else None  # a line of one point is not seen
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1, marker=alone)
        axes.set_title(title, y=1.01)  # looked for by Matplotlib, else, which measures all labels
        axes.set_xlabel("step")
        axes.locator_params(nbins=4)  # most of the time goes into labels of ticks
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=7)
    figure.savefig(picture, dpi=110)


def save_picture(trainer: Trainer, folder: Path, name: str, suffix: str | None, picture: Tensor) -> None:
    """Write a picture `[3, h, w]` in [0, 1] into a folder, two pixels for one, and log it as `pictures/<name>`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{suffix}.png" if suffix else folder / f"{name}.png"
    large = picture.repeat_interleave(2, 1).repeat_interleave(2, 2)
    save_image(large, path)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(f"pictures/{name}", [str(path)])
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(f"pictures/{name}", large, trainer.fit_loop.epoch_loop.total_batch_idx + 1)


def picture_callbacks(module: LightningModule, run_folder: Path) -> list[Any]:
    """Return the callbacks that draw what a module does into `run_folder/pictures`."""
    folder = run_folder / "pictures"
    of_kind = GeneratorPictures(folder) if isinstance(module, GenerativeModule) else EpisodePicture(folder)
    return [of_kind, Curves(run_folder / "metrics.csv", folder)]
