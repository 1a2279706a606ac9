"""Classes from nothing but distances: images that are near each other, seen from both, become a pseudo-class."""

import torch
from torch import Tensor


def nearest_pairs(features: Tensor, k: int) -> Tensor:
    """Return the pairs of which one is among the `k` nearest of the other by cosine, each once: int64 `[p, 2]`.

    Args:
        features: `[n, d]`, of n images; any length.
        k: neighbours of each, below n.
    """
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    pairs = []
    for start in range(0, len(unit), 1024):  # n × n similarities of large data do not fit into memory
        similarity = unit[start : start + 1024] @ unit.T
        own = torch.arange(len(similarity))
        similarity[own, start + own] = -torch.inf
        near = similarity.topk(k, 1).indices
        pairs.append(torch.stack([(start + own)[:, None].expand_as(near), near], -1).flatten(0, 1))
    return torch.cat(pairs).sort(1).values.unique(dim=0)


def mutual_ranks(pairs: Tensor, distances: Tensor, n: int, last: int = 40) -> Tensor:
    """Return `[n, n]`, symmetric: the mean of the ranks that two images have in each other's order of neighbours.

    A rank does not depend on the scale of distances, which differs from image to image: a plain stroke is near to many,
    a rich character to none (as the mutual proximity of Schnitzer et al., JMLR 2012). The nearest has rank 1; pairs
    without a distance have the rank `last`, and so have all beyond it.

    Args:
        pairs: int64 `[p, 2]`, each pair once.
        distances: `[p]`.
        n: images.
        last: largest rank.
    """
    far = torch.full((n, n), torch.inf)
    far[pairs[:, 0], pairs[:, 1]] = far[pairs[:, 1], pairs[:, 0]] = distances.float()
    k = min(last, n)
    near, order = far.topk(k, 1, largest=False)
    ranks = torch.full((n, n), float(last))
    rank = torch.arange(1, k + 1).float().expand(n, k).where(near.isfinite(), float(last))
    ranks.scatter_(1, order, rank)
    return ((ranks + ranks.T) / 2).fill_diagonal_(0)


def pseudo_classes(ranks: Tensor, cut: float, smallest: int, largest: int) -> list[Tensor]:
    """Return the clusters of average linkage, the largest first: int64, places of their images.

    Two clusters become one while the mean of `mutual_ranks` between them is at most `cut`. Clusters with fewer than
    `smallest` or more than `largest` images are left out: the former are no classes to draw episodes from, the latter
    are several.

    Args:
        ranks: `[n, n]` as `mutual_ranks` gives them.
        cut: about the number of images that a class is expected to have.
        smallest, largest: images of a pseudo-class.
    """
    from scipy.cluster.hierarchy import fcluster, linkage  # here: slow to import
    from scipy.spatial.distance import squareform

    tree = linkage(squareform(ranks.numpy(), checks=False), "average")
    labels = torch.from_numpy(fcluster(tree, cut, "distance")).long()
    clusters = [(labels == label).nonzero().flatten() for label in labels.unique()]
    kept = [cluster for cluster in clusters if smallest <= len(cluster) <= largest]
    return sorted(kept, key=lambda cluster: (-len(cluster), int(cluster[0])))
