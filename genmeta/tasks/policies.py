"""How codes `z` are arranged into classes: a policy draws classes, then the codes of their images. Tensors only.

With latent dim d, `E|z_i - z_j|² = 2d` under N(0, I), and `2d · spread²` under another prior; spreads and separations
are given in units of its root (`LatentSpace.unit`), so that settings carry over between generators.

A class is described by a dictionary of tensors with the same leading axes, among them `centre`, `[..., d]`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from genmeta.errors import UserError
from genmeta.rng import make_rng
from genmeta.tasks.prior import GaussianMixture
from genmeta.tasks.sampling import draw_distinct
from genmeta.tasks.space import Encodings, LatentSpace, move

Classes = dict[str, Tensor]
Anchors = Literal["prior", "images"]


class LatentPolicy(ABC):
    """How classes lie in latent space, and how the images of a class lie around it."""

    @property
    def uses_encodings(self) -> bool:
        """Whether it needs encodings of the real images (False unless overridden)."""
        return False

    @property
    def around_images(self) -> bool:
        """Whether its classes are drawn around single images (`place`), so that it can vary the images of a class."""
        return False

    def prepared(self, space: LatentSpace) -> "LatentPolicy":
        """Return the policy with what is fitted once to the space (itself unless overridden)."""
        return self

    @abstractmethod
    def classes(self, space: LatentSpace, n: int, rng: torch.Generator) -> Classes:
        """Draw `n` classes: tensors `[n, ...]`, `centre` `[n, d]` among them."""

    @abstractmethod
    def instances(self, classes: Classes, n_images: int, space: LatentSpace, rng: torch.Generator) -> Tensor:
        """Return codes `[task, way, n_images, d]` of the images of classes with leading axes `[task, way]`."""


@dataclass(frozen=True, kw_only=True)
class _Anchored(LatentPolicy):
    """Policies with an anchor for each class.

    Args:
        anchors: `prior`: a code of the prior; `images`: the encoding of a real image, which needs an encoder.
    """

    anchors: Anchors = "prior"

    @property
    def uses_encodings(self) -> bool:
        return self.anchors == "images"

    @property
    def around_images(self) -> bool:
        return self.anchors == "images"

    def classes(self, space: LatentSpace, n: int, rng: torch.Generator) -> Classes:
        if self.anchors == "prior":
            return {"centre": space.prior.sample(n, rng=rng)}
        return draw_images(space, n, rng)


def draw_images(space: LatentSpace, n: int, rng: torch.Generator) -> Classes:
    """Draw `n` distinct real images as classes: their encodings as centres, and their `place` among the encodings."""
    assert space.encodings is not None
    n_encoded = len(space.encodings.means)
    # more classes than images: then an image comes more than once
    place = torch.cat([torch.randperm(n_encoded, generator=rng) for _ in range(-(-n // n_encoded))])[:n]
    return {"centre": space.encodings.means[place], "place": place}


@dataclass(frozen=True)
class PriorNoise(_Anchored):
    """LASIUM-N: `z_c + N(0, sigma² I)`.

    Khodadadeh et al., "Unsupervised Meta-Learning through Latent-Space Interpolation in Generative Models" (LASIUM),
    ICLR 2021, as the next two.

    Args:
        sigma: standard deviation of the noise per dimension, in units of the prior's spread (1 for N(0, I)); the paper
            uses 0.5 with GANs.
    """

    sigma: float = 0.5

    def __post_init__(self) -> None:
        _check_at_least_0("PriorNoise", sigma=self.sigma)

    def instances(self, classes: Classes, n_images: int, space: LatentSpace, rng: torch.Generator) -> Tensor:
        centre = classes["centre"][..., None, :]
        noise = torch.randn(*centre.shape[:-2], n_images, space.dim, generator=rng)
        return centre + self.sigma * space.prior.spread * noise


@dataclass(frozen=True)
class RandomOther(_Anchored):
    """LASIUM-RO: `z_c + alpha (v - z_c)`, a fresh `v ~ p(z)` for every image.

    Args:
        alpha: how far to go towards the other code, in [0, 1]; the paper uses 0.2 to 0.4.
        spherical: go along the great circle.
    """

    alpha: float = 0.3
    spherical: bool = False

    def __post_init__(self) -> None:
        _check_alpha("RandomOther", self.alpha)

    def instances(self, classes: Classes, n_images: int, space: LatentSpace, rng: torch.Generator) -> Tensor:
        centre = classes["centre"][..., None, :]
        others = space.prior.sample(*centre.shape[:-2], n_images, rng=rng)
        return move(centre.expand_as(others), others, self.alpha, self.spherical)


@dataclass(frozen=True)
class OtherClass(_Anchored):
    """LASIUM-OC: `z_c + alpha (z_c' - z_c)`, with c' going round the other classes of the episode.

    The images of a class start at a random other class and take the others in turn, so that any way and any number of
    images work; with more images than other classes the step shrinks by one part in four each time round, or the
    same image would come twice.

    Args:
        alpha: how far to go towards the other anchor, in [0, 1); the paper uses 0.4 to 0.6, and at 0.5 two classes
            share the midpoint between them.
        spherical: go along the great circle.
    """

    alpha: float = 0.4
    spherical: bool = False

    def __post_init__(self) -> None:
        _check_alpha("OtherClass", self.alpha)

    def instances(self, classes: Classes, n_images: int, space: LatentSpace, rng: torch.Generator) -> Tensor:
        anchors = classes["centre"]
        n_tasks, n_way, dim = anchors.shape
        # turn k of class c goes to class (c + 1 + order[k mod (way - 1)]) mod way: never to c itself
        order = torch.rand(n_tasks, n_way, n_way - 1, generator=rng).argsort(2)
        turn = torch.arange(n_images)
        offset = order[:, :, turn % (n_way - 1)] + 1
        other = (torch.arange(n_way)[:, None] + offset) % n_way
        targets = anchors.gather(1, other.flatten(1)[..., None].expand(-1, -1, dim)).unflatten(1, (n_way, n_images))
        reach = self.alpha * 0.75 ** (turn // (n_way - 1))
        # which of the images are support must not depend on the reach
        shuffle = torch.rand(n_tasks, n_way, n_images, generator=rng).argsort(2)
        codes = move(anchors[:, :, None].expand_as(targets), targets, reach[:, None], self.spherical)
        return codes.gather(2, shuffle[..., None].expand(-1, -1, -1, dim))


@dataclass(frozen=True)
class EncodedNoise(LatentPolicy):
    """`mean + sigma · (posterior's standard deviation) · noise` around the encoding of one real image: VAE form of N.

    Args:
        sigma: 1 samples `q(z | x)`.
        keep_real: the first image of a class, a support image, is the real image itself.
    """

    sigma: float = 1.0
    keep_real: bool = False

    def __post_init__(self) -> None:
        _check_at_least_0("EncodedNoise", sigma=self.sigma)

    @property
    def uses_encodings(self) -> bool:
        return True

    @property
    def around_images(self) -> bool:
        return True

    def classes(self, space: LatentSpace, n: int, rng: torch.Generator) -> Classes:
        return draw_images(space, n, rng)

    def instances(self, classes: Classes, n_images: int, space: LatentSpace, rng: torch.Generator) -> Tensor:
        assert space.encodings is not None
        centre, scale = (x[classes["place"]][..., None, :] for x in (space.encodings.means, space.encodings.scales))
        return centre + self.sigma * scale * torch.randn(*centre.shape[:-2], n_images, space.dim, generator=rng)


@dataclass(frozen=True)
class TransferredVariation(_Anchored):
    """`anchor + scale · (z_j - z_i)`: differences of two images of one real class carried to another class.

    Each image gets a pair of its own. In the spirit of Schwartz et al., "Delta-encoder", NeurIPS 2018, and Antoniou et
    al., "Data Augmentation Generative Adversarial Networks", 2017.

    Args:
        scale: of the differences.
    """

    scale: float = 1.0
    anchors: Anchors = field(default="images", kw_only=True)

    def __post_init__(self) -> None:
        _check_at_least_0("TransferredVariation", scale=self.scale)

    @property
    def uses_encodings(self) -> bool:
        return True

    def prepared(self, space: LatentSpace) -> "TransferredVariation":
        assert space.encodings is not None
        _check_several_images(self, space.encodings)
        return self

    def instances(self, classes: Classes, n_images: int, space: LatentSpace, rng: torch.Generator) -> Tensor:
        assert space.encodings is not None
        encodings, centre = space.encodings, classes["centre"][..., None, :]
        donors = (encodings.counts >= 2).nonzero().flatten()
        shape = (*centre.shape[:-2], n_images)
        donor = donors[torch.randint(len(donors), shape, generator=rng)]
        pair = encodings.firsts[donor][..., None] + draw_distinct(encodings.counts[donor], 2, rng)
        first, second = encodings.means[pair].unbind(-2)
        return centre + self.scale * (second - first)


@dataclass(frozen=True)
class ClassInterpolation(LatentPolicy):
    """The class at `lam · A + (1 - lam) · B` of two real classes, `lam` in (0, 1) drawn once a class.

    Pairs of images are interpolated, so that variation within the class is inherited: MLTI (Yao et al., "Meta-Learning
    with Fewer Tasks through Task Interpolation", ICLR 2022) in latent space.

    Args:
        low, high: range of `lam`.
        spherical: interpolate along the great circle.
    """

    low: float = 0.3
    high: float = 0.7
    spherical: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < 1:
            raise UserError(
                f"ClassInterpolation: 0 < low <= high < 1 is needed, found low={self.low}, high={self.high}; "
                f"ClassExtrapolation goes outside"
            )

    @property
    def uses_encodings(self) -> bool:
        return True

    def prepared(self, space: LatentSpace) -> LatentPolicy:
        assert space.encodings is not None
        if len(space.encodings.counts) < 2:
            raise UserError(f"{type(self).__name__} needs two real classes")
        _check_several_images(self, space.encodings)
        return self

    def classes(self, space: LatentSpace, n: int, rng: torch.Generator) -> Classes:
        assert space.encodings is not None
        means = space.encodings.class_means
        pair = draw_distinct(torch.full((n,), len(means)), 2, rng)
        lam = self.low + (self.high - self.low) * torch.rand(n, 1, generator=rng)
        centre = move(means[pair[:, 1]], means[pair[:, 0]], lam, self.spherical)
        return {"centre": centre, "pair": pair, "lam": lam}

    def instances(self, classes: Classes, n_images: int, space: LatentSpace, rng: torch.Generator) -> Tensor:
        assert space.encodings is not None
        a, b = (space.encodings.means[space.encodings.places(classes["pair"][..., k], n_images, rng)] for k in (0, 1))
        return move(b, a, classes["lam"][..., None], self.spherical)


@dataclass(frozen=True)
class ClassExtrapolation(ClassInterpolation):
    """The same with `lam` outside [0, 1]: from B through A and beyond.

    Args:
        low, high: range of `lam`, above 1 (below 0 is the same with A and B exchanged).
    """

    low: float = 1.2
    high: float = 1.6

    def __post_init__(self) -> None:
        if not 1 < self.low <= self.high:
            raise UserError(f"ClassExtrapolation: 1 < low <= high is needed, found low={self.low}, high={self.high}")


@dataclass(frozen=True)
class ClassGaussian(LatentPolicy):
    """Samples of a Gaussian fitted to the encodings of each real class.

    Covariances are shrunk towards the mean covariance of all classes, since a class has fewer images than a code has
    dimensions.

    Args:
        shrinkage: share of the common covariance, in (0, 1].
        scale: of the deviations from the mean.
    """

    shrinkage: float = 0.5
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.shrinkage <= 1:
            raise UserError(f"ClassGaussian: shrinkage must be in (0, 1], found {self.shrinkage}")
        _check_at_least_0("ClassGaussian", scale=self.scale)

    @property
    def uses_encodings(self) -> bool:
        return True

    def prepared(self, space: LatentSpace) -> LatentPolicy:
        assert space.encodings is not None
        encodings = space.encodings
        _check_several_images(self, encodings)
        centred = encodings.means - encodings.class_means[encodings.classes]
        freedom = (encodings.counts - 1).clamp(min=1)
        own = centred * ((1 - self.shrinkage) / freedom[encodings.classes]).sqrt()[:, None]
        common = centred * (self.shrinkage / freedom.sum()).sqrt()
        if len(common) > space.dim:  # the same covariance from fewer rows
            common = torch.linalg.qr(common, mode="r").R
        jitter = 1e-4 * (centred.square().sum(0) / freedom.sum()).mean().clamp(min=1e-8)  # a class may lie in a plane
        factors = (self.scale * own, self.scale * common, self.scale * float(jitter.sqrt()))
        return _ClassGaussians(encodings, *factors)

    def classes(self, space: LatentSpace, n: int, rng: torch.Generator) -> Classes:
        raise RuntimeError("prepared(space) has the classes")

    def instances(self, classes: Classes, n_images: int, space: LatentSpace, rng: torch.Generator) -> Tensor:
        raise RuntimeError("prepared(space) has the instances")


@dataclass(frozen=True)
class _ClassGaussians(LatentPolicy):
    """The Gaussian of each class, by rows whose outer products sum to its covariance.

    There is no `[d, d]` matrix of each class: codes of a flow have as many dimensions as an image has pixels.

    Attributes:
        encodings: their means, class by class.
        own: rows of each class, where its encodings are, `[n, d]`.
        common: rows that all classes share, `[k, d]`.
        jitter: standard deviation of what each dimension has besides.
    """

    encodings: Encodings
    own: Tensor
    common: Tensor
    jitter: float

    def classes(self, space: LatentSpace, n: int, rng: torch.Generator) -> Classes:
        component = torch.randint(len(self.encodings.counts), (n,), generator=rng)
        return {"centre": self.encodings.class_means[component], "component": component}

    def instances(self, classes: Classes, n_images: int, space: LatentSpace, rng: torch.Generator) -> Tensor:
        component = classes["component"]
        shape = (*component.shape, n_images)
        common = torch.randn(*shape, len(self.common), generator=rng) @ self.common
        jitter = self.jitter * torch.randn(*shape, space.dim, generator=rng)
        rows, has = self._rows(component)
        own = (torch.randn(*shape, rows.shape[-1], generator=rng) * has[..., None, :]) @ self.own[rows]
        return classes["centre"][..., None, :] + own + common + jitter

    def _rows(self, component: Tensor) -> tuple[Tensor, Tensor]:
        """Return places of the rows of classes `[...]`, `[..., most]`, and which of them there are."""
        counts = self.encodings.counts[component][..., None]
        turn = torch.arange(int(self.encodings.counts.max())).expand(*component.shape, -1)
        return self.encodings.firsts[component][..., None] + turn % counts, turn < counts


@dataclass(frozen=True)
class MixtureComponents(LatentPolicy):
    """Samples of the components of a Gaussian mixture over the codes.

    Args:
        n_components: Gaussians with diagonal covariances, fitted by expectation maximisation to all encodings, whatever
            their class; 0: the components of the generator's own prior, which of a class-conditional generator are the
            classes.
        scale: of the deviations from the mean.
    """

    n_components: int = 100
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.n_components < 0 or self.n_components == 1:
            raise UserError(f"MixtureComponents: n_components must be 0 or at least 2, found {self.n_components}")
        _check_at_least_0("MixtureComponents", scale=self.scale)

    @property
    def uses_encodings(self) -> bool:
        return self.n_components > 0

    def prepared(self, space: LatentSpace) -> LatentPolicy:
        if self.n_components == 0:
            prior = space.prior
            if len(prior.weights) < 2:
                raise UserError(
                    "MixtureComponents: n_components is 0, but the generator's prior has a single component; set it to "
                    "the number of Gaussians to fit"
                )
            scaled = GaussianMixture(prior.weights, prior.means, self.scale * prior.scales)
            return _Components(scaled, type(self).__name__)
        from sklearn.mixture import GaussianMixture as Fitted

        assert space.encodings is not None
        codes = space.encodings.means.double().numpy()
        if len(codes) < self.n_components:
            raise UserError(
                f"MixtureComponents: n_components is {self.n_components}, but there are {len(codes)} images; use "
                "fewer components"
            )
        fitted = Fitted(self.n_components, covariance_type="diag", reg_covar=1e-4, random_state=0).fit(codes)
        weights, means, variances = (
            torch.from_numpy(x).float() for x in (fitted.weights_, fitted.means_, fitted.covariances_)
        )
        return _Components(GaussianMixture(weights, means, self.scale * variances.sqrt()), type(self).__name__)

    def classes(self, space: LatentSpace, n: int, rng: torch.Generator) -> Classes:
        raise RuntimeError("prepared(space) has the classes")

    def instances(self, classes: Classes, n_images: int, space: LatentSpace, rng: torch.Generator) -> Tensor:
        raise RuntimeError("prepared(space) has the instances")


@dataclass(frozen=True)
class _Components(LatentPolicy):
    """Classes that are the components of a mixture, each as likely as any other."""

    mixture: GaussianMixture
    name: str

    def classes(self, space: LatentSpace, n: int, rng: torch.Generator) -> Classes:
        component = torch.randint(len(self.mixture.weights), (n,), generator=rng)
        return {"centre": self.mixture.means[component], "component": component}

    def instances(self, classes: Classes, n_images: int, space: LatentSpace, rng: torch.Generator) -> Tensor:
        component = classes["component"]
        return self.mixture.sample_of(component.flatten(), n_images, rng).unflatten(0, component.shape)


def draw_classes(
    policy: LatentPolicy, space: LatentSpace, n_tasks: int, n_way: int, separation: float, rng: torch.Generator
) -> Classes:
    """Draw classes, all pairs of centres of an episode at least `separation · space.unit` apart and no two the same.

    Classes that are too close to an earlier one are drawn again.

    Returns:
        Tensors `[n_tasks, n_way, ...]`.

    Raises:
        UserError: no such classes were found. `possible_separation` finds what can be had.
    """
    drawn = {k: v.unflatten(0, (n_tasks, n_way)) for k, v in policy.classes(space, n_tasks * n_way, rng).items()}
    nearest = max(separation * space.unit, 1e-6)
    earlier = torch.ones(n_way, n_way, dtype=torch.bool).tril(-1)
    tasks = torch.arange(n_tasks)  # that may have classes too close
    for _ in range(_ROUNDS):
        centres = drawn["centre"][tasks]
        distances = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
        close = ((distances < nearest) & earlier).any(2)
        task, way = close.nonzero(as_tuple=True)
        if len(task) == 0:
            return drawn
        fresh = policy.classes(space, len(task), rng)
        for key, values in fresh.items():
            drawn[key][tasks[task], way] = values
        tasks = tasks[close.any(1)]
    raise UserError(
        f"LatentTasks: no {n_way} classes with separation {separation} found in {space.dim} dimensions after "
        f"{_ROUNDS} draws; 1 is the typical distance of two codes of the prior, use less for the option separation"
    )


def possible_separation(policy: LatentPolicy, space: LatentSpace, n_way: int, separation: float) -> float:
    """Return the separation, or, where classes lie closer together, the first of its halves that can be had with ease.

    How far apart classes can lie depends on the generator: encodings of one that is hardly trained lie close together,
    and a policy's default must not fail for that. Above 1, the typical distance of two codes of the prior, a separation
    is a mistake, and is not made less.

    Raises:
        UserError: the separation is above 1 and cannot be had, or no two classes differ.
    """
    wanted = separation
    while True:
        try:
            if wanted == separation:
                draw_classes(policy, space, 16, n_way, wanted, torch.Generator().manual_seed(0))
            else:  # with room: the episodes of the training come from other streams, and may be less lucky
                draw_classes(policy, space, 64, n_way, wanted, make_rng("separation"))
            return wanted
        except UserError:
            if separation > 1:
                raise
            if wanted == 0:
                raise UserError(
                    f"LatentTasks: {n_way} different classes were not found in this latent space; lower n_way, or have "
                    "more train classes"
                ) from None
            wanted = wanted / 2 if wanted > separation / 100 else 0.0


_ROUNDS = 300  # redraws of classes before giving up: a separation that needs more is a mistake


def _check_alpha(policy: str, alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise UserError(f"{policy}: alpha must be in [0, 1], found {alpha}")


def _check_at_least_0(policy: str, **values: float) -> None:
    for name, value in values.items():
        if value < 0:
            raise UserError(f"{policy}: {name} must be at least 0, found {value}")


def _check_several_images(policy: LatentPolicy, encodings: Encodings) -> None:
    """Raise UserError if no class has two images: all images that the policy draws of a class would be one."""
    if int(encodings.counts.max()) < 2:
        raise UserError(
            f"{type(policy).__name__} needs a class with two images, but each has one (data.labels none, or "
            f"data.low_data.images_per_class 1); RandomOther and MixtureComponents need no classes"
        )
