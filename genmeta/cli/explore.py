"""`genmeta explore`: look into a trained generator's latent space."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from genmeta.cli.data import read_data_yaml
from genmeta.cli.labels import kind_of
from genmeta.cli.lineage import describe_inputs, log_inputs
from genmeta.cli.newest import newest
from genmeta.cli.options import OptionParser
from genmeta.cli.tracking import tracking
from genmeta.data.source import outline_and_table
from genmeta.data.splits import PARTS, SPLITS_FOLDER, Split, load_split
from genmeta.data.table import ImageTable
from genmeta.errors import UserError
from genmeta.experiments.run_folder import CONFIG_FILE, SPLIT_FILE, RunSettings, claim_out
from genmeta.explore import exploration
from genmeta.explore.exploration import ExploredImages, Findings
from genmeta.explore.maps import check_umap
from genmeta.explore.page import page
from genmeta.models.checkpoint import LatentModel, load_generator
from genmeta.modules.generative_module import evenly
from genmeta.shipped import find_config

N_IMAGES = 4000
"""The largest number of images, evenly spaced over the classes: with more, t-SNE and the page are slow."""


def explore(args: Sequence[str]) -> None:
    """Look into a trained generator: clusters, maps, strips, traversals, and which dimensions carry information. Writes
    PNG files, `report.json`, and one interactive page.

    Raises:
        UserError: an option or a file is wrong.
    """
    options = _parse(args)
    if options.umap:
        check_umap()
    options.ckpt = options.ckpt or str(newest({"generator", "redrawer"}))
    model = load_generator(options.ckpt)
    source, wanted = read_data_yaml(_data_yaml(options))
    *_, (table, split) = outline_and_table(source, wanted)
    model.check_image_shape(table.image_shape)
    explored = look(table, split, _seen_classes(model, split, table), options.part)
    folder = claim_out(options.out, "explore")
    print(
        f"looking     {len(explored.images)} images of {len(explored.class_names)} classes, generator {options.ckpt}",
        flush=True,
    )
    facts = _facts(options, model, explored, split)
    for fact in facts:
        print(f"            {fact}", flush=True)
    findings = exploration.explore(model, explored, options.tsne, options.umap)
    facts += [f"Left out: {reason}." for reason in findings.skipped]
    tables = _tables(findings)
    _write(folder, options, model, split, explored, findings, facts, tables)
    _track(options, folder, model, split, findings, tables)
    for reason in findings.skipped:
        print(f"left out    {reason}")
    for row in tables.get("Clusters", []):
        print("            " + "  ".join(cell.rjust(16 if number == 0 else 13) for number, cell in enumerate(row)))
    if "active_units" in findings.numbers:
        print(f"            {findings.numbers['active_units']} of {model.latent_dim} latent dimensions are active")
    print(f"page        {folder / 'explore.html'}")
    print(f"numbers     {folder / 'report.json'}, pictures {folder}/*.png", flush=True)


def _parse(args: Sequence[str]) -> argparse.Namespace:
    parser = OptionParser("genmeta explore", explore.__doc__)
    add = parser.add_argument
    add("--ckpt", help="a generator's checkpoint (default: the newest under runs)")
    add("--data", help="name of a YAML in configs/data, or its path (default: config.yaml of the checkpoint's run)")
    add(
        "--part",
        nargs="+",
        default=["train", "val"],
        choices=[*PARTS, "all"],
        help="parts of the split (default train val, so that nobody looks at test classes by accident)",
    )
    add("--out", help="folder for the results (default runs/explore/<next number>)")
    add("--tsne", action="store_true", help="a t-SNE map too (about 10 s for 3,000 images)")
    add("--umap", action="store_true", help="a UMAP map too, if umap-learn is installed")
    add("--wandb", default="auto", choices=["auto", "online", "offline", "off"], help="Weights & Biases")
    return parser.parse_args(args)


def _data_yaml(options: argparse.Namespace) -> Path:
    if options.data:
        return find_config("data", options.data)
    path = Path(options.ckpt).parent.parent / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"--data: not given, and there is no {path} that names the generator's data")
    return path


def look(table: ImageTable, split: Split, seen: Sequence[str], parts: Sequence[str]) -> ExploredImages:
    """Return the images of some parts of a split (`all`: of every part), at most `N_IMAGES`.

    Args:
        table: all images.
        split: the classes of each part.
        seen: names of the classes that the generator was trained on.
        parts: of the split.

    Raises:
        UserError: there are fewer than two classes.
    """
    chosen = PARTS if "all" in parts else tuple(part for part in PARTS if part in parts)
    part_of = {int(number): part for part in chosen for number in split.class_ids(table, part)}
    if len(part_of) < 2:
        raise UserError(f"--part: {' '.join(chosen)} has {len(part_of)} class of split '{split.name}'; give more parts")
    order = sorted(part_of)
    rows = evenly((torch.isin(table.class_ids, torch.tensor(order))).nonzero().flatten(), N_IMAGES)
    # with many classes, evenly spaced rows may skip some
    kept, classes = table.class_ids[rows].unique(return_inverse=True)
    numbers = kept.tolist()
    return ExploredImages(
        images=table.images.index_select(0, rows).float() / 255,
        classes=classes,
        class_names=tuple(table.class_names[number] for number in numbers),
        groups=tuple(table.groups[number] for number in numbers),
        parts=tuple(part_of[number] for number in numbers),
        seen=tuple(table.class_names[number] in set(seen) for number in numbers),
    )


def _seen_classes(model: LatentModel, split: Split, table: ImageTable) -> tuple[str, ...]:
    """Return the names of the table's classes that the generator was trained on.

    The split is that of the data if the generator has it too, else the one that its run wrote, or the committed one of
    its name.

    Raises:
        UserError: its split is not found, or is of other pictures.
    """
    if model.split_hash == split.hash:
        _check_pictures(model, table)
        return split.train
    for path in (model.path.parent.parent / SPLIT_FILE, SPLITS_FOLDER / f"{model.split_name}.json"):
        if path.is_file():
            own = load_split(str(path))
            # of a split with fewer images only the run's file has the hash: it does not follow from class names
            if model.split_hash in (own.hash, json.loads(path.read_text(encoding="utf-8")).get("hash")):
                if own.dataset != table.name:
                    return ()
                if not (own.left_out or split.left_out):  # else some of the data set's pictures are missing
                    _check_pictures(model, table)
                return own.train
    model.check_split(split)
    return ()


def _check_pictures(model: LatentModel, table: ImageTable) -> None:
    """Raise UserError if the table has other pictures under the same class names than the generator was trained on.

    Otherwise the page would be wrong about what the generator has seen.
    """
    model.origin.check(
        replace(model.origin, content=table.content),
        f"generator {model.path}",
        "these data have",
        "give its own with --data",
    )


def _facts(options: argparse.Namespace, model: LatentModel, explored: ExploredImages, split: Split) -> list[str]:
    n_seen = sum(explored.seen)
    unseen = [name for name, seen in zip(explored.class_names, explored.seen, strict=True) if not seen]
    some = ", ".join(dict.fromkeys(g for g, seen in zip(explored.groups, explored.seen, strict=True) if not seen))
    return [
        f"Generator {options.ckpt}: {', '.join(model.networks)}; codes of {model.latent_dim} dimensions; trained on "
        f"split '{model.split_name}' ({model.split_hash}).",
        f"Data: {len(explored.images)} images of parts {', '.join(dict.fromkeys(explored.parts))} of split "
        f"'{split.name}' ({split.hash}).",
        f"The generator has seen {n_seen} of the {len(explored.seen)} classes"
        + (f"; not seen are {len(unseen)} of {some}." if unseen else "."),
    ]


def _tables(findings: Findings) -> dict[str, list[list[str]]]:
    tables: dict[str, list[list[str]]] = {}
    if clusters := findings.numbers.get("clusters"):
        tables["Clusters"] = [list(clusters[0]), *([_cell(value) for value in row.values()] for row in clusters)]
    if units := findings.numbers.get("units"):
        rows = zip(*units.values(), strict=True)
        tables["Latent dimensions"] = [
            ["dimension", *(name.replace("_", " ") for name in units)],
            *([str(number), *(_cell(value) for value in row)] for number, row in enumerate(rows)),
        ]
    return tables


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _write(
    folder: Path,
    options: argparse.Namespace,
    model: LatentModel,
    split: Split,
    explored: ExploredImages,
    findings: Findings,
    facts: list[str],
    tables: dict[str, list[list[str]]],
) -> None:
    for name, (picture, _) in findings.pictures.items():
        picture.save(folder / f"{name}.png")
    classes = zip(explored.class_names, explored.groups, explored.parts, explored.seen, strict=True)
    content = {
        "generator": {
            "checkpoint": str(options.ckpt),
            "split": {"name": model.split_name, "hash": model.split_hash},
            "latent_dim": model.latent_dim,
            "networks": list(model.networks),
        },
        "data": {
            "split": {"name": split.name, "hash": split.hash},
            "n_images": len(explored.images),
            "classes": [dict(zip(("name", "group", "part", "seen"), one, strict=True)) for one in classes],
        },
        "skipped": findings.skipped,
        "captions": {name: caption for name, (_, caption) in findings.pictures.items()},
        **findings.numbers,
        "class_of_image": explored.classes.tolist(),
        "maps": {name: [[round(v, 5) for v in point] for point in of.tolist()] for name, of in findings.maps.items()},
        "cluster_of_image": {name: of.tolist() for name, of in findings.clusters.items()},
    }
    (folder / "report.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
    html = page(f"Latent space of {options.ckpt}", facts, explored, findings, tables)
    (folder / "explore.html").write_text(html, encoding="utf-8")


def _track(
    options: argparse.Namespace,
    folder: Path,
    model: LatentModel,
    split: Split,
    findings: Findings,
    tables: dict[str, list[list[str]]],
) -> None:
    """Send pictures, tables and the page to W&B, under `explore/`."""
    settings = RunSettings(name="explore", wandb=options.wandb)
    tags = [f"data:{split.dataset}", f"split:{split.name}", f"generator:{kind_of(model)}"]
    with tracking(settings, folder, "explore", tags) as run:
        if run is None:
            return
        import wandb

        run.config.update({"ckpt": str(options.ckpt), "data": options.data, "part": options.part})
        run.config.update({"inputs": describe_inputs({"generator": options.ckpt})})
        log_inputs(run, {"generator": options.ckpt})
        content: dict[str, Any] = {
            f"explore/{name}": wandb.Image(p, caption=c) for name, (p, c) in findings.pictures.items()
        }
        for name, rows in tables.items():
            content[f"explore/{name.lower().replace(' ', '_')}"] = wandb.Table(columns=[*rows[0]], data=rows[1:])
        content["explore/page"] = wandb.Html(str(folder / "explore.html"))
        if "active_units" in findings.numbers:
            content["explore/active_units"] = findings.numbers["active_units"]
        run.log(content)
