"""All numbers and pictures of an exploration of a trained generator. Writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from genmeta.evaluation.audit import within_and_between
from genmeta.explore.clusters import METHODS, agreement, cluster
from genmeta.explore.drawing import bars, scatter, sheet
from genmeta.explore.lines import SHARES, change_of_image, principal_changes, strips, traversals
from genmeta.explore.maps import PrincipalAxes, tsne, umap
from genmeta.explore.units import ACTIVE, active_units, activity, kl_per_dimension
from genmeta.models.checkpoint import LatentModel
from genmeta.rng import make_rng

N_STRIPS = 6
N_DIRECTIONS = 8
STEPS = tuple(float(number) for number in range(-4, 5))
"""Places along a traversal, in standard deviations of the codes along it."""
_N_PROBES = 16  # codes at which the change of the image is measured; fewer where a code has many dimensions
_MOST_DIMENSIONS = 1024  # beyond it is not measured: it takes two images for each dimension and probe


@dataclass(frozen=True)
class ExploredImages:
    """The real images of an exploration.

    Attributes:
        images: float32 `[n, C, H, W]` in [0, 1].
        classes: number of each image's class, int64 `[n]`, non-decreasing.
        class_names, groups, parts: of each class.
        seen: for each class, whether the generator was trained on it.
    """

    images: Tensor
    classes: Tensor
    class_names: tuple[str, ...]
    groups: tuple[str, ...]
    parts: tuple[str, ...]
    seen: tuple[bool, ...]

    def kinds(self) -> dict[str, tuple[tuple[str, ...], Tensor]]:
        """Return by title (class, group, part, seen) the names of the kinds, and the kind of each image `[n]`."""
        seen = tuple("seen by the generator" if one else "not seen" for one in self.seen)
        kinds = {"class": (self.class_names, self.classes)}
        for title, kind_of_class in (("group", self.groups), ("part", self.parts), ("seen", seen)):
            names = tuple(dict.fromkeys(kind_of_class))
            numbers = torch.tensor([names.index(name) for name in kind_of_class])
            kinds[title] = (names, numbers[self.classes])
        return kinds

    def first_of(self, classes: Sequence[int]) -> Tensor:
        """Return the first image of each of some classes, `[k, C, H, W]`."""
        return torch.stack([self.images[int((self.classes == number).nonzero()[0])] for number in classes])


@dataclass
class Findings:
    """The results of an exploration.

    Attributes:
        numbers: plain values, for `report.json`.
        pictures: by name, with a sentence that explains the picture.
        maps: coordinates `[n, 2]` of the images.
        clusters: by name, the number of each image's cluster, int64 `[n]`.
        skipped: parts that this generator cannot have, and why.
    """

    numbers: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, tuple[Image.Image, str]] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    clusters: dict[str, Tensor] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


@torch.no_grad()
def explore(model: LatentModel, explored: ExploredImages, with_tsne: bool = False, with_umap: bool = False) -> Findings:
    """Look into a generator; the same generator and images give the same findings.

    With encoder and decoder: clusters, maps, strips, traversals, units. Without encoder: strips between codes of the
    prior, and traversals along directions that change the image most. A redrawer: unseen images drawn again.

    Raises:
        UserError: UMAP is asked for and not installed.
    """
    findings = Findings()
    if "encoder" in model.networks:
        mean, log_var = encode(model, explored.images)
        _maps_and_clusters(findings, explored, mean, with_tsne, with_umap)
        if "decoder" in model.networks:
            _strips(findings, model, explored, mean)
            _traversals(findings, model, mean)
        change, n = None, _n_probes(model)
        if "decoder" in model.networks and n:
            change = change_of_image(model.decode, mean[:: max(1, len(mean) // n)][:n])
        elif "decoder" in model.networks:
            findings.skipped.append(f"the change of a pixel per unit: {_too_many(model)}")
        _units(findings, mean, log_var, change)
    elif "decoder" in model.networks:
        findings.skipped += ["maps, clusters, active units, strips between real images: the generator has no encoder"]
        _without_encoder(findings, model)
    else:
        findings.skipped += [
            "maps, clusters, active units, strips, traversals of encodings: the generator draws given images again; "
            "its codes say how, not what"
        ]
        _redrawn(findings, model, explored)
    return findings


def encode(model: LatentModel, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log variance of the codes, each `[n, latent_dim]`, of images `[n, C, H, W]`, in chunks."""
    means, log_vars = zip(*(model.encode(chunk) for chunk in images.split(256)), strict=True)
    return torch.cat(means).float(), torch.cat(log_vars).float()


