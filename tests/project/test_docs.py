"""The documents are true: what they print is run, links lead somewhere, the site loads nothing from elsewhere."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, slow_but, test_file

import genmeta.cli.audit
import genmeta.cli.experiment
import genmeta.cli.explore
from genmeta.cli.main import main

DOCS = ROOT / "docs"
PAGES = ("quick_start", "concepts", "your_images", "write_a_policy", "write_a_learner", "faq")
DEBUG = ["--config", "configs/trainer/debug.yaml"]
IN_RUNS = ["--run.folder=runs"]  # where the pages say that runs are; debug runs are elsewhere
BY_HAND = ("pip",)  # commands that would change the machine


@dataclass(frozen=True)
class Fence:
    """A fenced block: its language, title and text, those of files shown in it included."""

    language: str
    title: str
    text: str


def fences(page: str) -> list[Fence]:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    found = re.findall(r'^```(\w+)(?: title="([^"]*)")?\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    assert 2 * len(found) == len(re.findall("^```", text, re.MULTILINE)), f"{page}: a fence without a language"
    return [Fence(language, title, with_files(block)) for language, title, block in found]


def with_files(block: str) -> str:
    return re.sub(r'--8<-- "(.*)"', lambda shown: (ROOT / shown[1]).read_text(encoding="utf-8"), block)


class NothingTrained(Exception):
    """An experiment has passed its checks; that it then runs to the table is tested in test_experiment.py."""


@pytest.fixture
def project(tmp_path, monkeypatch, request):
    """A copy of the project's configs, with generators where the pages have them; the current folder."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for name in ("docs", "Makefile", "pyproject.toml", "requirements-learn2learn.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, fixture in (("vae-glyphs", "vae"), ("vae_deformation-glyphs", "redrawer")):
        run_folder = request.getfixturevalue(fixture).parents[1]
        shutil.copytree(run_folder, tmp_path / "runs" / name / "001")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(genmeta.cli.experiment, "run_all", refuse_to_train)
    monkeypatch.setattr(genmeta.cli.audit, "N_CLASSES", 20)  # what they find is tested elsewhere
    monkeypatch.setattr(genmeta.cli.audit, "_N_TRAINING", 100)
    monkeypatch.setattr(genmeta.cli.explore, "N_IMAGES", 500)
    return tmp_path


def refuse_to_train(*args: object) -> None:
    raise NothingTrained


def genmeta_command(args: list[str]) -> int:
    """Run a command as it is printed, but with three steps of training and without W&B."""
    os.environ.pop("GENMETA_RUN_FOLDER", None)
    command, *options = args
    if command in ("fit", "test", "validate"):
        more = [*DEBUG, "--run.wandb=off", *IN_RUNS]
        if any("generator/" in option for option in options):
            more.append("--data.feature_steps=2")
        if any("generator/vae" in option and "deformation" not in option for option in options):  # a VAE of codes
            more.append("--model.importance_samples=2")
    elif command == "experiment":
        more = DEBUG
    elif command == "audit":
        more = ["--feature_steps=2", *DEBUG, "--run.wandb=off", *IN_RUNS]
    else:
        more = []
        options = [option for option in options if option != "--tsne"]  # 10 s; see test_explore.py
    try:
        return main([command, *options, *more])
    except NothingTrained:
        return 0
    except SystemExit as done:  # --print_config
        return int(done.code or 0)


def make_command(args: list[str]) -> list[list[str]]:
    """Return the genmeta commands that a call of make would run."""
    env = {name: value for name, value in os.environ.items() if name not in ("ARGS", "MAKEFLAGS", "MAKEOVERRIDES")}
    # those of `make test ARGS=…` are not for it
    done = subprocess.run(["make", "-n", *args], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if " -m genmeta " in line]
    return [shlex.split(line)[3:] for line in lines]


def run_line(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    words = shlex.split(line)
    while re.match(r"[A-Z_]+=", words[0]):
        name, value = words.pop(0).split("=", 1)
        assert name == "PYTHONPATH"
        monkeypatch.syspath_prepend(value)
    if words[0] == "genmeta":
        return genmeta_command(words[1:])
    if words[0] == "make":
        return max((genmeta_command(args) for args in make_command(words[1:])), default=0)
    if words[:3] == ["python", "-m", "pytest"]:  # these tests are collected by themselves
        return 0 if all(Path(name).is_file() for name in words[3:]) else 1
    assert words[0] in BY_HAND, f"no way to run: {line}"
    return 0


# one whose commands work, one whose commands are refused
@pytest.mark.parametrize("page", slow_but(["concepts"], PAGES))
def test_everything_that_a_page_prints_works(page, project, monkeypatch, capsys):
    blocks = fences(page)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict)
            if block.title:
                Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            code = compile(block.text, f"{page}, block {number}", "exec")
            if "import pytest" not in block.text and "class " not in block.text:  # those are files with tests
                exec(code, names)
        elif block.language == "sh":
            for line in block.text.splitlines():
                capsys.readouterr()
                code = run_line(line, monkeypatch)
                err = capsys.readouterr().err
                if block.title == "refused":
                    assert code == 2, line
                    assert comparable(blocks[number + 1].text) in comparable(err)
                else:
                    assert code == 0, f"{line}\n{err}"
        else:
            assert block.language == "text"


