"""The classic fully-connected GAN: our training step against the plain PyTorch loop that everybody starts from.

python benchmarks/gan_step.py [--threads 1]

Batch 64, 28×28, the layers of configs/generator/gan_classic.yaml. Arms take turns within each round, and the ratio of a
round is taken before the median over rounds, since machines are noisy. `plain`: sigmoid and binary cross-entropy, Adam
as it comes, real and generated images in two calls, the discriminator's gradients computed in the generator's step and
thrown away; its images are picked from a float tensor in memory. `by hand`: what our step computes, without Lightning.
"""

import argparse
import logging
import time
import warnings
from statistics import median

import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from genmeta.data.glyphs import Glyphs
from genmeta.models.gan_networks import FullyConnectedDiscriminator, FullyConnectedGenerator
from genmeta.models.gan_objectives import NonSaturating
from genmeta.modules.gan_module import GANModule
from genmeta.modules.image_data import ImageDataModule

STEPS, WARM_UP = 60, 5


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    data = ImageDataModule(Glyphs(), "glyphs_minimal", batch_size=64, steps_per_epoch=STEPS + WARM_UP)
    data.setup("fit")
    images = data.rendered(data.train_rows) * 2 - 1
    arms = {
        "plain PyTorch loop": lambda: plain(images),
        "ours, by hand": lambda: by_hand(images),
        "ours": lambda: ours(data, "32-true"),
        "ours, bf16-mixed": lambda: ours(data, "bf16-mixed"),
    }
    rounds = []
    for number in range(options.rounds + 1):
        times = {name: arm() for name, arm in arms.items()}
        if number:  # the first round warms up
            rounds.append(times)
    print(f"{options.threads} thread(s), median of {options.rounds} rounds of {STEPS} steps\n")
    print("| step | ms | times as fast as the plain loop |\n|---|---|---|")
    for name in arms:
        ratios = sorted(r["plain PyTorch loop"] / r[name] for r in rounds)
        milliseconds = 1e3 * median(r[name] for r in rounds)
        print(f"| {name} | {milliseconds:.1f} | {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |")
    share = median(1 - r["ours, by hand"] / r["ours"] for r in rounds)
    print(f"\nLightning, data and logging: {100 * share:.1f} % of a step")


def networks() -> tuple[FullyConnectedGenerator, FullyConnectedDiscriminator]:
    """Return the classic networks."""
    torch.manual_seed(0)
    return FullyConnectedGenerator(), FullyConnectedDiscriminator()


def timed(step) -> float:
    """Return seconds a step."""
    for _ in range(WARM_UP):
        step()
    started = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - started) / STEPS


def plain(images: torch.Tensor) -> float:
    """Time the textbook loop."""
    generator, discriminator = networks()
    adams = [torch.optim.Adam(n.parameters(), lr=2e-4, betas=(0.5, 0.999)) for n in (generator, discriminator)]
    bce, ones, zeros = nn.BCELoss(), torch.ones(64), torch.zeros(64)

    def step() -> None:
        real = images[torch.randint(len(images), (64,))]
        adams[0].zero_grad()
        fake = generator(torch.randn(64, 100))
        bce(torch.sigmoid(discriminator(fake)), ones).backward()
        adams[0].step()
        adams[1].zero_grad()
        real_loss = bce(torch.sigmoid(discriminator(real)), ones)
        fake_loss = bce(torch.sigmoid(discriminator(fake.detach())), zeros)
        ((real_loss + fake_loss) / 2).backward()
        adams[1].step()

    return timed(step)


def by_hand(images: torch.Tensor) -> float:
    """Time what `GANModule.training_step` computes, in a bare loop."""
    generator, discriminator = networks()
    objective = NonSaturating()
    adams = [
        torch.optim.Adam(n.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True) for n in (generator, discriminator)
    ]

    def step() -> None:
        real = images[torch.randint(len(images), (64,))]
        fake = generator(torch.randn(64, 100))
        adams[1].zero_grad()
        logits = discriminator(torch.cat([real, fake.detach()]))
        objective.discriminator_loss(*logits.chunk(2)).backward()
        adams[1].step()
        discriminator.requires_grad_(False)
        adams[0].zero_grad()
        objective.generator_loss(discriminator(fake)).backward()
        adams[0].step()
        discriminator.requires_grad_(True)

    return timed(step)


class Clock(Callback):
    """Notes when each batch ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *args) -> None:
        self.times.append(time.perf_counter())


def ours(data: ImageDataModule, precision: str) -> float:
    """Time `GANModule` under Lightning's Trainer, data and logging to memory included."""
    generator, discriminator = networks()
    clock = Clock()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        max_epochs=1,
        limit_val_batches=0,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    module = GANModule(generator, discriminator)
    module.on_fit_start = lambda: None  # no metrics, so no network to measure them with
    trainer.fit(module, data)
    return (clock.times[-1] - clock.times[-1 - STEPS]) / STEPS


if __name__ == "__main__":
    main()