def _maps_and_clusters(
    findings: Findings, explored: ExploredImages, mean: Tensor, with_tsne: bool, with_umap: bool
) -> None:
    axes = PrincipalAxes.of(mean)
    findings.maps["PCA"] = axes.project(mean)
    if with_tsne:
        findings.maps["t-SNE"] = tsne(mean)
    if with_umap:
        findings.maps["UMAP"] = umap(mean)
    kinds = explored.kinds()
    classes, groups = kinds["class"][1], kinds["group"][1]
    n_classes, n_groups = len(explored.class_names), len(kinds["group"][0])
    table = []
    for n_clusters in sorted({n_groups, round((n_groups * n_classes) ** 0.5), n_classes}):
        for method in METHODS:
            if 1 < n_clusters <= len(mean):
                clusters = cluster(mean, n_clusters, method)
                findings.clusters[f"{n_clusters} clusters, {method}"] = clusters
                row = {"method": method, "clusters": n_clusters}
                for kind, truth in (("class", classes), ("group", groups)):
                    row |= {f"{kind} {name}": value for name, value in agreement(clusters, truth).items()}
                table.append(row)
    findings.numbers["clusters"] = table
    unit = (2 * mean.shape[1]) ** 0.5
    within, between = within_and_between(mean, classes)
    findings.numbers["distances"] = {"within_classes": within / unit, "between_classes": between / unit}
    findings.numbers["principal_shares"] = axes.shares.tolist()
    panels = {kind: kinds[kind] for kind in ("group", "part", "class")}
    if findings.clusters:
        name, clusters = next(iter(findings.clusters.items()))
        panels[name] = (tuple(str(number) for number in range(int(clusters.max()) + 1)), clusters)
    for name, points in findings.maps.items():
        caption = "The encodings of real images (posterior means) in two dimensions"
        if name == "PCA":
            caption += f", {100 * float(axes.shares[:2].sum()):.0f} % of their variance"
        findings.pictures[f"map-{name.lower()}"] = (scatter(name, points, panels), f"{caption}.")


def _strips(findings: Findings, model: LatentModel, explored: ExploredImages, mean: Tensor) -> None:
    pairs = _pairs(len(explored.class_names))
    firsts = torch.tensor(
        [int((explored.classes == number).nonzero()[0]) for number in range(len(explored.class_names))]
    )
    class_means = torch.stack([mean[explored.classes == number].mean(0) for number in range(len(explored.class_names))])
    shares = torch.tensor(SHARES)
    columns = ["image", *(f"{share:g}" for share in SHARES), "image"]
    marked = [1 + SHARES.index(0), 1 + SHARES.index(1)]
    for name, codes, what in (
        ("strips-images", mean[firsts], "between the encodings of two real images (left and right)"),
        ("strips-classes", class_means, "between the mean encodings of two classes (an image of each left and right)"),
    ):
        rows, names = [], []
        for start, end in pairs:
            ends = explored.first_of([start, end])
            for spherical in (False, True):
                strip = strips(codes[[start]], codes[[end]], shares, spherical)[0]
                rows.append(torch.cat([ends[:1], model.decode(strip), ends[1:]]))
                label = f"{explored.class_names[start]} - {explored.class_names[end]}"
                names.append("  spherical" if spherical else label)
        picture = sheet(torch.stack(rows), names, columns, marked)
        caption = (
            f"Decoded codes {what}, on a line and on a circle: 0 and 1 (framed) are the ends, beyond is extrapolated."
        )
        findings.pictures[name] = (picture, caption)


def _pairs(n: int) -> list[tuple[int, int]]:
    """Return pairs of different numbers below n, always the same ones, `N_STRIPS` at most."""
    order = torch.randperm(n, generator=make_rng("explore", "pairs")).tolist()
    return [(order[i], order[i + 1]) for i in range(0, min(2 * N_STRIPS, n - 1), 2)]


def _traversals(findings: Findings, model: LatentModel, mean: Tensor) -> None:
    axes = PrincipalAxes.of(mean)
    n = min(N_DIRECTIONS, mean.shape[1])
    # the image nearest to the mean: a decoded mean is blurred, a decoded image is not
    nearest = (mean - axes.mean).norm(dim=1).argmin()
    names = [f"{number + 1}: {100 * float(axes.shares[number]):.0f} %" for number in range(n)]
    for name, start, what in (
        ("traversals-mean", axes.mean, "from the mean of all encodings"),
        ("traversals-image", mean[nearest], "from the encoding of the image nearest to that mean"),
    ):
        codes = traversals(start, axes.directions[:n], axes.deviations[:n], torch.tensor(STEPS))
        images = model.decode(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])
        findings.pictures[name] = (
            sheet(images, names, [f"{step:g}" for step in STEPS], [STEPS.index(0)]),
            f"Along the principal directions of the encodings (their share of the variance), {what}, in standard "
            f"deviations.",
        )


