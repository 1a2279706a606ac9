"""Write the figures that documents show of one experiment: make figures RUN=runs/glyphs-protonet-vae_deformation/001

The table in docs/quick_start.md ("What comes out"), what the header of configs/learner/protonet.yaml says to expect,
and the pictures docs/pictures/episodes.png and report.png, all of one finished run of `make meta-train`; and
docs/figures.json, by which a test sees that none of them was changed alone. The picture of the report needs Chromium;
where there is none, --no_report leaves it out, and the documents show none.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genmeta.cli.report.command import report
from genmeta.errors import UserError

TABLE, LEARNER, RECORD = Path("docs/quick_start.md"), Path("configs/learner/protonet.yaml"), Path("docs/figures.json")
PICTURES = Path("docs/pictures")
REPORT = Path("docs/report.md")  # shows the picture
FIRST_ROW = "with the generator"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDTH = 150  # of a line of text below the table


def main(args: Sequence[str] | None = None) -> int:
    """Write all of them, or none; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished experiment")
    parser.add_argument("--no_report", action="store_true", help="show no picture of the report")
    options = parser.parse_args(args)
    try:
        write(options.run, not options.no_report)
    except UserError as error:
        print(f"figures: error: {error}", file=sys.stderr)
        return 2
    return 0


def write(run: Path, with_report: bool) -> None:
    """Write the figures of a run into the documents.

    Raises:
        UserError: the run is not finished, is a debug run, or there is no browser.
    """
    try:
        text = (run / "results.md").read_text(encoding="utf-8").strip()
        results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"RUN: {run} is no finished experiment ({error})") from error
    if results.get("debug"):
        raise UserError(f"RUN: {run} is a debug run, whose numbers mean nothing")
    episodes = sorted(run.glob("mixed*/**/pictures/episodes.png"))
    if not episodes:
        raise UserError(f"RUN: {run} has no mixed*/…/pictures/episodes.png")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if with_report and browser is None:
        raise UserError(f"a picture of the report needs one of {', '.join(BROWSERS)}; or give --no_report")
    facts: dict[str, Any] = {"run": run.as_posix(), "split": results.get("split"), "results": text.splitlines()}
    expectation(facts)  # raises before anything is written
    with tempfile.TemporaryDirectory() as folder:
        made = {"episodes.png": episodes[0]}
        if with_report:
            made["report.png"] = photograph(run, str(browser), Path(folder))
        else:
            (PICTURES / "report.png").unlink(missing_ok=True)
        for name, path in made.items():
            shutil.copyfile(path, PICTURES / name)
    facts["pictures"] = {name: digest(PICTURES / name) for name in sorted(made)}
    RECORD.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for path, content in documents(facts).items():
        path.write_text(content, encoding="utf-8")
    print(f"written     {', '.join(map(str, documents(facts)))}, {RECORD}; {', '.join(made)} in {PICTURES}")


def documents(facts: Mapping[str, Any]) -> dict[Path, str]:
    """Return the documents as they are with the figures of a run (the content of docs/figures.json)."""
    shown = {path: path.read_text(encoding="utf-8") for path in (TABLE, REPORT, LEARNER)}
    link = "![a report](pictures/report.png)\n" if "report.png" in facts["pictures"] else ""
    shown[REPORT] = put(shown[REPORT], "report", link, REPORT)
    lines = [
        part
        for line in facts["results"]
        if line != "```" and not line.startswith("![")  # all of it stands in one such block here, without pictures
        for part in ([line] if line.startswith("|") or len(line) <= WIDTH else textwrap.wrap(line, WIDTH))
    ]
    shown[TABLE] = put(shown[TABLE], "table", "\n".join(["```text", *lines, "```", ""]), TABLE)
    shown[LEARNER], n = re.subn(r"(?m)^# Expect .*$", lambda _: expectation(facts), shown[LEARNER])
    if n != 1:
        raise UserError(f"{LEARNER}: expected one line that begins with '# Expect', found {n}")
    return shown


def put(text: str, name: str, content: str, path: Path) -> str:
    """Return a document with other content between the marks of a figure.

    Raises:
        UserError: there are no such marks.
    """
    begin, end = f"<!-- figures: {name} -->\n", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise UserError(f"{path}: has no marks {begin.strip()} and {end}")
    return before + begin + content + end + after


def expectation(facts: Mapping[str, Any]) -> str:
    """Return the line of the learner's YAML that says what to expect: the first row of the table.

    Raises:
        UserError: there is no such row.
    """
    rows = [
        [cell.strip() for cell in line.strip()[1:-1].split("|")] for line in facts["results"] if line.startswith("|")
    ]
    header = rows[0] if rows else []
    row = next((row for row in rows if row[0] == FIRST_ROW), None)
    if row is None:
        raise UserError(f"RUN: results.md has no row '{FIRST_ROW}'")
    cells = [
        f"{value} % {shape.removesuffix(' (%) ↑')}" for value, shape in zip(row[1:], header[1:], strict=False) if value
    ]
    return f"# Expect {', '.join(cells)} (docs/quick_start.md; make figures)."


def photograph(run: Path, browser: str, folder: Path) -> Path:
    """Return a picture of the top of a run's report."""
    report([str(run), "--out", str(folder / "report.html")])
    picture = folder / "report.png"
    command = [browser, "--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-sync"]
    command += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox refuses to start for root
    command += [f"--user-data-dir={folder / 'profile'}", "--window-size=820,1250", "--virtual-time-budget=2000"]
    subprocess.run([*command, f"--screenshot={picture}", (folder / "report.html").as_uri()], check=True, timeout=120)
    return picture


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
