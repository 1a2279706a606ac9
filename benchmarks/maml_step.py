"""A step of MAML: ours against learn2learn's, losses and gradients of one meta-batch, without the optimiser.

python benchmarks/maml_step.py [--threads 1] [--rounds 9]

5-way 1-shot on noise of 28×28, one step of adaptation; 4 tasks with 15 queries a class for the convolutional network of
4×64 filters, 32 with one query a class for the fully-connected one. learn2learn's `MAML` runs over its own
network, with our weights; gradients are compared in float64 before anything is timed. Arms take turns within each
round, and the ratio of a round is taken before the median over rounds, since machines are noisy; times are of the
processor, not of the clock. bf16: queries in bfloat16, adaptation in float32, as with `trainer.precision: bf16-mixed`.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.cli.memory import keep_freed_memory
from genmeta.episode import EpisodeBatch
from genmeta.learn2learn_import import import_learn2learn
from genmeta.learners.low_rank_maml import LowRankMAML
from genmeta.learners.maml import MAML
from genmeta.models.backbones import Conv4
from genmeta.models.fully_connected import FullyConnected
from genmeta.rng import make_rng

Step = Callable[[], Tensor]
WAY = 5


def noise(n_tasks: int, n_query: int) -> EpisodeBatch:
    """Return 5-way 1-shot tasks of random images."""
    rng = make_rng("maml_step")
    support_y = torch.arange(WAY).expand(n_tasks, -1)
    x = torch.rand(n_tasks, WAY * (1 + n_query), 1, 28, 28, generator=rng)
    query_y = torch.arange(WAY).repeat(n_query).expand(n_tasks, -1)
    return EpisodeBatch(x[:, :WAY], support_y, x[:, WAY:], query_y, torch.zeros(n_tasks, WAY, dtype=torch.bool))


def convolutional(first_order: bool, dtype: torch.dtype = torch.float32) -> tuple[MAML, nn.Module]:
    """Return our learner and learn2learn's network of the same function."""
    torch.manual_seed(0)
    ours = MAML(Conv4(1, 64, 28, "batch"), WAY, first_order=first_order)
    return ours.to(dtype), same_weights(
        import_learn2learn().vision.models.CNN4(WAY, 64, channels=1, embedding_size=64), ours
    ).to(dtype)


def fully_connected(first_order: bool, dtype: torch.dtype = torch.float32) -> tuple[MAML, nn.Module]:
    """Return our learner and learn2learn's network of the same function."""
    torch.manual_seed(0)
    ours = LowRankMAML(FullyConnected(), WAY, first_order=first_order)
    return ours.to(dtype), same_weights(import_learn2learn().vision.models.OmniglotFC(784, WAY), ours).to(dtype)


def same_weights(network: nn.Module, ours: MAML) -> nn.Module:
    """Copy our weights into learn2learn's network; return it, normalising with the batch at hand."""
    for kind in (nn.Conv2d, nn.modules.batchnorm._BatchNorm, nn.Linear):
        pairs = [[m for m in net.modules() if isinstance(m, kind)] for net in (network, ours.network)]
        for theirs, mine in zip(*pairs, strict=True):
            theirs.weight.data.copy_(mine.weight.data)
            theirs.bias.data.copy_(mine.bias.data)
    return network.train()


def our_step(learner: MAML, batch: EpisodeBatch, bf16: bool = False) -> Step:
    """Return a function that computes the meta-gradient."""

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            loss = learner.loss(batch)[0]
        return flat(torch.autograd.grad(loss, list(learner.parameters())), learner)

    return step


def their_step(network: nn.Module, batch: EpisodeBatch, first_order: bool) -> Step:
    """Return a function that computes the meta-gradient."""
    maml = import_learn2learn().algorithms.MAML(network, lr=0.4, first_order=first_order)

    def step() -> Tensor:
        losses = []
        for support_x, support_y, query_x, query_y in zip(
            batch.support_x, batch.support_y, batch.query_x, batch.query_y, strict=True
        ):
            learner = maml.clone()
            learner.adapt(F.cross_entropy(learner(support_x), support_y))
            losses.append(F.cross_entropy(learner(query_x), query_y))
        return flat(torch.autograd.grad(torch.stack(losses).mean(), list(network.parameters())), network)

    return step


def flat(gradients: tuple[Tensor, ...], network: nn.Module) -> Tensor:
    """Return gradients as one vector, those of each kind of layer together, since networks order them differently."""
    of = dict(zip((id(p) for p in network.parameters()), gradients, strict=True))
    kinds = (nn.Conv2d, nn.modules.batchnorm._BatchNorm, nn.Linear)
    layers = [m for kind in kinds for m in network.modules() if isinstance(m, kind)]
    return torch.cat([of[id(p)].flatten() for layer in layers for p in (layer.weight, layer.bias)])


def double(batch: EpisodeBatch) -> EpisodeBatch:
    """Return the batch in float64."""
    return EpisodeBatch(
        batch.support_x.double(), batch.support_y, batch.query_x.double(), batch.query_y, batch.is_generated
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    print(f"{options.threads} thread(s), median of {options.rounds} rounds\n")
    print("| network | order | ms, learn2learn | times as fast: ours | with bf16 | cosine of its gradient |")
    print("|---|---|---|---|---|---|")
    networks = (("4×64 conv", convolutional, noise(4, 15)), ("fully connected", fully_connected, noise(32, 1)))
    for name, make, batch in networks:
        for first_order in (False, True):
            check(make, batch, first_order)
            ours, theirs = make(first_order)
            arms = {
                "theirs": their_step(theirs, batch, first_order),
                "ours": our_step(ours, batch),
                "bf16": our_step(ours, batch, bf16=True),
            }
            cosine = F.cosine_similarity(arms["ours"](), arms["bf16"](), dim=0)
            rounds = [{arm: seconds(step) for arm, step in arms.items()} for _ in range(options.rounds + 1)][1:]
            cells = [f"{1e3 * median(r['theirs'] for r in rounds):.0f}"]
            for arm in ("ours", "bf16"):
                ratios = sorted(r["theirs"] / r[arm] for r in rounds)
                cells.append(f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
            order = "first" if first_order else "second"
            print(f"| {name} | {order} | {' | '.join(cells)} | {cosine:.5f} |", flush=True)


def check(make: Callable[..., tuple[MAML, nn.Module]], batch: EpisodeBatch, first_order: bool) -> None:
    """Raise AssertionError unless both compute the same gradient, in float64 on two of the tasks."""
    ours, theirs = make(first_order, torch.float64)
    few = double(EpisodeBatch(*(getattr(batch, field.name)[:2] for field in fields(batch)[:5])))
    expected = their_step(theirs, few, first_order)()
    torch.testing.assert_close(our_step(ours, few)(), expected, atol=1e-8, rtol=1e-8)
    assert expected.abs().max() > 1e-3, "the comparison must not be of zeros"


def seconds(step: Step) -> float:
    """Return the processor's seconds of one call."""
    started = time.process_time()
    step()
    return time.process_time() - started


if __name__ == "__main__":
    main()
