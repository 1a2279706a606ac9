"""What a run takes for the classes of its training images: those of the data, none, or pseudo-classes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from genmeta.data.cache import cache_folder, save_whole
from genmeta.data.seen import Origin, Seen
from genmeta.data.table import ImageTable, gather
from genmeta.data.unlabelled import rows_by_pixels
from genmeta.errors import UserError
from genmeta.learners.aligned import AlignedRelation
from genmeta.learners.bending import BendingRegistration
from genmeta.learners.checkpoint import load_learner
from genmeta.models.checkpoint import KEY, read_checkpoint
from genmeta.models.registration import scales
from genmeta.tasks.neighbours import mutual_ranks, nearest_pairs, pseudo_classes

_CHUNK = 128  # pairs that are registered at a time, for the cache's sake


@dataclass(frozen=True)
class TrainClasses:
    """The classes that a run trains on.

    Attributes:
        rows: table rows of each class, int64 `[n]` each.
        group_ids: int64 `[n_classes]`, the group of each, numbers from 0 on.
    """

    rows: Sequence[Tensor]
    group_ids: Tensor


@dataclass(frozen=True)
class MinedLabels:
    """Pseudo-classes: images that an embedding and a registration find near each other, seen from both.

    The embedding shortlists the nearest `neighbours` of each image. Each of these pairs is registered both ways, and
    what remains is its distance. Average linkage of the mutual ranks of these distances makes the pseudo-classes
    (`genmeta.tasks.neighbours`); k-means of their mean features makes `n_groups` groups of similar ones, in the place
    of alphabets. No class id of a training image is used. The same images and checkpoints give the same pseudo-classes,
    which are kept in the cache folder.

    Args:
        embedding: checkpoint of a learner with a backbone, such as `configs/learner/contrastive.yaml`.
        judge: checkpoint of an `AlignedRelation`, whose energies are the distances; by default those of
            `BendingRegistration`, which is trained on nothing.
        neighbours: of each image on the shortlist.
        cut: largest mean rank within a pseudo-class: about the images that a class is expected to have.
        smallest, largest: images of a pseudo-class.
        n_groups: of pseudo-classes.
        steps: of the registration by hand, at each of its levels.

    Raises:
        UserError: a number is out of range.
    """

    embedding: str
    judge: str | None = None
    neighbours: int = 12
    cut: float = 20.0
    smallest: int = 5
    largest: int = 30
    n_groups: int = 5
    steps: int = 15

    def __post_init__(self) -> None:
        if min(self.neighbours, self.n_groups, self.steps) < 1 or not 2 <= self.smallest <= self.largest:
            raise UserError(
                f"data.labels: neighbours, n_groups and steps must be at least 1 and 2 <= smallest <= largest; found "
                f"{self.neighbours}, {self.n_groups}, {self.steps} and {self.smallest}, {self.largest}"
            )
        if self.cut <= 0:
            raise UserError(f"data.labels.cut must be above 0, found {self.cut}")

    def check(self) -> None:
        """Raise UserError if a checkpoint is not there."""
        for option, path in self.checkpoints.items():
            if not Path(path).is_file():
                raise UserError(f"data.labels.{option}: checkpoint {path}: no such file")

    def check_trained_on(self, origin: Origin) -> None:
        """Raise UserError if a checkpoint is of another split or other pictures, or was trained with class labels."""
        of_run = replace(origin, labels="mined")
        for option, path in self.checkpoints.items():
            trained_on = Seen.read(read_checkpoint(path).get(KEY, {}), path).origin
            what = f"data.labels.{option}: checkpoint {path}"
            trained_on.check(of_run, what, "this run uses", "train it on the same split and pictures")

    @property
    def checkpoints(self) -> dict[str, str]:
        """The paths that are given, by option."""
        given = {"embedding": self.embedding, "judge": self.judge}
        return {option: path for option, path in given.items() if path is not None}

    def classes(self, table: ImageTable, rows: Tensor) -> TrainClasses:
        """Return the pseudo-classes of table rows, int64 `[n]`, whose order must tell nothing of their classes.

        Raises:
            UserError: a checkpoint does not fit, or fewer than two pseudo-classes are found.
        """
        if len(rows) <= self.neighbours:
            raise UserError(f"data.labels.neighbours is {self.neighbours}, but there are {len(rows)} training images")
        images = gather(table.images, rows)
        path = cache_folder() / f"classes-{self._recipe(images)}.pt"
        try:
            places, groups = torch.load(path, weights_only=True)
        except Exception:  # there is none, or it is damaged: make it
            places, groups = self._mined(images.float() / 255)
            save_whole((places, groups), path)
        return TrainClasses([rows[place] for place in places], groups)

    def _recipe(self, images: Tensor) -> str:
        digest = hashlib.sha256(repr((self.neighbours, self.cut, self.smallest, self.largest)).encode())
        digest.update(repr((self.n_groups, self.steps)).encode())
        digest.update(images.numpy().tobytes())
        for path in self.checkpoints.values():
            digest.update(Path(path).read_bytes())
        return digest.hexdigest()[:16]

    @torch.inference_mode(False)
    @torch.no_grad()
    def _mined(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        features = self._features(images)
        pairs = nearest_pairs(features, self.neighbours)
        print(f"labels     registering {len(pairs)} pairs of {len(images)} images, without their classes", flush=True)
        distances = self._distances(images, pairs)
        ranks = mutual_ranks(pairs, distances, len(images))
        places = pseudo_classes(ranks, self.cut, self.smallest, self.largest)
        if len(places) < 2:
            raise UserError(
                f"data.labels: found {len(places)} pseudo-classes of {self.smallest} to {self.largest} images; a "
                f"lower smallest or another cut than {self.cut} would find more"
            )
        n_images = sum(map(len, places))
        print(f"labels     {len(places)} pseudo-classes of {n_images} of these images", flush=True)
        return places, _groups(torch.stack([features[place].mean(0) for place in places]), self.n_groups)

    def _features(self, images: Tensor) -> Tensor:
        backbone = getattr(load_learner(self.embedding).learner, "backbone", None)
        if backbone is None:
            raise UserError(f"data.labels.embedding: the learner of {self.embedding} has no backbone")
        return F.normalize(torch.cat([backbone(chunk) for chunk in images.split(256)]), dim=1)

    def _distances(self, images: Tensor, pairs: Tensor) -> Tensor:
        """Return what registration leaves of each pair, `[p]`, a onto b and b onto a."""
        if self.judge is None:
            by_hand = BendingRegistration(steps=self.steps)
            return torch.cat([by_hand.energies(images[i], images[j]) for i, j in _in_chunks(pairs)])
        learner = load_learner(self.judge).learner
        if not isinstance(learner, AlignedRelation):
            raise UserError(
                f"data.labels.judge: {self.judge} is a {type(learner).__name__}; expected the checkpoint of an "
                f"AlignedRelation (configs/learner/aligned.yaml)"
            )
        blurred = torch.cat([scales(chunk) for chunk in images.split(256)])
        return torch.cat([learner.energies(blurred[i], blurred[j]) for i, j in _in_chunks(pairs)])


Labels = Literal["all", "none"] | MinedLabels
"""`all`: the classes of the data. `none`: every training image is a class of its own. Else pseudo-classes."""


def train_classes(labels: Labels, table: ImageTable, class_rows: Sequence[Tensor], group_ids: Tensor) -> TrainClasses:
    """Return what a run takes for its training classes.

    But for `all`, they are the same whatever class a training image is said to be of.

    Args:
        labels: what to take.
        table: of the images.
        class_rows: table rows of each train class of the data.
        group_ids: int64, their groups.

    Raises:
        UserError: pseudo-classes cannot be found.
    """
    if labels == "all":
        return TrainClasses(class_rows, group_ids)
    rows = rows_by_pixels(table.images, torch.cat(list(class_rows)))
    if labels == "none":
        return TrainClasses(list(rows.split(1)), torch.zeros(len(rows), dtype=torch.long))
    assert isinstance(labels, MinedLabels)
    return labels.classes(table, rows)


def _groups(means: Tensor, n_groups: int) -> Tensor:
    from sklearn.cluster import KMeans  # here: slow to import

    n_groups = min(n_groups, len(means))
    return torch.from_numpy(KMeans(n_groups, n_init=5, random_state=0).fit(means.double().numpy()).labels_).long()


def _in_chunks(pairs: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(chunk[:, 0], chunk[:, 1]) for chunk in pairs.split(_CHUNK)]
