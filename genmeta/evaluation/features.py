"""The in-domain feature network that generated images are measured with: no weights from elsewhere, no download."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmeta.data.cache import cache_folder, save_whole
from genmeta.episode import EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.metric import ProtoNet
from genmeta.models.backbones import Conv4
from genmeta.rng import make_rng
from genmeta.tasks.elastic import Elastic
from genmeta.tasks.real import RealTasks
from genmeta.tasks.redrawn import Redraw, RedrawnTasks, SingleImageTasks
from genmeta.tasks.render import render
from genmeta.tasks.sampler import TaskPool, TaskSampler

HIDDEN, WAYS, SHOTS, QUERIES = 64, 20, 1, 3


@dataclass(frozen=True)
class FeatureNetwork:
    """A frozen embedding of images of the meta-train classes.

    Attributes:
        network: images `[n, C, H, W]` in [0, 1] to features `[n, d]`.
        n_steps: how long it was trained.
        learner: what it was trained as; `UMTRA` used no labels, `ProtoNet on pseudo-classes` those that were found.
    """

    network: nn.Module
    n_steps: int
    learner: str = "ProtoNet"

    def __call__(self, images: Tensor) -> Tensor:
        """Return features `[n, d]` of images `[n, C, H, W]` in [0, 1], computed in chunks on the images' device."""
        network = self.network.to(images.device)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return torch.cat([network(chunk) for chunk in images.float().split(256)])

    @cached_property
    def hash(self) -> str:
        """16 hex digits of SHA-256 over the weights."""
        digest = hashlib.sha256()
        for value in self.network.state_dict().values():
            digest.update(value.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def name(self) -> str:
        """What it is, for reports: two reports compare only if it is the same."""
        return f"Conv4-{HIDDEN} {self.learner}, {self.n_steps} steps, weights {self.hash}"


@torch.inference_mode(False)  # Lightning validates in it, and nothing made in it can be trained
@torch.enable_grad()
def feature_network(
    images: Tensor, pool: TaskPool, key: str, n_steps: int, single_images: bool = False
) -> FeatureNetwork:
    """Return the feature network of some classes' images, trained now or earlier (it is kept in the cache folder).

    A Conv4 ProtoNet (Snell et al., NeurIPS 2017) on episodes of these images with rotations as extra classes: 20 ways,
    1 shot, 3 queries, Adam with learning rate 1e-3 that falls to 0. Without labels each image is a class, and its
    queries are elastic deformations of it (UMTRA). The same images give the same network.

    Args:
        images: of the table, uint8 `[N, C, H, W]`.
        pool: the classes, with the table rows of each that may be seen.
        key: what these rows follow from (data set, split, share held out): a part of the file's name in the cache.
        n_steps: training steps.
        single_images: whether each class of the pool is one image.

    Raises:
        UserError: there are fewer than 2 classes with 2 images, or images below 16 pixels, or no square ones.
    """
    if n_steps < 1:
        raise UserError(f"data.feature_steps must be at least 1, found {n_steps}")
    _, c, h, w = images.shape
    if h != w:
        raise UserError(
            f"the feature network that generated images are measured with needs square images, found {h}×{w}"
        )
    if single_images:
        shape = EpisodeShape(min(WAYS, len(pool.counts)), SHOTS, 1)
        tasks: TaskSampler = RedrawnTasks(SingleImageTasks(rotations=True), Redraw(0, Elastic()), which="query")
    else:
        pool = _with_several_images(pool)
        shape = EpisodeShape(min(WAYS, len(pool.counts)), SHOTS, min(QUERIES, int(pool.counts.min()) - SHOTS))
        tasks = RealTasks(rotations=True)
    assert pool.rows is not None
    some = pool.rows[:: max(1, len(pool.rows) // 1000)]
    digest = hashlib.sha256(pool.rows.numpy().tobytes() + images.index_select(0, some).numpy().tobytes())
    kind = "single images/" if single_images else ""
    recipe = f"{key}/{kind}{shape}/{c},{h},{w}/{n_steps}/{pool.counts.tolist()}/{digest.hexdigest()}"
    path = cache_folder() / f"features-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.pt"
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn by the global generator
        torch.manual_seed(0)
        learner = ProtoNet(Conv4(c, HIDDEN, h))
    if path.is_file():
        try:
            learner.backbone.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception:  # damaged, or of another version: make it again
            path.unlink()
    if not path.is_file():
        print(f"features   training the network that generated images are measured with ({n_steps} steps)", flush=True)
        _train(learner, images, tasks, pool, shape, n_steps)
        save_whole(learner.backbone.state_dict(), path)
    return FeatureNetwork(
        learner.backbone.requires_grad_(False).eval(), n_steps, "UMTRA" if single_images else "ProtoNet"
    )


def _with_several_images(pool: TaskPool) -> TaskPool:
    """Return the classes of a pool that episodes can be drawn of."""
    assert pool.rows is not None
    usable = (pool.counts > SHOTS).nonzero().flatten()
    if len(usable) < 2:
        raise UserError(
            f"the network that generated images are measured with needs 2 classes with {SHOTS + 1} images to train on, "
            f"found {len(usable)}"
        )
    rows = pool.rows.split(pool.counts.tolist())
    return TaskPool.of_rows([rows[number] for number in usable.tolist()], pool.group_ids[usable])


def _train(
    learner: ProtoNet, images: Tensor, tasks: TaskSampler, pool: TaskPool, shape: EpisodeShape, n_steps: int
) -> None:
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    for step in range(n_steps):
        batch = render(tasks.sample(pool, shape, 1, step, make_rng("features", step)), images)
        loss = F.cross_entropy(learner(batch).flatten(0, 1), batch.query_y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
