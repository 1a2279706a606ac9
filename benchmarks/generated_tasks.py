"""What a training step costs whose classes are half generated: decoded for the step, or from a bank; beside a real one.

python benchmarks/generated_tasks.py [--threads 1]

A step is planning, rendering and a ProtoNet's forward and backward pass: 4 tasks of 10 classes with 3 images each. The
bank's share is what it takes to fill it (100 episodes), spread over 1,000 steps. The
arms take turns within each round; ratios to the real step are taken round by round. Networks are those of the YAMLs
`vae` and `vae_deformation`, untrained, which costs the same.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from genmeta.episode import EpisodePlan, EpisodeShape
from genmeta.learners.metric import ProtoNet
from genmeta.models.backbones import Conv4
from genmeta.models.checkpoint import LatentModel
from genmeta.models.redraw import DeformationRedrawer
from genmeta.models.vae_networks import ConvDecoder
from genmeta.rng import make_rng
from genmeta.tasks.bank import BankedTasks
from genmeta.tasks.elastic import Elastic
from genmeta.tasks.latent import LatentTasks
from genmeta.tasks.mixed import MixedTasks
from genmeta.tasks.policies import RandomOther
from genmeta.tasks.prior import GaussianMixture
from genmeta.tasks.real import RealTasks
from genmeta.tasks.redrawn import Redraw, RedrawnTasks
from genmeta.tasks.render import render
from genmeta.tasks.sampler import TaskPool, TaskSampler

N_TASKS, SHAPE, CHUNK = 4, EpisodeShape(10, 1, 2), 20
N_CLASSES, N_IMAGES = 150, 20


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10, help="of an arm in a round")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    arms = make_arms()
    rounds = [{name: arm(options.steps) for name, arm in arms.items()} for _ in range(options.rounds + 1)][1:]
    print(f"{options.threads} thread(s), {options.rounds} rounds of {options.steps} steps, medians\n")
    print("| classes of a step | ms a step | times a real step |")
    print("|---|---|---|")
    for name in arms:
        ratio = median(r[name] / r["real"] for r in rounds)
        print(f"| {name} | {1000 * median(r[name] for r in rounds):.1f} | {ratio:.2f} |")


def make_arms() -> dict[str, Callable[[int], float]]:
    """Return by name what runs so many steps and returns the seconds of one."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (N_CLASSES * N_IMAGES, 1, 28, 28), dtype=torch.uint8)
    counts = torch.full((N_CLASSES,), N_IMAGES)
    decoder, redrawer = ConvDecoder(channels=(32, 16), residual=True), DeformationRedrawer()
    networks = torch.nn.ModuleDict({"decoder": decoder, "redrawer": redrawer}).eval().requires_grad_(False)
    prior = GaussianMixture.standard(decoder.latent_dim)
    model = LatentModel(prior, "", "", None, networks)  # type: ignore[arg-type]
    pool = TaskPool(counts.cumsum(0) - counts, counts, torch.zeros(N_CLASSES, dtype=torch.long), prior)
    pool = replace(pool, redraw_dim=redrawer.latent_dim)
    learner = ProtoNet(Conv4(1, 32, 28))

    real, latent = RealTasks(), LatentTasks(RandomOther(0.3), 0.4)

    def drawn(plan: EpisodePlan, bank: torch.Tensor | None = None):
        return render(plan, images, model.decode, model.redraw, bank)

    def steps_of(tasks: TaskSampler, bank: torch.Tensor | None, n: int) -> float:
        started = time.perf_counter()
        for step in range(n):
            batch = drawn(tasks.sample(pool, SHAPE, N_TASKS, step, make_rng(step)), bank)
            learner.zero_grad()
            learner.loss(batch)[0].backward()
        return (time.perf_counter() - started) / n

    def fill(banked: BankedTasks, bfloat16: bool) -> tuple[torch.Tensor, float]:
        started, parts = time.perf_counter(), []
        plan = banked.fill(pool, SHAPE, 0, make_rng("bank"))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            for first in range(0, len(plan), CHUNK):
                batch = drawn(plan[first : first + CHUNK])
                parts.append((torch.cat([batch.support_x, batch.query_x], 1).flatten(0, 1) * 255).to(torch.uint8))
        return torch.cat(parts), time.perf_counter() - started

    def with_bank(bfloat16: bool) -> Callable[[int], float]:
        banked = BankedTasks(latent)

        def run(n: int) -> float:
            bank, seconds = fill(banked, bfloat16)
            return steps_of(MixedTasks(real, banked, 0.5, "class"), bank, n) + seconds / banked.refresh

        return run

    return {
        "real": lambda n: steps_of(real, None, n),
        "half generated, decoded for the step": lambda n: steps_of(MixedTasks(real, latent, 0.5, "class"), None, n),
        "half generated, from the bank": with_bank(False),
        "half generated, from the bank filled in bfloat16": with_bank(True),
        "real, every image drawn again": lambda n: steps_of(RedrawnTasks(real, Redraw()), None, n),
        "real, elastic deformation": lambda n: steps_of(RedrawnTasks(real, Redraw(0.0, Elastic())), None, n),
    }


if __name__ == "__main__":
    main()
