"""ProtoNet's training step: ours against code in the style of learn2learn's examples.

python benchmarks/protonet_step.py [--threads 1]

5-way 1-shot 15-query, 28×28, 64 filters, 8 episodes: forward and backward, no optimiser. `learn2learn`: its
`CNN4Backbone` and `PrototypicalClassifier`, one episode after the other, losses added up. Arms take turns within each
round and ratios are taken round by round. First, in float64, loss and gradients of both are compared, with running
statistics in place of those of the batch, since in training one embeds each episode with its own statistics and the
other all eight with theirs together; in bf16 the cosine between the gradients and those of float64 is printed.

As the commands do, the process keeps freed memory (`genmeta/cli/memory.py`), from which both arms gain;
`--hand-back-memory` leaves the allocator as it is.
"""

import argparse
import time
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.cli.memory import keep_freed_memory
from genmeta.episode import EpisodeBatch
from genmeta.learn2learn_import import import_learn2learn
from genmeta.learners.metric import ProtoNet
from genmeta.models.backbones import Conv4
from genmeta.rng import make_rng

N_TASKS, N_WAY, N_QUERY, HIDDEN = 8, 5, 15, 64


def main() -> None:
    """Compare gradients, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hand-back-memory", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.hand_back_memory:
        keep_freed_memory()
    batch = make_batch()
    ours, theirs = networks(batch)
    print(f"largest difference of gradients in float64: {check(batch, ours, theirs):.1e}")
    print(f"cosine of bf16 gradients to those of float64: {cosine(batch, ours):.4f}\n")
    arms = {
        "learn2learn": lambda: learn2learn_step(batch, theirs),
        "ours": lambda: our_step(batch, ours),
        "learn2learn, bf16": lambda: learn2learn_step(batch, theirs, bf16=True),
        "ours, bf16": lambda: our_step(batch, ours, bf16=True),
    }
    rounds = [{name: seconds(step) for name, step in arms.items()} for _ in range(options.rounds + 1)][1:]
    print(f"{options.threads} thread(s), median of {options.rounds} rounds (smallest to largest)\n")
    print("| step | ms | times as fast as learn2learn's in fp32 |\n|---|---|---|")
    for name in arms:
        ratios = [r["learn2learn"] / r[name] for r in rounds]
        cell = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {1000 * median(r[name] for r in rounds):.0f} | {cell} |")


def make_batch() -> EpisodeBatch:
    """Return eight episodes of random images."""
    rng = make_rng("benchmark")
    support, query = (torch.rand(N_TASKS, N_WAY * n, 1, 28, 28, generator=rng) for n in (1, N_QUERY))
    y = torch.arange(N_WAY).expand(N_TASKS, -1)
    return EpisodeBatch(support, y, query, y.repeat(1, N_QUERY), torch.zeros(N_TASKS, N_WAY, dtype=torch.bool))


def networks(batch: EpisodeBatch) -> tuple[ProtoNet, nn.Module]:
    """Return both networks, with the same weights, and the statistics of the batch as their running ones."""
    torch.manual_seed(0)
    import_learn2learn()
    from learn2learn.vision.models import CNN4Backbone

    ours, theirs = ProtoNet(Conv4(1, HIDDEN)), CNN4Backbone(HIDDEN, channels=1)
    for mine, other in zip(layers(ours.backbone), layers(theirs), strict=True):
        mine.load_state_dict(other.state_dict())
    for layer in layers(ours.backbone):
        layer.momentum = 1.0  # of batch norm: the statistics of the next batch are kept as they are
    ours.train()(batch)
    for mine, other in zip(layers(ours.backbone), layers(theirs), strict=True):
        other.load_state_dict(mine.state_dict())
    return ours, theirs


def layers(backbone: nn.Module) -> list[nn.Module]:
    """Return the convolutions and batch norms."""
    return [m for kind in (nn.Conv2d, nn.BatchNorm2d) for m in backbone.modules() if isinstance(m, kind)]


def our_step(batch: EpisodeBatch, learner: ProtoNet, bf16: bool = False) -> Tensor:
    """Compute gradients and return the loss."""
    learner.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = learner.loss(batch)[0]
    loss.backward()
    return loss.detach()


def learn2learn_step(batch: EpisodeBatch, backbone: nn.Module, bf16: bool = False) -> Tensor:
    """Compute gradients and return the loss."""
    backbone.zero_grad()
    classifier = import_learn2learn().nn.PrototypicalClassifier()
    total = torch.zeros(())
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for t in range(N_TASKS):
            features = backbone(torch.cat([batch.support_x[t], batch.query_x[t]]))
            classifier.fit_(features[:N_WAY], batch.support_y[t])
            total = total + F.cross_entropy(classifier(features[N_WAY:]), batch.query_y[t]) / N_TASKS
    total.backward()
    return total.detach()


def check(batch: EpisodeBatch, ours: ProtoNet, theirs: nn.Module) -> float:
    """Return the largest difference between the gradients of both, in float64."""
    double = EpisodeBatch(**{k: v.double() if k.endswith("_x") else v for k, v in vars(batch).items()})
    losses = our_step(double, ours.double().eval()), learn2learn_step(double, theirs.double().eval())
    torch.testing.assert_close(*losses, atol=1e-10, rtol=1e-10)
    mine, other = (
        torch.cat([p.grad.flatten() for layer in layers(network) for p in layer.parameters()])
        for network in (ours.backbone, theirs)
    )
    torch.testing.assert_close(mine, other, atol=1e-9, rtol=1e-8)
    assert mine.abs().max() > 1e-3, "the comparison must not be of zeros"
    difference = (mine - other).abs().max().item()
    ours.float().train()
    theirs.float().train()
    return difference


def cosine(batch: EpisodeBatch, ours: ProtoNet) -> float:
    """Return the cosine between the gradients in bf16 and in float64, in training mode."""

    def gradient() -> Tensor:
        return torch.cat([p.grad.double().flatten() for p in ours.parameters() if p.grad is not None])

    double = EpisodeBatch(**{k: v.double() if k.endswith("_x") else v for k, v in vars(batch).items()})
    our_step(double, ours.double())
    exact = gradient()
    our_step(batch, ours.float(), bf16=True)
    return F.cosine_similarity(exact, gradient(), dim=0).item()


def seconds(step) -> float:
    """Return the time of a step."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
