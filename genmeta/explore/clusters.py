"""Clusters of codes, and how well they agree with the known classes or groups of the images."""

import warnings
from typing import Literal

import torch
from torch import Tensor

Method = Literal["k-means", "Gaussian mixture"]
METHODS: tuple[Method, ...] = ("k-means", "Gaussian mixture")
_STARTS = 4  # of k-means; the best is kept
# smallest variance in a mixture, as a share of the codes' mean variance: else a component shrinks to a point
_FLOOR = 1e-3


def cluster(codes: Tensor, n_clusters: int, method: Method, seed: int = 0) -> Tensor:
    """Return the number of each code's cluster, int64 `[n]` in `[0, n_clusters)`, for codes `[n, d]`.

    k-means with k-means++ starts, or the likeliest component of a Gaussian mixture with diagonal covariances (full
    covariances would have more weights than a class has codes). Computed in float64; the same codes and seed give the
    same clusters.

    Raises:
        ValueError: there are fewer codes than clusters.
    """
    # here: scikit-learn is slow to import
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    x = codes.double().cpu().numpy()
    with warnings.catch_warnings():
        # fewer different codes than clusters, or a mixture that has not converged: the clusters are still used
        warnings.simplefilter("ignore", ConvergenceWarning)
        if method == "k-means":
            numbers = KMeans(n_clusters, n_init=_STARTS, random_state=seed).fit_predict(x)
        else:
            floor = max(_FLOOR * float(x.var(0).mean()), 1e-12)
            mixture = GaussianMixture(n_clusters, covariance_type="diag", reg_covar=floor, random_state=seed)
            numbers = mixture.fit_predict(x)
    return torch.as_tensor(numbers, dtype=torch.long)


def purity(clusters: Tensor, truth: Tensor) -> float:
    """Return the share of images that have the commonest kind of their cluster, in (0, 1].

    Manning, Raghavan and Schütze, "Introduction to Information Retrieval", 2008, eq. 16.1. It rises with the number of
    clusters, up to 1 if every image is a cluster: compare only equal numbers of clusters.
    """
    _, rows = clusters.unique(return_inverse=True)
    _, columns = truth.unique(return_inverse=True)
    counts = torch.zeros(int(rows.max()) + 1, int(columns.max()) + 1, dtype=torch.long)
    counts.index_put_((rows, columns), torch.ones_like(rows), accumulate=True)
    return counts.amax(1).sum().item() / len(clusters)


def agreement(clusters: Tensor, truth: Tensor) -> dict[str, float]:
    """Return how clusters `[n]` agree with known kinds `[n]` (classes, groups): `nmi`, `ari`, `purity`.

    `nmi`: normalised mutual information (arithmetic mean of the entropies), in [0, 1], rises with the number of
    clusters; `ari`: adjusted Rand index (Hubert and Arabie, 1985), at most 1 and 0 on average for clusters by chance.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    a, b = truth.numpy(), clusters.numpy()
    return {
        "nmi": float(normalized_mutual_info_score(a, b)),
        "ari": float(adjusted_rand_score(a, b)),
        "purity": purity(clusters, truth),
    }
