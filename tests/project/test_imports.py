"""Imports run one way, and importing the package costs nothing."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

# a part may import those before it; what stands together in a row may not import each other
ORDER = [
    ("errors", "rng", "output"),
    ("messages", "shipped"),
    ("read_yaml",),
    ("learn2learn_import",),
    ("data",),
    ("effect",),
    ("episode",),
    ("tasks",),
    ("models",),
    ("learners",),
    ("evaluation",),
    ("pages",),
    ("explore",),
    ("modules",),
    ("experiments",),
    ("api", "cli"),
    ("__main__",),
]
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}
FILES = sorted((ROOT / "genmeta").rglob("*.py"))


def imported(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_run_one_way(file):
    parts = file.relative_to(ROOT / "genmeta").with_suffix("").parts
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = imported(tree)
    if parts[0] == "__init__":  # what is called from there imports when it is called
        assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in tree.body)
        return
    for name in names:
        target = name.split(".")
        if target[0] == "genmeta" and len(target) > 1 and target[1] != parts[0]:
            if target[1] not in RANK:
                assert name == "genmeta.__path__"
                continue
            assert RANK[target[1]] < RANK[parts[0]], f"{file.name} imports {name}"
        if target[0] == "learn2learn":
            assert file.name == "learn2learn_import.py"
    if parts[0] in ("tasks", "models", "learners", "evaluation", "explore"):
        assert not any(name.startswith("lightning") for name in names), "tensor mathematics does not import Lightning"


def test_importing_the_package_loads_nothing_else():
    code = "import sys; before = set(sys.modules); import genmeta; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "['genmeta']"


def test_the_library_parts_load_no_heavy_package():
    heavy = "{'learn2learn', 'gym', 'wandb', 'sklearn', 'matplotlib'}"
    modules = "genmeta.data.glyphs, genmeta.tasks.mixed, genmeta.models.checkpoint, genmeta.learners.maml"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_learn2learn_imports_silently_and_without_gym():
    code = (
        "from genmeta.learn2learn_import import import_learn2learn as f; l = f();"
        "import sys; l.algorithms.MAML; l.vision.datasets.MiniImagenet; assert 'gym' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("", "")


def test_missing_learn2learn_is_one_sentence_with_the_command():
    code = (
        "import sys; sys.modules['learn2learn'] = None\n"
        "from genmeta.learn2learn_import import import_learn2learn\n"
        "from genmeta.errors import UserError\n"
        "try: import_learn2learn()\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.count("\n") == 1
    assert 'pip install "genmeta[learn2learn]" && pip install --no-deps --config-settings=' in done.stdout