def _n_probes(model: LatentModel) -> int:
    return 0 if model.latent_dim > _MOST_DIMENSIONS else max(2, min(_N_PROBES, 2048 // model.latent_dim))


def _too_many(model: LatentModel) -> str:
    return f"codes have {model.latent_dim} dimensions, more than {_MOST_DIMENSIONS}"


def _units(findings: Findings, mean: Tensor, log_var: Tensor, change: Tensor | None) -> None:
    variance, kl = activity(mean), kl_per_dimension(mean, log_var)
    panels = {"mean KL (nats)": kl, "variance of the posterior mean": variance}
    table: dict[str, list[Any]] = {
        "kl": kl.tolist(),
        "variance_of_mean": variance.tolist(),
        "active": (variance > ACTIVE).tolist(),
    }
    if change is not None:
        per_unit = change.diagonal().clamp(min=0).sqrt()
        panels["change of a pixel per unit (root mean square)"] = per_unit
        table["change_of_pixel"] = per_unit.tolist()
    findings.numbers["units"] = table
    findings.numbers["active_units"] = active_units(mean)
    findings.pictures["units"] = (
        bars(panels, {"variance of the posterior mean": ACTIVE}),
        f"What each latent dimension carries: {active_units(mean)} of {mean.shape[1]} are active (variance of the "
        f"posterior mean over images above {ACTIVE}, the dashed line).",
    )


def _without_encoder(findings: Findings, model: LatentModel) -> None:
    rng = make_rng("explore", "codes")
    ends = model.prior.sample(2, N_STRIPS, rng=rng)
    rows, names = [], []
    for number in range(N_STRIPS):
        for spherical in (False, True):
            codes = strips(ends[0, [number]], ends[1, [number]], torch.tensor(SHARES), spherical)[0]
            rows.append(model.decode(codes))
            names.append("spherical" if spherical else "linear")
    marked = [SHARES.index(0), SHARES.index(1)]
    findings.pictures["strips-prior"] = (
        sheet(torch.stack(rows), names, [f"{share:g}" for share in SHARES], marked),
        "Decoded codes between two draws from the prior: 0 and 1 (framed) are the draws, beyond is extrapolated.",
    )
    if not _n_probes(model):
        findings.skipped.append(f"the directions that change the image most: {_too_many(model)}")
        return
    metric = change_of_image(model.decode, model.prior.sample(_n_probes(model), rng=rng))
    directions, changes = principal_changes(metric)
    n = min(N_DIRECTIONS, len(directions))
    start, spread = model.prior.sample(1, rng=rng)[0], torch.full((n,), model.prior.spread)
    codes = traversals(start, directions[:n], spread, torch.tensor(STEPS))
    images = model.decode(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])
    findings.pictures["traversals-prior"] = (
        sheet(images, _names(n), [f"{step:g}" for step in STEPS], [STEPS.index(0)]),
        "From a draw of the prior along the directions that change the image most, in units of the prior's spread.",
    )
    _changes(findings, metric, changes)


def _redrawn(findings: Findings, model: LatentModel, explored: ExploredImages) -> None:
    rng = make_rng("explore", "codes")
    unseen = [number for number, seen in enumerate(explored.seen) if not seen]
    usable = unseen or list(range(len(explored.seen)))
    chosen = [usable[i] for i in torch.linspace(0, len(usable) - 1, min(12, len(usable))).round().long().tolist()]
    images = explored.first_of(chosen)
    codes = model.prior.sample(8, len(chosen), rng=rng)
    drawn = torch.stack([images, *(model.redraw(images, z) for z in codes)])
    which = "that the generator has not seen" if unseen else "(the generator has seen all of them)"
    names = ["image", *(f"code {number + 1}" for number in range(len(codes)))]
    short = [str(number + 1) for number in range(len(chosen))]
    findings.pictures["redrawn"] = (
        sheet(drawn, names, short),
        f"Images of classes {which}, and drawn again with codes of the prior: "
        f"{', '.join(explored.class_names[i] for i in chosen)}.",
    )
    n_probes = _n_probes(model)
    if not n_probes:
        findings.skipped.append(f"the directions that change the image most: {_too_many(model)}")
        return
    probes = explored.images[torch.linspace(0, len(explored.images) - 1, n_probes).round().long()]
    repeated = probes.repeat_interleave(model.latent_dim, 0)
    metric = change_of_image(lambda z: model.redraw(repeated, z), model.prior.sample(n_probes, rng=rng))
    directions, changes = principal_changes(metric)
    n = min(N_DIRECTIONS, len(directions))
    along = traversals(torch.zeros(model.latent_dim), directions[:n], torch.ones(n), torch.tensor(STEPS)).flatten(0, 1)
    for number in range(min(2, len(chosen))):
        same = images[[number]].expand(len(along), -1, -1, -1)
        rows = model.redraw(same, along).unflatten(0, (n, len(STEPS)))
        findings.pictures[f"directions-{number + 1}"] = (
            sheet(rows, _names(n), [f"{step:g}" for step in STEPS], [STEPS.index(0)]),
            f"One image of {explored.class_names[chosen[number]]} drawn again along the directions of the code that "
            f"change it most, in standard deviations of the prior.",
        )
    _changes(findings, metric, changes)


def _changes(findings: Findings, metric: Tensor, changes: Tensor) -> None:
    per_unit = metric.diagonal().clamp(min=0).sqrt()
    findings.numbers["units"] = {"change_of_pixel": per_unit.tolist()}
    findings.numbers["principal_changes"] = changes.tolist()
    findings.pictures["units"] = (
        bars({"change of a pixel per unit (root mean square)": per_unit}, {}),
        "How much a step along each latent dimension changes the image.",
    )


def _names(n: int) -> list[str]:
    return [f"direction {number + 1}" for number in range(n)]
