"""The table of the quick start, what protonet.yaml says to expect and the pictures are of one run."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

RESULTS = (
    """5-way 1-shot: 'with the generator' is better.

```
with the generator  ●
```

|                    | 5-way 1-shot (%) ↑ | 5-way 5-shot (%) ↑ |
|--------------------|--------------------|--------------------|
| with the generator | 12.34 ± 0.50       | 56.78 ± 0.20       |
| real only          | 11.00 ± 0.50       | 55.00 ± 0.20       |

5w1s: with the generator - real only = +1.34 ± 0.47 points (more)

Accuracy in % on classes that """
    + "nobody has seen " * 20
)


@pytest.fixture
def figures(monkeypatch):
    spec = importlib.util.spec_from_file_location("figures", ROOT / "scripts" / "figures.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "figures", module)
    spec.loader.exec_module(module)
    monkeypatch.chdir(ROOT)
    return module


def test_the_documents_show_one_run(figures: ModuleType):
    """The report's picture said -2.27 where the table said +0.66, and the YAML's header was of a third run."""
    facts = json.loads(figures.RECORD.read_text(encoding="utf-8"))
    for path, expected in figures.documents(facts).items():
        assert path.read_text(encoding="utf-8") == expected, f"{path}: make figures RUN=... writes it"
    for name, digest in facts["pictures"].items():
        assert figures.digest(figures.PICTURES / name) == digest, f"{name} is of another run"
    if "report.png" not in facts["pictures"]:
        assert not (figures.PICTURES / "report.png").exists()


@pytest.fixture
def documents(figures, tmp_path, monkeypatch):
    for name in ("docs/quick_start.md", "docs/report.md", "docs/figures.json", "configs/learner/protonet.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "docs" / "pictures").mkdir()
    picture = tmp_path / "run" / "mixed" / "fit" / "pictures" / "episodes.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"a picture")
    (tmp_path / "run" / "results.md").write_text(RESULTS, encoding="utf-8")
    (tmp_path / "run" / "results.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_writes_all_of_them(figures, documents):
    assert figures.main(["run", "--no_report"]) == 0
    page = Path("docs/quick_start.md").read_text(encoding="utf-8")
    assert "| with the generator | 12.34 ± 0.50       | 56.78 ± 0.20       |" in page
    assert page.count("| with the generator") == 1
    shown = page.split("<!-- figures: table -->")[1].split("<!-- end of table -->")[0]
    assert shown.count("```") == 2, "the plot's own fence would end the block"
    assert "with the generator  ●" in shown
    assert "92.73" not in Path("configs/learner/protonet.yaml").read_text(encoding="utf-8")
    expected = (
        "# Expect 12.34 ± 0.50 % 5-way 1-shot, 56.78 ± 0.20 % 5-way 5-shot (docs/quick_start.md; make figures).\n"
    )
    assert expected in Path("configs/learner/protonet.yaml").read_text(encoding="utf-8")
    assert Path("docs/pictures/episodes.png").read_bytes() == b"a picture"
    before = {path: path.read_text(encoding="utf-8") for path in (figures.TABLE, figures.RECORD)}
    assert figures.main(["run", "--no_report"]) == 0, "again, and nothing grows"
    assert before == {path: path.read_text(encoding="utf-8") for path in before}


def test_the_picture_of_the_report_comes_and_goes_with_its_links(figures, documents, monkeypatch):
    monkeypatch.setattr(figures.shutil, "which", lambda name: name)
    monkeypatch.setattr(figures, "photograph", lambda run, browser, folder: run / "results.md")
    assert figures.main(["run"]) == 0
    assert "![a report](pictures/report.png)" in Path("docs/report.md").read_text(encoding="utf-8")
    assert set(json.loads(figures.RECORD.read_text())["pictures"]) == {"episodes.png", "report.png"}
    assert figures.main(["run", "--no_report"]) == 0
    assert "![a report]" not in Path("docs/report.md").read_text(encoding="utf-8")
    assert not Path("docs/pictures/report.png").exists()


@pytest.mark.parametrize("wrong", ["debug", "unfinished", "no row", "no browser"])
def test_what_cannot_be_shown_changes_nothing(figures, documents, monkeypatch, capsys, wrong):
    monkeypatch.setattr(figures.shutil, "which", lambda name: None)
    args = ["run"] if wrong == "no browser" else ["run", "--no_report"]
    if wrong == "debug":
        Path("run/results.json").write_text('{"debug": true}')
    elif wrong == "unfinished":
        Path("run/results.json").unlink()
    elif wrong == "no row":
        Path("run/results.md").write_text("nothing")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert figures.main(args) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert before == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
