"""Metrics of generated images: pure functions of the features of real and generated images, `[n, d]` and `[m, d]`.

`genmeta.evaluation.features` trains the feature network.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from genmeta.learners.metric import squared_distances

NEIGHBOURS = 5
"""k of the nearest neighbours of precision, recall, density and coverage; 5 in Naeem et al. 2020."""


class _AsGiven(nn.Module):
    """A feature extractor for torchmetrics that returns its input, since the input is features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Return FID on these features: the Fréchet distance of two Gaussians fitted to them, at least 0.

    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017. It is higher for small samples.
    """
    return float(_torchmetric(FrechetInceptionDistance(feature=_AsGiven(real.shape[1])), real, generated))


def kernel_distance(real: Tensor, generated: Tensor) -> float:
    """Return KID on these features: squared maximum mean discrepancy with a cubic kernel, mean over 20 subsets.

    Bińkowski et al., "Demystifying MMD GANs", ICLR 2018. It is unbiased, so it can be slightly negative.
    """
    size = min(len(real), len(generated), 200)
    with warnings.catch_warnings():  # torchmetrics warns that it keeps all features: there are few
        warnings.simplefilter("ignore")
        metric = KernelInceptionDistance(feature=_AsGiven(real.shape[1]), subsets=20, subset_size=size)
    return float(_torchmetric(metric, real, generated)[0])


def _torchmetric(metric: Any, real: Tensor, generated: Tensor) -> Any:
    metric.update(real.cpu().float(), real=True)
    metric.update(generated.cpu().float(), real=False)
    with torch.random.fork_rng(devices=[]):  # KID draws its subsets by the global generator
        torch.manual_seed(0)
        return metric.compute()


def precision_recall_density_coverage(real: Tensor, generated: Tensor, k: int = NEIGHBOURS) -> tuple[float, ...]:
    """Return precision, recall, density and coverage.

    Each image has a ball that reaches to its k-th nearest neighbour of the same kind. Precision is the share of
    generated images in some real ball, recall the share of real images in some generated ball (Kynkäänniemi et al.,
    "Improved Precision and Recall Metric", NeurIPS 2019). Density is the mean number of real balls around a generated
    image, divided by k; coverage is the share of real balls with a generated image in them (Naeem et al., "Reliable
    Fidelity and Diversity Metrics", ICML 2020).
    """
    across = torch.cdist(real, generated)
    reach_real, reach_generated = (_reach(x, k) for x in (real, generated))
    in_real = across < reach_real[:, None]
    return (
        in_real.any(0).float().mean().item(),
        (across < reach_generated).any(1).float().mean().item(),
        in_real.float().sum(0).mean().item() / k,
        in_real.any(1).float().mean().item(),
    )


def _reach(x: Tensor, k: int) -> Tensor:
    # the nearest of all is the image itself
    return torch.cdist(x, x).kthvalue(min(k + 1, len(x)), dim=1).values


def mean_distance(x: Tensor) -> float:
    """Return the mean distance of two different images, on features `[n, d]`."""
    n = len(x)
    return (torch.cdist(x, x).sum() / (n * (n - 1))).item()


def sample_metrics(real: Tensor, generated: Tensor) -> dict[str, float]:
    """Return all metrics of samples by name; `diversity` is their mean distance divided by that of real images."""
    precision, recall, density, coverage = precision_recall_density_coverage(real, generated)
    return {
        "fid": frechet_distance(real, generated),
        "kid": kernel_distance(real, generated),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "diversity": mean_distance(generated) / mean_distance(real),
    }


def recognisability(features: Tensor, n_way: int, rng: torch.Generator, n_episodes: int = 100) -> float:
    """Return how often the first image of a class identifies the others among images of `n_way - 1` other classes.

    The prototype classifier's accuracy in one-shot episodes, as in Boutin et al., "Diversity vs. Recognizability:
    Human-like generalization in one-shot generative models", NeurIPS 2022, who use 20 ways.

    Args:
        features: `[n_classes, n_images, d]`; the first image of each class is its exemplar.
        n_way: classes an episode.
        rng: draws the classes of each episode.
        n_episodes: number of episodes.
    """
    n_way = min(n_way, len(features))
    right = []
    for _ in range(n_episodes):
        of = features[torch.randperm(len(features), generator=rng)[:n_way]]
        distances = squared_distances(of[:, 1:].flatten(0, 1)[None], of[None, :, 0])[0]
        truth = torch.arange(n_way, device=of.device).repeat_interleave(of.shape[1] - 1)
        right.append((distances.argmin(1) == truth).float().mean())
    return torch.stack(right).mean().item()


def spread_within(features: Tensor) -> float:
    """Return the root mean squared distance of images to their class's mean, from `[n_classes, n_images, d]`.

    Boutin et al. 2022 call it diversity. Divided by that of real classes, it is 1 if generated images of a class vary
    as much as real ones.
    """
    centred = features - features.mean(1, keepdim=True)
    n = features.shape[1]
    return (centred.square().sum(2).sum(1) / (n - 1)).mean().sqrt().item()


def nearest_distance(x: Tensor, others: Tensor) -> Tensor:
    """Return for each image of x `[n, …]` the root mean squared pixel difference to the nearest of `others`, `[n]`."""
    x, others = x.flatten(1), others.flatten(1)
    nearest = [torch.cdist(chunk, others).amin(1) for chunk in x.split(256)]
    return torch.cat(nearest) / x.shape[1] ** 0.5
