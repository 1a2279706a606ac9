"""Hook of mkdocs: pages of the site that no file in `docs` is.

README, CONTRIBUTING and CHANGELOG become pages as they are, with their links turned the right way, and links of `docs`
to them too; so nothing is copied, and links work in the repository and on the site. Notebooks in `docs` become pages,
with their outputs. Each package of genmeta gets a page of the API, so that a new module is on it without being listed
anywhere.
"""

import ast
import base64
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
TOP = {"README.md": "readme.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)]*)?(\))")


def on_config(config: Any) -> Any:
    """Put the pages of the API into the navigation, at the end of its section Reference."""
    [reference] = [entry["Reference"] for entry in config.nav if isinstance(entry, dict) and "Reference" in entry]
    reference.append({"API": [{package: f"api/{package}.md"} for package in packages()]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for name, page in TOP.items():
        text = _LINK.sub(_from_top, (ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    for path in sorted((ROOT / "docs").glob("*.ipynb")):
        text, pictures = notebook_page(path)
        files.append(File.generated(config, f"{path.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, name, content=content))
    for package in packages():
        files.append(File.generated(config, f"api/{package}.md", content=api_page(package)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links of a page in `docs` to the documents beside `docs`."""
    return markdown if page.file.generated_by else _LINK.sub(_from_docs, markdown)


def packages() -> list[str]:
    """Return the names of all packages, genmeta first."""
    inits = sorted((ROOT / "genmeta").rglob("__init__.py"))
    return [".".join(path.parent.relative_to(ROOT).parts) for path in inits]


def modules(package: str) -> list[str]:
    """Return the dotted names of the modules of a package."""
    files = sorted(ROOT.joinpath(*package.split(".")).glob("*.py"))
    return [f"{package}.{file.stem}" for file in files if not file.stem.startswith("__")]


def api_page(package: str) -> str:
    """Return the Markdown of a package's page: its docstring, and all that its modules document."""
    init = ROOT.joinpath(*package.split("."), "__init__.py")
    about = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
    return "\n\n".join([f"# {package}", about, *(f"::: {name}" for name in modules(package))]) + "\n"


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, its code and outputs fenced, and the PNG files of its pictures by their names."""
    blocks: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source)
            continue
        blocks.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            shown = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in shown:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(shown["image/png"]))
                blocks.append(f"![what the cell above shows]({name})")
            else:
                blocks.append(f"```text\n{''.join(shown['text/plain']).rstrip()}\n```")
    return "\n\n".join(blocks) + "\n", pictures


def _from_top(link: re.Match[str]) -> str:
    """Return a link of a document beside `docs` as seen from `docs`."""
    target = TOP.get(link[2], link[2].removeprefix("docs/") if link[2].startswith("docs/") else None)
    return f"{link[1]}{target or link[2]}{link[3] or ''}{link[4]}"


def _from_docs(link: re.Match[str]) -> str:
    name = posixpath.basename(link[2])
    target = TOP[name] if link[2] == f"../{name}" and name in TOP else link[2]
    return f"{link[1]}{target}{link[3] or ''}{link[4]}"
