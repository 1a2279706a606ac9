"""Registration with a hand-made prior: the control for every learned registration. Nothing is trained."""

import torch
from torch import Tensor
from torch.func import grad
from torch.nn import functional as F

from genmeta.episode import EpisodeBatch
from genmeta.errors import UserError, require_positive
from genmeta.learners.learner import Learner
from genmeta.models.registration import affine_displacement, bending, enlarge, gaussian_blur, identity_grid
from genmeta.models.search import Adam

# coarse to fine: control points a side (0: an affine map alone) and blur, in pixels of a 28-pixel image
LEVELS = ((0, 4.0), (4, 2.0), (7, 1.0))


class BendingRegistration(Learner):
    """Logits are minus the energy of moving the support image onto the query, plus that of the way back.

    Distortable templates as of Yu et al. (arXiv 2201.08815) at their simplest: an affine map and a bicubic field of
    displacements minimise the squared error of blurred images, a share of their ink, plus `stiffness` times the bending
    energy (Rueckert et al. 1999) plus `affine_cost` times the squared size of the affine map, by Adam, under less and
    less blur. After each level only the better part of the classes goes on, each query by itself (inductive); the
    others keep their order below them.

    Args:
        steps: of Adam at each level.
        candidates: classes that go on after the first and the second level.
        stiffness: weight of `log(1 + bending energy)`.
        affine_cost: weight of the affine map's size.
        step_size: of Adam, in half widths.
        chunk: pairs at a time, for the cache's sake.

    Raises:
        UserError: a size is out of range.
    """

    compiles = False

    def __init__(
        self,
        steps: int = 30,
        candidates: tuple[int, int] = (10, 5),
        stiffness: float = 0.02,
        affine_cost: float = 0.1,
        step_size: float = 0.04,
        chunk: int = 256,
    ) -> None:
        super().__init__()
        require_positive("BendingRegistration", steps=steps, chunk=chunk, candidates=min(candidates))
        if stiffness < 0 or affine_cost < 0 or step_size <= 0:
            raise UserError(
                f"BendingRegistration: stiffness and affine_cost must be at least 0, step_size above 0; "
                f"found {stiffness}, {affine_cost}, {step_size}"
            )
        self.steps, self.candidates, self.chunk = steps, tuple(candidates), chunk
        self.stiffness, self.affine_cost, self.step_size = stiffness, affine_cost, step_size

    def forward(self, batch: EpisodeBatch) -> Tensor:
        return torch.stack([self._task(batch, task) for task in range(len(batch))])

    def _task(self, batch: EpisodeBatch, task: int) -> Tensor:
        s, q, labels = batch.support_x[task], batch.query_x[task], batch.support_y[task]
        n_query = len(q)
        logits = torch.zeros(n_query, batch.n_way, device=q.device, dtype=q.dtype)
        alive = torch.ones(n_query, batch.n_way, dtype=torch.bool, device=q.device)
        found: Tensor | None = None  # displacements so far, of living pairs
        pairs = (torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
        for level, (cells, sigma) in enumerate(LEVELS):
            query, image = (alive[:, labels]).nonzero(as_tuple=True)
            if found is not None:  # those of the pairs that go on
                key, old = query * len(s) + image, pairs[0] * len(s) + pairs[1]
                found = found[:, torch.searchsorted(old, key)]
            pairs = (query, image)
            energy, found = self._both_ways(s[image], q[query], cells, sigma, found)
            if level + 1 == len(LEVELS):
                energy = self.judged(s[image], q[query], energy, found)
            best = logits.new_full((n_query, batch.n_way), torch.inf)
            best.view(-1).scatter_reduce_(0, query * batch.n_way + labels[image], energy, "amin")
            # those that fell out earlier stay below all that went on (by more than a tie), query by query
            worst = torch.where(alive, best, -torch.inf).amax(1, keepdim=True) + 0.1
            dead = logits.masked_fill(alive, -torch.inf)
            logits = torch.where(alive, -best, dead - dead.amax(1, keepdim=True) - worst)
            if level < len(self.candidates) and level + 1 < len(LEVELS):
                k = min(self.candidates[level], batch.n_way)
                alive = torch.zeros_like(alive).scatter(1, logits.topk(k, 1).indices, True)
        return logits

    def judged(self, a: Tensor, b: Tensor, energy: Tensor, displacements: Tensor) -> Tensor:
        """Return the energies `[n]` that classes are compared by in the end: as they are.

        Args:
            a, b: images `[n, C, H, W]`.
            energy: of moving a onto b plus b onto a, `[n]`.
            displacements: of both ways, `[2, n, H, W, 2]`.
        """
        return energy

    def moved(self, support: Tensor, query: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        displacement: Tensor | None = None
        for level, (cells, sigma) in enumerate(LEVELS, 1):
            _, displacement = self.register(support, query, cells, sigma, displacement)
            places = identity_grid(support) + displacement
            found[f"level {level}"] = F.grid_sample(support, places, align_corners=False)
        return found

    def energies(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the energies `[n]` of moving images a onto b plus b onto a, both `[n, C, H, W]` in [0, 1]."""
        energy, displacement = self._both_ways(a, b, *LEVELS[0], None)
        for cells, sigma in LEVELS[1:]:
            energy, displacement = self._both_ways(a, b, cells, sigma, displacement)
        return energy

    def _both_ways(self, a: Tensor, b: Tensor, cells: int, sigma: float, start: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the sum of energies `[n]` and the displacements `[2, n, H, W, 2]` of a onto b and b onto a."""
        there = [None] * len(a.split(self.chunk)) if start is None else start.split(self.chunk, 1)
        energies, displacements = [], []
        for x, y, s in zip(a.split(self.chunk), b.split(self.chunk), there, strict=True):
            both = [
                self.register(x, y, cells, sigma, None if s is None else s[0]),
                self.register(y, x, cells, sigma, None if s is None else s[1]),
            ]
            energies.append(both[0][0] + both[1][0])
            displacements.append(torch.stack([both[0][1], both[1][1]]))
        return torch.cat(energies), torch.cat(displacements, 1)

    def register(
        self, moving: Tensor, fixed: Tensor, cells: int, sigma: float, start: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return energies `[n]` and displacements `[n, H, W, 2]` of images `[n, C, H, W]` moved onto others.

        Args:
            moving, fixed: in [0, 1].
            cells: control points a side of the field, 0 for an affine map alone.
            sigma: blur in pixels of a 28-pixel image.
            start: displacement that is added to, `[n, H, W, 2]`; none by default.
        """
        n, _, height, width = moving.shape
        sigma = sigma * width / 28
        a, b = gaussian_blur(moving, sigma), gaussian_blur(fixed, sigma)
        ink = (a.square() + b.square()).flatten(1).sum(1).clamp(min=1e-6)
        identity = identity_grid(moving)
        before = torch.zeros_like(identity) if start is None else start

        def displacement(p: Tensor) -> Tensor:
            affine = p[:, :6].view(-1, 2, 3)
            moved = before + affine_displacement(identity, affine)
            if cells:
                field = p[:, 6:].view(-1, 2, cells, cells)
                moved = moved + enlarge(field, height, width).permute(0, 2, 3, 1)
            return moved

        def energy(p: Tensor) -> Tensor:
            d = displacement(p)
            drawn = F.grid_sample(a, identity + d, align_corners=False)
            error = (drawn - b).square().flatten(1).sum(1) / ink
            smooth = torch.log1p(bending(d)) if cells else 0.0
            return error + self.stiffness * smooth + self.affine_cost * p[:, :6].square().sum(1)

        p = moving.new_zeros(n, 6 + 2 * cells**2)
        slope = grad(lambda p: energy(p).sum())
        adam = Adam(p)
        for t in range(self.steps):  # the last steps are small
            p = adam.step(p, slope(p), self.step_size * min(1.0, 2 * (1 - t / self.steps)))
        return energy(p), displacement(p)
