"""`genmeta report`: run folders as one page that opens from disk."""

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from genmeta.cli.options import OptionParser
from genmeta.cli.report.folders import read_folder
from genmeta.cli.report.pictures import Album
from genmeta.cli.report.sections import OpenSection, differences_between, open_section
from genmeta.errors import UserError
from genmeta.pages.blocks import Section
from genmeta.pages.render import render

_MARK = "genmeta report"  # in the page's head: only a file with this mark is overwritten
_PICTURES = 7_000_000  # bytes of all pictures, so that the page stays below 10 MB


def report(args: Sequence[str]) -> None:
    """Write runs, experiments, comparisons and explorations as one HTML file: tables, curves, pictures, differences of
    the configurations, environment, hashes, lineage.

    Raises:
        UserError: a folder is no run, or the file cannot be written.
    """
    parser = OptionParser("genmeta report", report.__doc__)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="folder of a run, an experiment, a comparison or an exploration")
    add(
        "--out", default="report.html", help="the file to write (default report.html); an earlier report is overwritten"
    )
    options = parser.parse_args(args)
    out = Path(options.out)
    _check_out(out)
    paths = list(dict.fromkeys(Path(os.path.normpath(run)) for run in options.runs))
    page = report_page(paths)
    try:
        part = out.with_name(f".{out.name}.part")
        part.write_text(page, encoding="utf-8")
        part.replace(out)
    except OSError as error:
        raise UserError(f"--out: cannot write {out} ({error.strerror})") from error
    print(f"report      {out}  ({len(page.encode()) / 1e6:.1f} MB, {len(paths)} run folder{'s'[: len(paths) > 1]})")


def report_page(paths: Sequence[Path]) -> str:
    """Return the page of some folders; the same folders give the same page.

    Raises:
        UserError: a folder is no run.
    """
    album = Album(_PICTURES)
    opened = [_open_section(path, title, album) for path, title in zip(paths, _titles(paths), strict=True)]
    figure_of = album.figures()
    sections = [one.finish(figure_of) for one in opened]
    if between := differences_between(opened) if len(opened) > 1 else []:
        sections.append(Section("Differences between the runs", "options, without names and folders", between))
    return render(
        "report.html",
        ("charts.js",),
        title=sections[0].title if len(sections) == 1 else f"{len(sections)} runs",
        sections=sections,
        generator=_MARK,
        footer=f"Written by genmeta {version('genmeta')}, genmeta report {' '.join(str(path) for path in paths)}",
    )


def _open_section(path: Path, title: str, album: Album) -> OpenSection:
    """Return the section of a folder.

    Raises:
        UserError: it is no run, or genmeta did not write the JSON in it.
    """
    try:
        return open_section(read_folder(path), title, album)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:150]
        raise UserError(f"RUN: {path}: a file in it is not as genmeta writes it ({reason})") from error


def _titles(paths: Sequence[Path]) -> list[str]:
    """Return the last parts of paths, at least two, and as many as tell the paths apart."""
    parts = [path.absolute().parts for path in paths]
    for n in range(2, max(len(p) for p in parts) + 1):
        titles = ["/".join(p[-n:]) for p in parts]
        if len(set(titles)) == len(titles):
            break
    return titles


def _check_out(out: Path) -> None:
    if out.is_dir():
        raise UserError(f"--out: {out} is a folder; name a file, such as {out / 'report.html'}")
    if not out.parent.is_dir():
        raise UserError(f"--out: there is no folder {out.parent}")
    if out.exists():
        with out.open(encoding="utf-8", errors="replace") as file:
            if _MARK not in file.read(4000):
                raise UserError(f"--out: {out} exists and is no report; nothing was overwritten")
