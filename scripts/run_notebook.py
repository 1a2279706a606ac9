"""Run a notebook without Jupyter: python scripts/run_notebook.py docs/from_python.ipynb [--set n_episodes=20] [--write]

Its cells run one after the other in one namespace, in a folder of their own. What they print is shown; `--write` puts
it into the notebook, with the value of each cell's last line. `--set` changes what the cell tagged `parameters` sets.
"""

import argparse
import ast
import base64
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


def main(args: Sequence[str] | None = None) -> int:
    """Run it; return the exit code. What goes wrong in a cell is raised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another parameter")
    parser.add_argument("--folder", type=Path, help="where it runs (default: a temporary folder)")
    parser.add_argument("--write", action="store_true", help="write the outputs into the notebook")
    options = parser.parse_args(args)
    path = options.notebook.resolve()
    notebook = json.loads(path.read_text(encoding="utf-8"))
    changes = dict(change.split("=", 1) for change in options.set)
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(options.folder or temporary)
        run(notebook, {name: ast.literal_eval(value) for name, value in changes.items()})
        os.chdir(path.parent)
    if options.write:
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def run(notebook: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Run all cells of code and put what they show in the place of their outputs.

    Args:
        notebook: content of the file (nbformat 4); changed.
        changes: parameters by name.

    Raises:
        ValueError: the notebook has no such parameter.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        source = "".join(cell["source"])
        print(f"--- cell {number} of {len(cells)}", flush=True)
        cell["execution_count"], cell["outputs"] = number, outputs_of(source, names, number)
        if "parameters" in cell["metadata"].get("tags", []):
            if unknown := changes.keys() - names.keys():
                raise ValueError(f"no parameter of the notebook: {', '.join(sorted(unknown))}")
            names |= changes


def outputs_of(source: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Run a cell; return what it printed, and the value of its last line, as outputs of a notebook."""
    tree = ast.parse(source, f"cell {number}")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    value, printed = None, _Tee()
    with redirect_stdout(printed):
        exec(compile(tree, f"cell {number}", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)})
    if value is not None:
        shown: dict[str, Any] = {"text/plain": [re.sub(r" at 0x[0-9A-Fa-f]+", "", repr(value))]}
        if hasattr(value, "_repr_png_"):  # a picture
            shown["image/png"] = base64.b64encode(value._repr_png_()).decode()
        outputs.append(
            {"data": shown, "execution_count": number, "metadata": {}, "output_type": "execute_result"},
        )
    return outputs


class _Tee(io.StringIO):
    """Keeps what is printed and prints it too."""

    def write(self, text: str) -> int:
        sys.__stdout__.write(text)  # type: ignore[union-attr]
        return super().write(text)


if __name__ == "__main__":
    sys.exit(main())
