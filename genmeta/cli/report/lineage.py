"""Which checkpoint went into which run, from the configurations in the folders."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from genmeta.cli.report.folders import Run, read_run
from genmeta.cli.report.options import flat
from genmeta.errors import UserError
from genmeta.experiments.run_folder import CONFIG_FILE
from genmeta.pages.blocks import Block, Node, Tree


def lineage(runs: Sequence[Run]) -> list[Block]:
    """Return runs and the checkpoints that they used as a tree, from the generator to the test.

    A run with several checkpoints stands under that of `ckpt_path`, else under the first, and names the others.
    """
    known = {run.recorded: run for run in runs}
    nodes: dict[Path, _Origin] = {}
    for run in runs:
        _add(run.recorded, run, known, nodes)
    children: dict[Path, list[Path]] = {}
    for path, origin in nodes.items():
        if origin.parent:
            children.setdefault(origin.parent, []).append(path)
    if not children:
        return []
    roots = [
        _node(path, nodes, children) for path, origin in nodes.items() if origin.parent is None and path in children
    ]
    alone = [_node(path, nodes, {}) for path, o in nodes.items() if o.parent is None and path not in children]
    return [Tree([*roots, *alone], "Each run stands under the run whose checkpoint it used.")]


class _Origin:
    def __init__(self, run: Run | None, sources: Mapping[str, Path]) -> None:
        self.run = run
        self.sources = sources
        first = next(iter(sources), None)
        self.option = "ckpt_path" if "ckpt_path" in sources else first
        self.parent = sources[self.option] if self.option else None


def _add(path: Path, run: Run | None, known: Mapping[Path, Run], nodes: dict[Path, _Origin]) -> None:
    if path in nodes:
        return
    sources = {}
    for option, checkpoint in checkpoints(run.config) if run else ():
        folder = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint
        if folder != path:
            sources[option] = folder
    nodes[path] = _Origin(run, sources)
    for folder in sources.values():
        _add(folder, known.get(folder) or _on_disk(folder), known, nodes)
    # a run that was moved may seem to be its own ancestor
    seen, at = {path}, nodes[path].parent
    while at is not None and at in nodes:
        if at in seen:
            nodes[path].parent = None
            break
        seen.add(at)
        at = nodes[at].parent


def checkpoints(config: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Yield the dotted options of a configuration that name checkpoints, with their paths."""
    for option, value in flat(config).items():
        if value.endswith(".ckpt"):
            yield option, Path(value)


def _on_disk(folder: Path) -> Run | None:
    try:
        return read_run(folder, f"{folder.parent.name}/{folder.name}") if (folder / CONFIG_FILE).is_file() else None
    except (UserError, OSError):
        return None  # only its name is shown


def _node(path: Path, nodes: Mapping[Path, _Origin], children: Mapping[Path, list[Path]]) -> Node:
    origin = nodes[path]
    facts = [f"through {origin.option}"] if origin.parent else []
    facts += [f"also {option}: {_name(source)}" for option, source in origin.sources.items() if option != origin.option]
    return Node(
        text=_title(path, origin.run),
        note="; ".join([*facts, *_facts(path, origin.run)]),
        children=tuple(_node(child, nodes, children) for child in children.get(path, [])),
    )


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _title(path: Path, run: Run | None) -> str:
    stage = {"fit": "trained", "test": "tested", "validate": "validated"}.get(
        str((run and run.summary.get("stage")) or "")
    )
    return f"{_name(path)}{f' ({stage})' if stage else ''}"


def _facts(path: Path, run: Run | None) -> list[str]:
    if run is None:
        return [f"not found: {path}"]
    facts = [] if run.finished else ["not finished"]
    model = flat(run.config).get("model.learner") or flat(run.config).get("model") or ""
    facts += [model.rsplit(".", 1)[-1]] if model else []
    summary = run.summary
    facts += [f"{summary['steps']:,} steps"] if isinstance(summary.get("steps"), int) else []
    facts += [f"best {name} {value:.4g}" for name, value in (summary.get("best") or {}).items()]
    split = summary.get("split") or {}
    facts += [f"split {split['hash']}"] if "hash" in split else []
    return [*facts, *([f"commit {summary['commit']}"] if summary.get("commit") else [])]
