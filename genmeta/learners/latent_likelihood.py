"""Analysis by synthesis: how likely is the query as another drawing of the support image's character?

A VAE conditioned on an image (`genmeta.models.redraw`) says how two drawings of one character differ. Here its latent
space is *inferred* in, for classes that nothing has been trained on: the code that draws the query from the support
image is sought, and what it cannot explain, plus how unusual it is, is the distance. Lake, Salakhutdinov and Tenenbaum,
"Human-level concept learning through probabilistic program induction", Science 2015, classify in this way with a model
of pen strokes; section "One-shot classification" of the supplement has the score in both directions and its background.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad

from genmeta.episode import EpisodeBatch, EpisodeShape
from genmeta.errors import UserError, require_positive
from genmeta.learners.learner import Learner, check_image_shape
from genmeta.models.checkpoint import FromCheckpoint, load_generator
from genmeta.models.redraw import ERROR_WEIGHT, DeformationRedrawer, PairEncoder, blurred_error
from genmeta.rng import make_rng


class LatentLikelihood(FromCheckpoint, Learner):
    """Logits are `ℓ(q|s) + ℓ(s|q)`, with `ℓ(x'|x) = max_z log p(x' | x, z) + log p(z)`, less what any image would get.

    The search begins at the mean of q(z | x, x') (amortised) and goes on with `steps` steps of Adam, all pairs at once,
    for the `candidates` support images that are best so far; the likelihood of the others stays the amortised one, a
    lower bound of it. `-log p(x' | x, z)` is the error that the VAE was trained with, `ERROR_WEIGHT` times the squared
    error of blurred images; constants that do not depend on the pair are left out. From the sum the log of the mean
    likelihood of `n_background` training images, drawn from the support image by amortised codes, is taken away: a
    support image that explains everything, such as an empty one, explains nothing. Each query is judged alone
    (inductive).

    Args:
        checkpoint: of a `vae_deformation`, of the same split. A learner's checkpoint carries the networks; then
            `checkpoint` is None, and `redrawer` and `encoder` are given.
        steps: of Adam on the code; 0 uses the amortised code as it is.
        candidates: support images that the search goes on with, for each query.
        step_size: of Adam, in units of the prior's standard deviation.
        n_background: training images in the normaliser; 0 for none.
        chunk: pairs at a time, for the cache's sake.
        redrawer, encoder: in place of `checkpoint`, its networks.

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
    ) -> None:
        super().__init__()
        require_positive("LatentLikelihood", chunk=chunk, candidates=candidates)
        if steps < 0 or n_background < 0 or step_size <= 0:
            raise UserError(
                f"LatentLikelihood: steps and n_background must be at least 0, step_size above 0; "
                f"found {steps}, {n_background}, {step_size}"
            )
        self.checkpoint = checkpoint
        self.without_file: dict[str, Any] = {}
        if checkpoint is not None:
            model = load_generator(checkpoint)
            self.origin = model.origin
            found = dict(model.networks.items())
            redrawer, encoder = found.get("redrawer"), found.get("pair_encoder")
            networks = {"redrawer": redrawer, "encoder": encoder}
            self.without_file = {
                "checkpoint": None,
                **{r: _description(n) for r, n in networks.items() if n is not None},
            }
        if not isinstance(redrawer, DeformationRedrawer) or not isinstance(encoder, PairEncoder):
            raise UserError(
                f"LatentLikelihood: checkpoint: {checkpoint} has no redrawer by deformation with its encoder of pairs; "
                f"expected the checkpoint of make train-vae VAE=vae_deformation"
            )
        # in training mode as any new network; they work alike in both
        self.redrawer, self.encoder = redrawer.requires_grad_(False).train(), encoder.requires_grad_(False).train()
        self.steps, self.candidates, self.step_size = steps, candidates, step_size
        self.n_background, self.chunk = n_background, chunk
        self.register_buffer("background", torch.zeros(n_background, *self.redrawer.image_shape))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of the images."""
        return self.redrawer.image_shape

    def check(self, shape: EpisodeShape, image_shape: tuple[int, int, int]) -> None:
        check_image_shape(self, image_shape)

    def fit_statistics(self, images: Tensor, labels: Tensor) -> None:
        """Choose the background images, at random but the same for everyone."""
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
                found = self._both_ways(s[best.flatten()], q.repeat_interleave(best.shape[1], 0), self.steps)
                score = score.scatter(1, best, found.view(best.shape))
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
        """Return `max_z log p(other | x, z) + log p(z)` of pairs of images `[n, C, H, W]`, `[n]`, in nats."""
        parts = zip(x.split(self.chunk), other.split(self.chunk), strict=True)
        return -torch.cat([self.infer(a, b, steps)[1] for a, b in parts])

    def infer(self, x: Tensor, other: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Return the code that draws `other` from `x`, `[n, latent_dim]`, for pairs of images `[n, C, H, W]`, and minus
        the log of its likelihood and prior, `[n]`.
        """
        z = self.encoder(x, other)[0].to(x.dtype)
        m, v = torch.zeros_like(z), torch.zeros_like(z)
        best, lowest = z, torch.full((len(z),), torch.inf, device=z.device, dtype=z.dtype)

        def total(code: Tensor) -> tuple[Tensor, Tensor]:
            energy = self._energy(x, other, code)
            return energy.sum(), energy

        for t in range(1, steps + 1):  # Kingma and Ba, "Adam", ICLR 2015, algorithm 1
            g, energy = grad(total, has_aux=True)(z)
            best, lowest = _better(z, energy, best, lowest)
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g.square()
            z = z - self.step_size * (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)).sqrt() + 1e-8)
        return _better(z, self._energy(x, other, z), best, lowest)

    def _energy(self, x: Tensor, other: Tensor, z: Tensor) -> Tensor:
        """Return `-log p(other | x, z) - log p(z)` less constants, `[n]`."""
        return ERROR_WEIGHT * blurred_error(self.redrawer.redraw(x, z), other) + 0.5 * z.square().sum(1)

    def _background_likelihood(self, s: Tensor) -> Tensor:
        """Return the log of the mean likelihood of the background images as drawn from each support image, `[n]`."""
        if not self.n_background:
            return s.new_zeros(len(s))
        background = self.background.to(s)
        x = s.repeat_interleave(len(background), 0)
        other = background.repeat(len(s), 1, 1, 1)
        each = self.log_likelihood(x, other, 0).view(len(s), len(background))
        return each.logsumexp(1) - torch.log(torch.tensor(float(len(background)), device=s.device, dtype=s.dtype))


def _better(z: Tensor, energy: Tensor, best: Tensor, lowest: Tensor) -> tuple[Tensor, Tensor]:
    better = energy < lowest
    return torch.where(better[:, None], z, best), torch.where(better, energy, lowest)


def _description(network: nn.Module) -> dict[str, Any]:
    """Return what builds a network again, without its weights."""
    class_path = f"{type(network).__module__}.{type(network).__qualname__}"
    return {"class_path": class_path, "init_args": network.init_args}
