"""Which density of displacements fits two drawings of one character? python benchmarks/deformation_priors.py

Pairs of images of one class are registered onto one another by `BendingRegistration`'s search. Densities are fitted to
those of Omniglot's minimal set 1 and judged by those of Tagalog (validation classes): mean held-out log density in
nats, with its 95 % interval over pairs. Takes 40 s of one core.
"""

import argparse
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from genmeta.data.omniglot_minimal import OmniglotMinimal
from genmeta.data.splits import Part, load_split
from genmeta.evaluation.statistics import mean_and_t95
from genmeta.learners.learned_registration import LearnedRegistration, pairs_of_images
from genmeta.models.deformation_prior import CELLS, FlowPrior, GaussianPrior, described
from genmeta.models.registration import bending


class BendingPrior:
    """A density by energies: minus its log is `a · bending(d) + b · |d|²` and a constant; a and b are fitted."""

    def fit(self, displacements: Tensor) -> None:
        basis = torch.eye(2 * CELLS**2).view(-1, 2, CELLS, CELLS).permute(0, 2, 3, 1)
        single, pairs = bending(basis), bending((basis[:, None] + basis).flatten(0, 1)).view(len(basis), -1)
        # bending is quadratic: its matrix follows from single displacements and sums of two
        stiffness, modes = torch.linalg.eigh((pairs - single[:, None] - single).double() / 2)
        sizes = (displacements.double() @ modes).square().mean(0)
        scales = torch.logspace(-6, 6, 121, dtype=torch.float64)
        precisions = (scales[:, None, None] * stiffness.clamp(min=0) + scales[:, None]).flatten(0, 1)
        likelihoods = (precisions.log() - precisions * sizes).sum(-1)
        self.modes, self.stiffness = modes, precisions[likelihoods.argmax()]

    def log_prob(self, displacements: Tensor) -> Tensor:
        energies = self.stiffness * (displacements.double() @ self.modes).square()
        return 0.5 * (self.stiffness.log() - energies - math.log(2 * math.pi)).sum(-1)


def main(args: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Print the table; return mean log densities of held-out pairs by prior, `[n_pairs]`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n_pairs", type=int, default=600, help="of training images; half as many are held out")
    options = parser.parse_args(args)
    learner = LearnedRegistration()
    fitted = displacements(learner, "train", options.n_pairs)
    held_out = displacements(learner, "val", options.n_pairs // 2)
    found = {}
    priors = {"bending": BendingPrior(), "Gaussian": GaussianPrior(), "flow": FlowPrior()}
    for name, prior in priors.items():
        prior.fit(fitted)
        found[name] = prior.log_prob(held_out).view(-1, 2).mean(1).double()  # both ways
        middle, half = mean_and_t95(found[name])
        gain, gain_half = mean_and_t95(found[name] - found["bending"])
        print(f"{name:9}{middle:8.1f} ± {half:.1f} nats; than bending {gain:+.1f} ± {gain_half:.1f}", flush=True)
    return found


def displacements(learner: LearnedRegistration, part: Part, n_pairs: int) -> Tensor:
    """Return described displacements of pairs of images of one class, `[2 n_pairs, 98]`, both ways together."""
    table = OmniglotMinimal().load()
    rows, labels = (table.class_ids[:, None] == load_split("omniglot_minimal").class_ids(table, part)).nonzero().T
    images = table.images[rows]
    first, second, _ = pairs_of_images(images, labels, n_pairs, 1)
    x, other = (images[rows].float().div(255) for rows in (first, second))
    return described(learner.registered(x, other).transpose(0, 1).flatten(0, 1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
