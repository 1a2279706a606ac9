"""Analysis by synthesis: how likely is the query as another drawing of the support image's character?

A VAE conditioned on an image (`genmeta.models.redraw`) describes how two drawings of one character differ. Here it is
used for *inference* on new classes: a search finds the code that draws the query from the support image. The distance
is the error that remains, plus how unusual the code is. Lake, Salakhutdinov and Tenenbaum, "Human-level concept
learning through probabilistic program induction", Science 2015, classify in this way with a model of pen strokes;
section "One-shot classification" of the supplement has the score in both directions and its background.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import grad

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError, require_positive
from genmeta.learners.learner import Learner, check_image_shape
from genmeta.models.checkpoint import FromCheckpoint, load_generator
from genmeta.models.redraw import ERROR_WEIGHT, DeformationRedrawer, PairEncoder, twice_blurred
from genmeta.models.search import Adam, Around, gauss_newton, log_determinant
from genmeta.rng import make_rng

Search = Literal["adam", "gauss_newton"]
Role = Literal["source", "target"]


class LatentLikelihood(FromCheckpoint, Learner):
    """Logits are `ℓ(q|s) + ℓ(s|q)`, with `ℓ(x'|x) = max_z log p(x' | x, z) + log p(z)`, minus a background likelihood.

    The search begins at the mean of q(z | x, x') (the amortised code). It goes on for `steps` steps, all pairs at once,
    for the `candidates` support images that are best so far; the others keep their amortised likelihood, a lower bound.
    `-log p(x' | x, z)` is the error that the VAE was trained with, `ERROR_WEIGHT` times the squared error of blurred
    images. This is a Gaussian likelihood, so the Gauss-Newton curvature is the prior's identity plus the products of
    the drawn image's derivatives. Constants that do not depend on the pair are left out. The background is the log of
    the mean likelihood of `n_background` training images and the support image, by amortised codes; it stands for
    Bayesian program learning's log p(s). Each query is classified alone (inductive).

    Args:
        checkpoint: of a `vae_deformation`, of the same split. A learner's checkpoint carries the networks; then
            `checkpoint` is None, and `redrawer` and `encoder` are given.
        steps: of the search; 0 uses the amortised code.
        candidates: support images for which the search goes on, for each query.
        step_size: of Adam, in units of the prior's standard deviation.
        n_background: training images in the normaliser; 0 for none.
        chunk: pairs at a time, to fit into the cache.
        redrawer, encoder: the networks, instead of `checkpoint`.
        search: two steps of `gauss_newton` explain more than twenty of `adam`, and take the time of three.
        laplace: integrate over codes by Laplace's approximation instead of taking the best code: subtract half the log
            determinant of the curvature. At amortised codes the curvature is the inverse of q's variances.
        background_role: `source` draws the support image from background images; `target` draws background images from
            the support image, so that an image that explains everything, such as an empty one, gains nothing.
        coarse: blurs of the search before the one at full sharpness, one after the other, each with `steps` steps, in
            passes of a 3×3 mean: 18 adds a standard deviation of 3.5 pixels. The last search begins at their result, or
            at the amortised code if that is better.

    Attributes:
        without_file: arguments that build it again without the file.

    Raises:
        UserError: the checkpoint has no redrawer by deformation with the encoder of pairs, or a size is out of range.
    """

    background: Tensor
    compiles = False
    uses_base_classes = True

    def __init__(
        self,
        checkpoint: str | None = None,
        steps: int = 10,
        candidates: int = 5,
        step_size: float = 0.1,
        n_background: int = 0,
        chunk: int = 256,
        redrawer: nn.Module | None = None,
        encoder: nn.Module | None = None,
        search: Search = "adam",
        laplace: bool = False,
        background_role: Role = "source",
        coarse: Sequence[int] = (),
    ) -> None:
        super().__init__()
        require_positive("LatentLikelihood", chunk=chunk, candidates=candidates)
        if steps < 0 or n_background < 0 or step_size <= 0:
            raise UserError(
                f"LatentLikelihood: steps and n_background must be at least 0, step_size above 0; "
                f"found {steps}, {n_background}, {step_size}"
            )
        if any(passes < 1 for passes in coarse):
            raise UserError(
                f"LatentLikelihood: coarse: expected passes of a blur, at least 1 each, found {list(coarse)}"
            )
        for option, found, known in (("search", search, Search), ("background_role", background_role, Role)):
            if found not in get_args(known):
                raise UserError(
                    f"LatentLikelihood: {option}: expected one of {', '.join(get_args(known))}, found {found!r}"
                )
        self.checkpoint = checkpoint
        self.without_file: dict[str, Any] = {}
        if checkpoint is not None:
            model = load_generator(checkpoint)
            self.origin = model.origin
            of_model = dict(model.networks.items())
            redrawer, encoder = of_model.get("redrawer"), of_model.get("pair_encoder")
            networks = {"redrawer": redrawer, "encoder": encoder}
            self.without_file = {
                "checkpoint": None,
                **{r: _description(n) for r, n in networks.items() if n is not None},
            }
        if not isinstance(redrawer, DeformationRedrawer) or not isinstance(encoder, PairEncoder):
            raise UserError(
                f"LatentLikelihood: checkpoint: {checkpoint} has no redrawer by deformation with its encoder of pairs; "
                f"expected one of genmeta fit --config generator/vae_deformation.yaml"
            )
        # in training mode like any new network; it makes no difference to them
        self.redrawer, self.encoder = redrawer.requires_grad_(False).train(), encoder.requires_grad_(False).train()
        self.steps, self.candidates, self.step_size = steps, candidates, step_size
        self.n_background, self.chunk, self.coarse = n_background, chunk, tuple(coarse)
        self.search, self.laplace, self.background_role = search, laplace, background_role
        self.register_buffer("background", torch.zeros(n_background, *self.redrawer.image_shape))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of the images."""
        return self.redrawer.image_shape

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self, image_shape)

    def fit_statistics(self, images: Tensor, labels: Tensor) -> None:
        """Choose the background images at random, always the same ones."""
        if self.n_background > len(images):
            raise UserError(
                f"LatentLikelihood: n_background is {self.n_background}, but there are {len(images)} training images"
            )
        chosen = torch.randperm(len(images), generator=make_rng("background"))[: self.n_background]
        self.background = images[chosen].float().div(255).to(self.background)  # type: ignore[has-type]

    def forward(self, batch: EpisodeBatch) -> Tensor:
        n_tasks, n_support = batch.support_y.shape
        n_query = batch.query_y.shape[1]
        logits = []
        for task in range(n_tasks):
            s, q = batch.support_x[task], batch.query_x[task]
            first = torch.arange(n_support, device=s.device).repeat(n_query)
            second = torch.arange(n_query, device=s.device).repeat_interleave(n_support)
            score = self._both_ways(s[first], q[second], 0).view(n_query, n_support)
            if self.steps:
                best = score.topk(min(self.candidates, n_support), 1).indices
                searched = self._both_ways(s[best.flatten()], q.repeat_interleave(best.shape[1], 0), self.steps)
                score = score.scatter(1, best, searched.view(best.shape))
            score = score - self._background_likelihood(s)
            of_class = torch.full((n_query, batch.n_way, n_support), -torch.inf, device=s.device, dtype=score.dtype)
            member = batch.support_y[task][None, None].expand(n_query, batch.n_way, -1)
            mine = member == torch.arange(batch.n_way, device=s.device)[None, :, None]
            of_class = torch.where(mine, score[:, None], of_class)
            logits.append(of_class.logsumexp(2) - mine.sum(2).log())
        return torch.stack(logits)

    def moved(self, support: Tensor, query: Tensor) -> dict[str, Tensor]:
        steps = {"amortised": 0, **({"searched": self.steps} if self.steps else {})}
        return {name: self.redrawer.redraw(support, self.infer(support, query, n)[0]) for name, n in steps.items()}

    def _both_ways(self, x: Tensor, other: Tensor, steps: int) -> Tensor:
        return self.log_likelihood(x, other, steps) + self.log_likelihood(other, x, steps)

    def log_likelihood(self, x: Tensor, other: Tensor, steps: int) -> Tensor:
        """Return ℓ(other | x) of pairs of images `[n, C, H, W]`, `[n]`, in nats."""
        parts = zip(x.split(self.chunk), other.split(self.chunk), strict=True)
        return -torch.cat([self.infer(a, b, steps)[1] for a, b in parts])

    def infer(self, x: Tensor, other: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Return the code that draws `other` from `x`, `[n, latent_dim]`, for pairs of images `[n, C, H, W]`, and minus
        ℓ(other | x), `[n]`.
        """
        z, log_variance = (part.to(x.dtype) for part in self.encoder(x, other))
        if not steps:
            return z, self._energy(x, other, z) - (0.5 * log_variance.sum(1) if self.laplace else 0.0)
        features = self.redrawer.look(x)

        def search(z: Tensor, blur: int) -> tuple[Tensor, Tensor]:
            energy = partial(self._energy, x, other, blur=blur)
            if self.search == "adam":
                return _adam(energy, z, steps, self.step_size)
            return gauss_newton(partial(self._around, x, features, other, blur=blur), energy, z, steps)

        if self.coarse:
            start = z
            for blur in self.coarse:
                z, _ = search(z, blur)
            z, _ = _better(z, self._energy(x, other, z), start, self._energy(x, other, start))
        z, lowest = search(z, 0)
        if self.laplace:
            lowest = lowest + 0.5 * log_determinant(self._around(x, features, other, z).curvature)
        return z, lowest

    def _energy(self, x: Tensor, other: Tensor, z: Tensor, blur: int = 0) -> Tensor:
        """Return `-log p(other | x, z) - log p(z)` up to a constant, `[n]`, for images blurred by `blur` passes."""
        left = self.redrawer.redraw(x, z) - other
        error = (left * twice_blurred(left, blur)).flatten(1).sum(1)  # `blurred_error`, at a fifth of its time
        return ERROR_WEIGHT * error + 0.5 * z.square().sum(1)

    def _around(self, x: Tensor, features: Tensor, other: Tensor, z: Tensor, blur: int = 0) -> Around:
        """Return the energy around codes `[n, k]`, with Gauss's and Newton's curvature."""
        drawn, slopes = self.redrawer.linearised(x, features, z)
        left = drawn - other
        # half the energy's second derivative by the drawn image, times both at once: they are blurred together
        pulled = ERROR_WEIGHT * twice_blurred(torch.cat([left[:, None], slopes], 1), blur).flatten(2)
        energy = (pulled[:, 0] * left.flatten(1)).sum(1) + 0.5 * z.square().sum(1)
        gradient = 2 * (slopes.flatten(2) @ pulled[:, 0, :, None]).squeeze(2) + z
        eye = torch.eye(z.shape[1], device=z.device, dtype=z.dtype)
        return Around(energy, gradient, eye + 2 * slopes.flatten(2) @ pulled[:, 1:].mT)

    def _background_likelihood(self, s: Tensor) -> Tensor:
        """Return the log of the mean likelihood of each support image and the background images, `[n]`."""
        if not self.n_background:
            return s.new_zeros(len(s))
        background = self.background.to(s)
        x = s.repeat_interleave(len(background), 0)
        other = background.repeat(len(s), 1, 1, 1)
        pair = (other, x) if self.background_role == "source" else (x, other)
        each = self.log_likelihood(*pair, 0).view(len(s), len(background))
        return each.logsumexp(1) - torch.log(torch.tensor(float(len(background)), device=s.device, dtype=s.dtype))


def _adam(energy: Callable[[Tensor], Tensor], start: Tensor, steps: int, step_size: float) -> tuple[Tensor, Tensor]:
    """Return the best codes that Adam visits, `[n, k]`, and their energies `[n]`."""

    def total(z: Tensor) -> tuple[Tensor, Tensor]:
        each = energy(z)
        return each.sum(), each

    z, adam = start, Adam(start)
    best, lowest = start, torch.full_like(start[:, 0], torch.inf)
    for _ in range(steps):
        slope, here = grad(total, has_aux=True)(z)
        best, lowest = _better(z, here, best, lowest)
        z = adam.step(z, slope, step_size)
    return _better(z, energy(z), best, lowest)


def _better(z: Tensor, energy: Tensor, best: Tensor, lowest: Tensor) -> tuple[Tensor, Tensor]:
    better = energy < lowest
    return torch.where(better[:, None], z, best), torch.where(better, energy, lowest)


def _description(network: nn.Module) -> dict[str, Any]:
    """Return the description that rebuilds a network, without its weights."""
    class_path = f"{type(network).__module__}.{type(network).__qualname__}"
    return {"class_path": class_path, "init_args": network.init_args}
