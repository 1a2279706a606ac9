"""Maps: codes in two dimensions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from genmeta.errors import UserError


@dataclass(frozen=True)
class PrincipalAxes:
    """Principal component analysis of codes.

    Attributes:
        mean: `[d]`.
        directions: orthonormal rows `[d, d]`, the widest first; the largest entry of each is positive, so that the same
            codes give the same signs.
        deviations: standard deviation along each, `[d]`.
    """

    mean: Tensor
    directions: Tensor
    deviations: Tensor

    @classmethod
    def of(cls, codes: Tensor) -> "PrincipalAxes":
        """Return the axes of codes `[n, d]`, n of 2 or more."""
        x = codes.double()
        mean = x.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((x - mean).T, correction=1).reshape(x.shape[1], x.shape[1]))
        directions = signed(vectors.T.flip(0))
        return cls(mean.float(), directions.float(), values.flip(0).clamp(min=0).sqrt().float())

    @property
    def shares(self) -> Tensor:
        """Share of the variance along each axis, `[d]`, sum 1."""
        return self.deviations.square() / self.deviations.square().sum()

    def project(self, codes: Tensor, n: int = 2) -> Tensor:
        """Return coordinates `[m, n]` of codes `[m, d]` along the first n axes."""
        return (codes - self.mean) @ self.directions[:n].T


def signed(directions: Tensor) -> Tensor:
    """Return directions `[k, d]` with the sign that makes the largest entry of each positive."""
    largest = directions.abs().argmax(1, keepdim=True)
    return directions * directions.gather(1, largest).sign()


def tsne(codes: Tensor, seed: int = 0) -> Tensor:
    """Return t-SNE coordinates `[n, 2]` of codes `[n, d]`.

    Van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008; perplexity 30 (less for few codes), started
    from the principal axes. Distances between far points and sizes of clusters have no meaning.
    """
    from sklearn.manifold import TSNE  # here: scikit-learn is slow to import

    perplexity = min(30.0, (len(codes) - 1) / 3)
    map_of = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return torch.as_tensor(map_of.fit_transform(codes.float().cpu().numpy()))


def umap(codes: Tensor, seed: int = 0) -> Tensor:
    """Return UMAP coordinates `[n, 2]` of codes `[n, d]` (McInnes, Healy and Melville, 2018), 15 neighbours.

    Raises:
        UserError: the package is not installed.
    """
    check_umap()
    import warnings

    with warnings.catch_warnings():  # it warns that a seed makes it slower
        warnings.simplefilter("ignore")
        from umap import UMAP

        map_of = UMAP(n_neighbors=min(15, len(codes) - 1), random_state=seed)
        return torch.as_tensor(map_of.fit_transform(codes.float().cpu().numpy()))


def check_umap() -> None:
    """Raise UserError if UMAP is not installed."""
    import importlib.util

    if importlib.util.find_spec("umap") is None:
        raise UserError("--umap: the package is not installed; pip install umap-learn, or use --tsne")
