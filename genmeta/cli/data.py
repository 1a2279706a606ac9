"""`genmeta data`: list the data sets, prepare one, show one."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from PIL import Image, ImageDraw
from torch import Tensor

from genmeta.cli.options import OptionParser
from genmeta.data.cache import cache_folder
from genmeta.data.duplicates import drop_duplicates, find_duplicates
from genmeta.data.source import CachedSource, DataSource, outline_and_table
from genmeta.data.splits import PARTS, DrawnSplit, Part, Split, Wanted, read_split, write_split
from genmeta.data.table import ImageTable
from genmeta.errors import UserError
from genmeta.read_yaml import check_extent
from genmeta.shipped import configs_of, find_config

_COLUMNS, _ROWS = 12, 12  # of a contact sheet: images of a class, classes
_LISTED = 20  # duplicates to print
_TILE = 56  # side of a picture on it, in pixels


def data(args: Sequence[str]) -> None:
    """List the data sets, prepare one (make its table in the cache), or show one (counts, contact sheets, checks).

    Raises:
        UserError: there is no such data set, its files are missing or wrong, or two parts of its split share an image.
    """
    parser = OptionParser("genmeta data", data.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="all data sets, and which are prepared")
    for name, text in (("prepare", "make the table, with progress"), ("show", "counts, hash, contact sheets, checks")):
        command = commands.add_parser(name, help=text)
        command.add_argument("data", help="name of a YAML in configs/data, or its path")
        command.add_argument("--folder", help="where its files are, instead of the YAML's data.source.folder")
        if name == "show":
            command.add_argument("--out", help="folder of the pictures and the split (default runs/data/<name>)")
            command.add_argument(
                "--drop-duplicates",
                action="store_true",
                help="if two parts share an image, keep it in the first (train, then val); see the written split",
            )
    options = parser.parse_args(args)
    if options.command == "list":
        _list()
        return
    path = find_config("data", options.data)
    source, wanted = read_data_yaml(path, options.folder)
    *_, (table, split) = outline_and_table(source, wanted)
    print(f"{path.stem}: {_counts(table)}, {_size(table.images.nbytes)}")
    if table.account:
        print(table.account)
    if isinstance(source, CachedSource):
        print(f"cached in {source.cache_path()}")
    if options.command == "show":
        out = Path(options.out or Path("runs") / "data" / path.stem)
        if options.drop_duplicates:
            table, split = _without_duplicates(table, split)
        _show(table, split, out)
        if split.left_out:
            print(f"use it with --data.split {out / 'split.json'}")


def read_data_yaml(path: Path, folder: str | None = None) -> tuple[DataSource, Wanted]:
    """Return the source that a YAML of `configs/data` names, and the split that it wants.

    Args:
        path: of the YAML.
        folder: replaces the source's folder.

    Raises:
        UserError: the file names no source, or a wrong one.
    """
    check_extent(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["init_args"]
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--source", type=DataSource, required=True)
        parser.add_argument("--split", type=str | DrawnSplit, required=True)
        parsed = parser.parse_object({key: content.get(key) for key in ("source", "split")})
        made: Namespace = parser.instantiate_classes(parsed)
    except UserError:
        raise
    except Exception as error:  # no YAML, another YAML, or values that the parser refuses
        raise UserError(f"{path}: names no data source ({' '.join(str(error).split())[:200]})") from error
    source: DataSource = made.source
    if folder is not None:
        if not hasattr(source, "folder"):
            raise UserError(f"--folder: data set {path.stem} is read from no folder")
        source = dataclasses.replace(source, folder=folder)  # type: ignore[type-var]
    return source, read_split(made.split)


def _list() -> None:
    paths = configs_of("data")
    width = max(map(len, paths))
    for name, path in paths.items():
        print(f"{name:{width}}  {_state(path)}")
    print(f"cache: {cache_folder()}")


def _state(path: Path) -> str:
    source, _ = read_data_yaml(path)
    if not isinstance(source, CachedSource):
        return "read from its files each time"
    fetches = getattr(source, "download", False)
    if fetches:  # listing must not download
        source = dataclasses.replace(source, download=False)  # type: ignore[type-var]
    try:
        cached = source.cache_path()
    except UserError as error:
        what = str(error).split(";")[0]
        return f"{what}; genmeta data prepare {path.stem} fetches it" if fetches else what
    if cached.is_file():
        return f"prepared: {cached.name}, {_size(cached.stat().st_size)}"
    return f"not prepared: genmeta data prepare {path.stem}"


def _show(table: ImageTable, split: Split, out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_split(split, out / "split.json")
        print(f"split {split.name}, hash {split.hash}: {out / 'split.json'}")
        for part in PARTS:
            ids = split.class_ids(table, part)
            if not len(ids):
                print(f"  {part:5}  no classes")
                continue
            counts = table.counts[ids]
            groups = {table.groups[i] for i in ids.tolist()}
            contact_sheet(table, ids).save(out / f"{part}.png")
            print(
                f"  {part:5}  {len(ids)} classes in {len(groups)} groups, {int(counts.sum())} images, "
                f"{int(counts.min())} to {int(counts.max())} a class: {out / f'{part}.png'}"
            )
    except OSError as error:
        raise UserError(f"--out: cannot write into {out} ({error})") from error
    class_ids: dict[Part, Tensor] = {part: split.class_ids(table, part) for part in PARTS}
    print("no class is in two parts")  # Split refuses such classes
    duplicates = find_duplicates(table, class_ids)
    if not duplicates:
        print("no image is in two parts")
        return
    for duplicate in duplicates[:_LISTED]:
        print(f"  {duplicate.line}")
    raise UserError(
        f"{len(duplicates)} images of {table.name} are in two parts of split {split.name}, the first: "
        f"{duplicates[0].line}; remove one of each pair, change the split, or write a split without them: "
        f"--drop-duplicates"
    )


def _without_duplicates(table: ImageTable, split: Split) -> tuple[ImageTable, Split]:
    duplicates = find_duplicates(table, {part: split.class_ids(table, part) for part in PARTS})
    cleaned = drop_duplicates(split, table, duplicates)
    print(f"left out: {len(duplicates)} images that an earlier part has too")
    for duplicate in duplicates[:_LISTED]:
        print(f"  {duplicate.line}")
    for part in PARTS:
        for name in sorted(set(getattr(split, part)) - set(getattr(cleaned, part))):
            print(f"  class '{name}' ({part}) has no other images and is left out as a whole")
    return cleaned.without_left_out(table), cleaned


def contact_sheet(table: ImageTable, class_ids: Tensor) -> Image.Image:
    """Return a picture of some of the classes, evenly spaced: a row each, with its name and some of its images."""
    ids = class_ids[torch.linspace(0, len(class_ids) - 1, min(_ROWS, len(class_ids))).round().long()].tolist()
    text_width = max(ImageDraw.Draw(Image.new("L", (1, 1))).textlength(_label(table, i)) for i in ids)
    left = int(text_width) + 12
    sheet = Image.new("RGB", (left + _COLUMNS * (_TILE + 2), len(ids) * (_TILE + 2)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, class_id in enumerate(ids):
        top = row * (_TILE + 2)
        draw.text((6, top + _TILE // 2 - 5), _label(table, class_id), fill="black")
        count = int(table.counts[class_id])
        chosen = torch.linspace(0, count - 1, min(_COLUMNS, count)).round().long() + table.starts[class_id]
        for column, image in enumerate(table.images.index_select(0, chosen)):
            tile = Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
            sheet.paste(tile.resize((_TILE, _TILE), Image.Resampling.LANCZOS), (left + column * (_TILE + 2), top))
    return sheet


def _label(table: ImageTable, class_id: int) -> str:
    """Return a class name as the built-in font can draw it."""
    return table.class_names[class_id].encode("ascii", "replace").decode()


def _counts(table: ImageTable) -> str:
    n_groups = len(set(table.groups))
    shape = "×".join(map(str, table.image_shape))
    return f"{len(table.images)} images {shape}, {len(table.class_names)} classes, {n_groups} groups"


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.2f} GB"
