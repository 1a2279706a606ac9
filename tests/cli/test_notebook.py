"""The notebook of the docs: its cells run with a few steps, its outputs are there, and it is a page."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from conftest import PATIENCE, ROOT

NOTEBOOK = ROOT / "docs" / "from_python.ipynb"
RUN = ROOT / "scripts" / "run_notebook.py"
ACCURACY = r"5-way 1-shot: ([\d.]+) ± ([\d.]+) % of queries right \((\d+) episodes; guessing: 20 %\)"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_cells_run_from_pictures_to_labels(tmp_path):
    few = ["--set", "generator_steps=3", "--set", "learner_steps=3", "--set", "n_episodes=20"]
    before = NOTEBOOK.read_bytes()
    command = [sys.executable, str(RUN), str(NOTEBOOK), *few, "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(ACCURACY, done.stdout)[3] == "20"
    assert len(re.findall(r"^\S.+ taken for .+ \d+ %$", done.stdout, re.MULTILINE)) == 5
    assert len(list(tmp_path.glob("pictures/*/*/*.png"))) > 500
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {"generator.ckpt", "learner.ckpt"}
    assert NOTEBOOK.read_bytes() == before, "it writes only where it is told to"


def cells(*sources: str) -> dict:
    return {"cells": [{"cell_type": "code", "metadata": {}, "source": [s], "outputs": []} for s in sources]}


def test_outputs_are_what_cells_print_and_what_their_last_line_is(tmp_path):
    notebook = cells("a = 1", "print('a is', a)\nb = 2\na + b", "from PIL import Image\nImage.new('L', (2, 3))", "None")
    notebook["cells"][0]["metadata"]["tags"] = ["parameters"]
    path = tmp_path / "it.ipynb"
    path.write_text(json.dumps(notebook))
    done = subprocess.run(
        [sys.executable, str(RUN), str(path), "--set", "a=5", "--write"], capture_output=True, text=True, check=True
    )
    assert "a is 5\n" in done.stdout
    first, second, third, fourth = (cell["outputs"] for cell in json.loads(path.read_text())["cells"])
    assert first == fourth == []
    assert second[0] == {"name": "stdout", "output_type": "stream", "text": ["a is 5\n"]}
    assert second[1]["data"] == {"text/plain": ["7"]}
    assert third[0]["data"]["text/plain"] == ["<PIL.Image.Image image mode=L size=2x3>"], "no address of the memory"
    page, pictures = script("docs_pages").notebook_page(path)
    assert "```python\nprint('a is', a)\nb = 2\na + b\n```\n\n```text\na is 5\n```\n\n```text\n7\n```" in page
    assert "![what the cell above shows](it-1.png)" in page
    assert pictures["it-1.png"].startswith(b"\x89PNG")
    unknown = [sys.executable, str(RUN), str(path), "--set", "c=5"]
    refused = subprocess.run(unknown, capture_output=True, text=True, check=False)
    assert "no parameter of the notebook: c" in refused.stderr


def test_the_page_has_all_cells_and_no_output_of_a_run_with_other_parameters():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    page, pictures = script("docs_pages").notebook_page(NOTEBOOK)
    assert page.startswith("# From Python\n")
    for cell in cells:
        assert "".join(cell["source"]) in page
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(re.findall("^```python$", page, re.MULTILINE)) == len(code)
    assert len(pictures) == sum("image/png" in output.get("data", {}) for cell in code for output in cell["outputs"])
    (n_episodes,) = re.findall(r"^generator_steps, learner_steps, n_episodes = \d+, \d+, (\d+)", page, re.MULTILINE)
    assert {found[2] for found in re.findall(ACCURACY, page)} <= {n_episodes}
    assert str(Path.home()) not in page
