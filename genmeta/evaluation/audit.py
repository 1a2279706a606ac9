"""Are generated classes good enough to learn from? Numbers on their images and features, and flags.

This code does not know where images or features come from.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from genmeta.episode import EpisodeBatch
from genmeta.evaluation.samples import mean_distance, nearest_distance, precision_recall_density_coverage
from genmeta.learners.embedding import embed as embed_episode
from genmeta.learners.metric import prototypes, squared_distances

Embed = Callable[[Tensor], Tensor]
"""Images `[n, C, H, W]` in [0, 1] to features `[n, d]`."""


@dataclass(frozen=True)
class Rule:
    """Raises a flag if a number of the audit is below (or above) a threshold.

    Attributes:
        number: name of the number.
        threshold: see `RULES` for its source.
        below: True: the flag is raised below the threshold; False: above it.
        verdict: text of the flag.
    """

    number: str
    threshold: float
    below: bool
    verdict: str

    def holds(self, numbers: Mapping[str, float]) -> bool:
        """Whether the flag is raised; a missing number raises no flag."""
        if self.number not in numbers:
            return False
        value = numbers[self.number]
        # NaN raises the flag
        return not (value >= self.threshold if self.below else value <= self.threshold)


def generated_classes(batch: EpisodeBatch, of: Tensor) -> Tensor:
    """Return the images of the classes that `of` marks, bool `[task, way]` by label: `[n, shot + query, C, H, W]`.

    Support images first; slots in the order of tasks, then of labels. Every class of a batch has equally many images.
    """
    by_label = []
    for x, y in ((batch.support_x, batch.support_y), (batch.query_x, batch.query_y)):
        order = y.argsort(dim=1, stable=True)
        ordered = x[torch.arange(len(x), device=x.device)[:, None], order]
        by_label.append(ordered.unflatten(1, (batch.n_way, -1)))
    return torch.cat(by_label, 2)[of]


def episode_accuracy(embed: Embed, batch: EpisodeBatch, of: Tensor) -> Tensor:
    """Return whether prototypes of features classify each query image of some classes right, float32 `[n]`.

    All classes of an episode compete (Snell et al., NeurIPS 2017), and the queries of the classes that `of` marks, bool
    `[task, way]` by label, are counted.
    """
    support, query = embed_episode(embed, batch)
    centres = prototypes(support, batch.support_y, batch.n_way, batch.support_weight)
    right = squared_distances(query, centres).argmin(2) == batch.query_y
    return right[of.gather(1, batch.query_y)].float()


def within_and_between(x: Tensor, classes: Tensor) -> tuple[float, float]:
    """Return the mean distance of two vectors of one class, and of two of different classes.

    Args:
        x: `[n, d]`.
        classes: number of each one's class, int64 `[n]`.

    Returns:
        NaN where there is no such pair.
    """
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    same = classes[:, None] == classes
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
    return distances[same & ~itself].mean().item(), distances[~same].mean().item()


def label_agreement(features: Tensor, centres: Tensor) -> float:
    """Return how often two images of one class are nearest to the same known class's prototype, in [0, 1].

    This is the label consistency of generated classes under a frozen classifier of real classes.

    Args:
        features: `[n_classes, n_images, d]`, two or more images a class.
        centres: prototypes of the known classes `[k, d]`.
    """
    labels = (
        squared_distances(features.flatten(0, 1)[None], centres[None])[0].argmin(1).unflatten(0, features.shape[:2])
    )
    n = labels.shape[1]
    same = (labels[:, :, None] == labels[:, None]).float().sum((1, 2)) - n
    return (same / (n * (n - 1))).mean().item()


def duplicate_share(images: Tensor) -> float:
    """Return the share of images `[n, …]` in [0, 1] that equal an earlier one when rounded to 8 bits, in [0, 1)."""
    levels = images.mul(255).round().to(torch.uint8).flatten(1)
    return 1 - len(levels.unique(dim=0)) / len(levels)


def copies(generated: Tensor, training: Tensor, usual: float) -> float:
    """Return the share of generated images that are copies of a training image, in [0, 1].

    A copy is nearer to a training image than `COPY` times the usual distance (root mean squared difference of pixels).

    Args:
        generated: `[n, C, H, W]` in [0, 1].
        training: `[m, C, H, W]`, with turned images if turned copies count.
        usual: distance of a real image to the nearest other one (median).
    """
    return (nearest_distance(generated, training) < COPY * usual).float().mean().item()


@dataclass(frozen=True)
class Reference:
    """Real images of the meta-train classes, and numbers on them, to compare generated classes with.

    Attributes:
        classes: `[n_classes, n_images, C, H, W]` in [0, 1], if possible with as many images as generated classes have;
            images held out from generator and features, if there are any.
        centres: feature prototypes of the meta-train classes, `[k, d]`.
        training: images that the generator may have memorised, `[m, C, H, W]`, with their quarter turns.
        accuracy: of prototypes in real episodes of about the same shape, in [0, 1].
        chance: accuracy of guessing in these episodes.
    """

    classes: Tensor
    centres: Tensor
    training: Tensor
    accuracy: float
    chance: float


def audit_numbers(
    generated: Tensor, accuracy: float, chance: float, real: Reference, embed: Embed, encode: Embed | None
) -> dict[str, float]:
    """Return the numbers of generated classes by name; those ending in `_real` are of real images.

    - `recognisability`: prototype accuracy of the generated queries in their episodes; `recognised` what it is above
      guessing, as a share of the same in real episodes.
    - `within`, `between`: mean feature distance of two images of one generated class, and of two classes; `spread` and
      `separation` the same divided by the real ones; `overlap` is within / between.
    - `label_agreement` (above); `agreement` as a share of that of real images.
    - `nearest_real`: median pixel distance of a generated image to the nearest training image, divided by that of real
      held-out ones; `copies` the share that are copies; `duplicates` the share that equal another generated one.
    - `diversity`: mean feature distance of two generated images, divided by that of two real ones; `precision`: share
      of generated images within reach of real ones (Kynkäänniemi et al. 2019).
    - `coverage`: share of real encodings with a generated one nearer than their fifth real neighbour (Naeem et al.
      2020), in codes of `encode` if there is an encoder, else in features; `coverage_real` is that of real images by
      other real ones of the same classes, and `covered` the share of one in the other.

    Args:
        generated: `[n_classes, n_images, C, H, W]` in [0, 1].
        accuracy, chance: of the generated queries in their episodes, and of guessing in them.
        real: real classes to compare with.
        embed: a frozen feature network.
        encode: images to codes, or None.
    """
    images = generated.flatten(0, 1)
    real_images = real.classes.flatten(0, 1)
    features, real_features = embed(images), embed(real_images)
    by_class, real_by_class = (
        f.unflatten(0, of.shape[:2]) for f, of in ((features, generated), (real_features, real.classes))
    )
    (within, between), (within_real, between_real) = (
        within_and_between(f, torch.arange(of.shape[0], device=f.device).repeat_interleave(of.shape[1]))
        for f, of in ((features, generated), (real_features, real.classes))
    )
    agreement, agreement_real = label_agreement(by_class, real.centres), label_agreement(real_by_class, real.centres)
    usual = nearest_distance(real_images, real.training).median().item()
    codes, real_codes = (features, real_features) if encode is None else (encode(images), encode(real_images))
    # every other image of each class stands for the images of a perfect generator
    n = real.classes.shape[1] // 2 * 2
    halves = real_codes.unflatten(0, real.classes.shape[:2])[:, :n]
    covered, covered_real = (
        precision_recall_density_coverage(a, _at_most(b, len(a)))[3]
        for a, b in ((real_codes, codes), (halves[:, 0::2].flatten(0, 1), halves[:, 1::2].flatten(0, 1)))
    )
    return {
        "recognisability": accuracy,
        "recognisability_real": real.accuracy,
        "recognised": (accuracy - chance) / max(real.accuracy - real.chance, 1e-9),
        "within": within,
        "within_real": within_real,
        "spread": within / within_real,
        "between": between,
        "between_real": between_real,
        "separation": between / between_real,
        "overlap": within / between if between else float("nan"),
        "overlap_real": within_real / between_real,
        "label_agreement": agreement,
        "label_agreement_real": agreement_real,
        "agreement": agreement / max(agreement_real, 1e-9),
        "nearest_real": nearest_distance(images, real.training).median().item() / max(usual, 1e-9),
        "copies": copies(images, real.training, usual),
        "duplicates": duplicate_share(images),
        "diversity": mean_distance(features) / mean_distance(real_features),
        "precision": precision_recall_density_coverage(real_features, features)[0],
        "coverage": covered,
        "coverage_real": covered_real,
        "covered": covered / max(covered_real, 1e-9),
    }


def _at_most(x: Tensor, n: int) -> Tensor:
    return x if len(x) <= n else x[torch.linspace(0, len(x) - 1, n, device=x.device).round().long()]


COPY = 0.25
"""See `copies`. A guess."""

# the thresholds of diversity and precision come from docs/generators.md; the others are guesses that the measured
# rows of docs/latent_tasks.md do not contradict
RULES: tuple[Rule, ...] = (
    # generators' own mark (docs/generators.md): untrained 0.17, the trained ones 0.73 and more
    Rule("diversity", 0.5, True, "collapsed: generated images are nearly alike, whatever their class"),
    # docs/generators.md: untrained 0.00, the trained ones 0.51 and more
    Rule("precision", 0.1, True, "looks untrained: hardly any generated image is within reach of real ones"),
    Rule("recognised", 0.3, True, "classes cannot be told apart: prototypes hardly recognise their images"),
    Rule("spread", 0.2, True, "all images of a class are alike: no variation to learn from"),
    Rule("agreement", 0.2, True, "images of one class look like different real classes"),
    Rule("copies", 0.05, False, "copies of training images"),
    Rule("duplicates", 0.05, False, "the same generated images again and again"),
    Rule("covered", 0.1, True, "most of the region of the real classes is never reached"),
)


def verdicts(numbers: Mapping[str, float]) -> list[str]:
    """Return a line for each raised flag, with its number and threshold."""
    return [
        f"{rule.verdict} ({rule.number} {numbers[rule.number]:.2f}, expected at "
        f"{'least' if rule.below else 'most'} {rule.threshold:g})"
        for rule in RULES
        if rule.holds(numbers)
    ]
