"""How long does scoring one query against 20 classes take? python benchmarks/inference_speed.py [--threads 1]

Milliseconds a query of 20-way 1-shot episodes of 20 queries, 28 pixels, for ProtoNet and the learners that infer a
deformation at meta-test (docs/inference.md). Weights are the initial ones: they do not change the time. Arms take turns
within each round; the smallest of the rounds is the nearest to what a quiet machine takes. One minute of one core.
"""

import argparse
import time
from collections.abc import Sequence
from statistics import median

import torch

from genmeta.cli.memory import keep_freed_memory
from genmeta.episode import EpisodeBatch
from genmeta.learners.aligned import AlignedRelation
from genmeta.learners.bending import BendingRegistration
from genmeta.learners.latent_likelihood import LatentLikelihood
from genmeta.learners.learner import Learner
from genmeta.learners.metric import ProtoNet
from genmeta.models.backbones import Conv4
from genmeta.models.redraw import DeformationRedrawer, PairEncoder
from genmeta.rng import make_rng

N_WAY = 20


def main(args: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Print the table; return milliseconds a query of each round, by learner."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    batch = make_batch()
    arms = {name: learner.eval() for name, learner in learners().items()}
    rounds = [{name: milliseconds(arm, batch) for name, arm in arms.items()} for _ in range(options.rounds + 1)][1:]
    found = {name: [of_round[name] for of_round in rounds] for name in arms}
    print("| learner | ms a query, smallest | median |\n|---|---|---|")
    for name, times in found.items():
        print(f"| {name} | {min(times):.1f} | {median(times):.1f} |")
    return found


def learners() -> dict[str, Learner]:
    """Return the learners, with the sizes of configs/learner."""
    parts = {"redrawer": DeformationRedrawer(latent_dim=16, channels=32), "encoder": PairEncoder(latent_dim=16)}

    def likelihood(**search: object) -> LatentLikelihood:
        return LatentLikelihood(**parts, **search)  # type: ignore[arg-type]

    def backbone() -> Conv4:
        return Conv4(hidden=64, pools=3, norm="running")

    return {
        "ProtoNet": ProtoNet(backbone()),
        "aligned pair network, ten candidates": AlignedRelation(backbone(), candidates=10),
        "latent likelihood, amortised": likelihood(steps=0),
        "latent likelihood, one step of Gauss and Newton": likelihood(steps=1, search="gauss_newton"),
        "latent likelihood, two steps": likelihood(steps=2, search="gauss_newton"),
        "latent likelihood, ten steps of Adam": likelihood(steps=10),
        "registration by hand": BendingRegistration(),
    }


def make_batch() -> EpisodeBatch:
    """Return an episode of random strokes, one query a class."""
    rng = make_rng("benchmark")
    support, query = ((torch.rand(1, N_WAY, 1, 28, 28, generator=rng) > 0.8).float() for _ in range(2))
    y = torch.arange(N_WAY)[None]
    return EpisodeBatch(support, y, query, y, torch.zeros(1, N_WAY, dtype=torch.bool))


@torch.no_grad()
def milliseconds(learner: Learner, batch: EpisodeBatch) -> float:
    """Return the time that a query takes."""
    begin = time.perf_counter()
    learner(batch)
    return 1000 * (time.perf_counter() - begin) / batch.query_y.shape[1]


if __name__ == "__main__":
    main()