def comparable(message: str) -> str:
    return " ".join(message.split())


def test_print_config_shows_the_trap_of_kept_settings(project, capsys):
    """The first answer of faq.md, in which a default does not come back."""
    [trap] = [block.text for block in fences("faq") if block.title == "instances.yaml"]
    Path("instances.yaml").write_text(trap, encoding="utf-8")
    args = ["fit", "--config", "configs/learner/protonet.yaml", "--config", "instances.yaml", "--print_config"]
    assert genmeta_command(args) == 0
    tasks = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["train_tasks"]
    assert tasks["class_path"].endswith("GeneratedInstances")
    assert tasks["init_args"]["share"] == 0.25


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_loads_nothing_from_other_hosts(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    loads = re.compile(
        r'<(?:script|img|iframe|source|video|audio)[^>]*\ssrc="?([^"\s>]+)|<link[^>]*\shref="?([^"\s>]+)'
    )
    for page in pages:
        for found in loads.finditer(page.read_text(encoding="utf-8")):
            address = found[1] or found[2]
            assert not re.match(r"(https?:)?//", address), f"{page.name} loads {address}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet.name


def test_warnings_of_the_build_are_errors():
    """With --quiet, --strict counts no warnings: a page with dead links was built without a word."""
    commands = subprocess.run(["make", "-n", "docs"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (command,) = [line for line in commands.splitlines() if "mkdocs build" in line]  # others set up what is missing
    assert "--strict" in command
    assert "--quiet" not in command


def test_every_module_is_on_a_page_of_the_api(site):
    text = "".join(page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html"))
    for file in (ROOT / "genmeta").rglob("*.py"):
        if not file.stem.startswith("__"):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            assert f'id="{name}"' in text, f"{name} is on no page"


def test_links_of_the_repository_lead_somewhere():
    """Links as they are clicked in the repository, where no mkdocs turns them."""
    for page in (*ROOT.glob("*.md"), *DOCS.glob("*.md")):
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target, anchor in re.findall(r"\]\(([^)\s#:]*)(#[^)\s]*)?\)", text):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor[1:] in {slug(heading) for heading in headings}, f"{page.name}: {target}{anchor}"


def slug(heading: str) -> str:
    """Return the anchor of a heading, as the repository's viewer makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_tests_that_the_page_of_faults_names_exist():
    named = re.findall(r"`(?:(test_\w+\.py)::)?…?(test_\w+)`", (ROOT / "docs" / "faults.md").read_text())
    assert len(named) > 10
    file = ""
    for path, name in named:
        file = path or file
        assert f"def {name}(" in test_file(file).read_text(), name


def test_the_lines_of_python_in_readme_go_from_a_folder_of_pictures_to_a_label(tmp_path, monkeypatch, pictures):
    """Two steps in the place of epochs, 20 test episodes in the place of 600."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path / "cache"))
    Path("pictures").symlink_to(pictures)
    for name in ("cat", "dog", "what"):
        shutil.copy(next(pictures.rglob("*.png")), f"{name}.png")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.count("\n") <= 120, "README is read in half a minute; the rest has pages of its own"
    [code] = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line and "import " not in line]) <= 15
    few = "max_steps=2, limit_val_batches=1, enable_progress_bar=False"
    small = {"max_epochs=10": few, "max_epochs=5": few, "batch_size=96": "batch_size=16, feature_steps=2"}
    for words, fewer in {**small, ", 600)]": ", 20)]"}.items():
        assert words in code
        code = code.replace(words, fewer)
    names: dict[str, Any] = {}
    exec(compile(code, "README", "exec"), names)
    metrics = names["trainer"].callback_metrics
    assert metrics["test/acc_5w1s"] > 0.9, "its classes are shades"
    assert "test/acc_5w1s_ci95" in metrics
    found = names["model"].predict({"cat": ["cat.png"], "dog": ["dog.png"]}, ["what.png"])
    assert found.probabilities.tolist() == [[0.5, 0.5]], "all three are the same picture"
