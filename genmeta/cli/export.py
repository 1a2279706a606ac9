"""`genmeta export`: a trained learner or generator as a folder for others, with a card of its figures."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import genmeta
from genmeta.cli.newest import checkpoint_of
from genmeta.cli.onnx_file import ONNX, about_onnx, as_onnx, check_onnx
from genmeta.cli.options import OptionParser
from genmeta.cli.progress import in_words
from genmeta.errors import UserError
from genmeta.experiments.run_folder import (
    CONFIG_FILE,
    RUN_FILE,
    banner,
    best_checkpoint,
    claim_out,
    read_run_file,
)
from genmeta.learners.checkpoint import load_learner
from genmeta.models.checkpoint import KEY, load_generator, read_checkpoint
from genmeta.models.exported import CONFIG, WEIGHTS, write_exported

CARD = "README.md"
# needed only to go on with the training, or paths of the machine that trained it
_LEFT_OUT = ("settings", "means", "generator", "redrawer")


def export(args: Sequence[str]) -> None:
    """Write a trained learner or generator into a folder: weights as safetensors, how to build it as JSON, and a card
    with its classes, their hash and its figures. `genmeta.load`, `genmeta predict` and `--data.generator` read it back;
    with `--onnx` other programs read the learner's backbone.

    Raises:
        UserError: there is no such run, the folder cannot be written, or there is no backbone for ONNX.
    """
    parser = OptionParser("genmeta export", export.__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of the run, or its checkpoint")
    parser.add_argument("--out", help="folder to write into (default runs/export/<next number>)")
    parser.add_argument("--onnx", action="store_true", help=f"write the learner's backbone as {ONNX} too")
    options = parser.parse_args(args)
    if options.onnx:
        check_onnx()
    path = checkpoint_of(options.run)
    checkpoint = read_checkpoint(path)
    entry = checkpoint.get(KEY)
    if not isinstance(entry, Mapping) or not ("learner" in entry or "networks" in entry):
        raise UserError(f"checkpoint {path}: is neither of a learner nor of a generator of genmeta")
    graph = None
    if "learner" in entry:
        loaded = load_learner(str(path))  # fails here if it cannot be built
        graph = as_onnx(loaded) if options.onnx else None
    elif options.onnx:
        raise UserError(f"--onnx: checkpoint {path} is of a generator; expected a learner, whose backbone is written")
    else:
        load_generator(path)
    entry = {key: value for key, value in entry.items() if key not in _LEFT_OUT}
    prefixes = ("learner.",) if "learner" in entry else tuple(of["prefix"] for of in entry["networks"].values())
    weights = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith(prefixes)}
    folder = claim_out(options.out, "export")
    about = {"genmeta": genmeta.__version__, "torch": torch.__version__}
    write_exported(folder, weights, entry, about)
    files, text = [WEIGHTS, CONFIG, CARD], card(path, entry, weights)
    if graph is not None:
        graph.save(folder / ONNX, external_data=False)  # in one file
        files, text = [*files, ONNX], text + about_onnx(loaded)
    (folder / CARD).write_text(text, encoding="utf-8")
    print(f"exported     {folder}/{', '.join(files)}", flush=True)


def card(path: Path, entry: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """Return the model card of a checkpoint, as Markdown.

    Args:
        path: of the checkpoint; its run folder and the tests of it have the figures.
        entry: of the checkpoint.
        weights: that are exported.
    """
    n = sum(value.numel() for value in weights.values() if value.is_floating_point())
    lines = ["---", "library_name: genmeta", "---", "", *_what(entry), "", f"- numbers in its weights: {n:,}"]
    lines += [f"- classes: split `{entry['split_name']}`, hash `{entry['split_hash']}`"]
    if entry.get("content"):
        lines += [f"- pictures: content `{entry['content']}`"]
    if "learner" in entry:
        lines += [f"- trained on {len(entry['train'])} classes of `{entry['dataset']}`, chosen on {len(entry['val'])}"]
    lines += [f"- genmeta {genmeta.__version__}, torch {torch.__version__}", "", "## Figures", ""]
    figures = list(_figures(path))
    if note := banner(*(summary for _, summary in figures)):
        lines += [note.strip(), ""]
    for title, summary in figures:
        lines += [f"{title}:", "", *(f"- {name}: {value}" for name, value in _numbers(summary).items()), ""]
    if not figures:
        lines += ["No figures: the checkpoint's run folder has no summary, and there is no test of it beside.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _what(entry: Mapping[str, Any]) -> list[str]:
    if "learner" in entry:
        shape = "×".join(map(str, entry["image_shape"]))
        class_path = entry["learner"]["class_path"]
        use = 'model = genmeta.load("this folder")\nmodel.predict({"cat": [picture], "dog": [other]}, pictures).labels'
        title = f"# {class_path.rsplit('.', 1)[-1]} for images {shape}"
        about = f"A few-shot learner, `{class_path}`: it names pictures of classes that it has never seen."
    else:
        named = ", ".join(f"{role} `{of['class']}`" for role, of in entry["networks"].items())
        use = 'from genmeta.models.checkpoint import load_generator\n\nmodel = load_generator("this folder")'
        title, about = "# Generative model", f"Networks: {named}."
    return [title, "", about, "", "```python", *(["import genmeta", ""] if "learner" in entry else []), use, "```"]


def _figures(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the summary of the checkpoint's training, and the summaries of its tests beside its run."""
    run = path.parent.parent
    if (run / RUN_FILE).is_file():
        summary = read_run_file(run)
        if path == best_checkpoint(run) and "best" in summary:  # "metrics" are of the end of training
            summary["metrics"] = _at_best(run, summary["best"])
            yield "Validation, which has chosen this checkpoint", summary
        else:
            yield "Validation, at the end of training", summary
    for file in sorted(run.parent.parent.glob(f"*/*/{RUN_FILE}")):
        try:
            config = yaml.safe_load((file.parent / CONFIG_FILE).read_text(encoding="utf-8"))
            tested = config.get("ckpt_path") and Path(config["ckpt_path"]).resolve() == path.resolve()
        except (OSError, yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError, RecursionError):
            continue
        if tested:
            summary = read_run_file(file.parent)
            stage = "Test" if summary.get("stage") == "test" else "Validation"
            yield f"{stage}, on classes that it was not trained on", summary


def _at_best(run: Path, best: Mapping[str, float]) -> dict[str, float]:
    """Return the metric that a checkpoint was chosen by, and its interval, if the run has written one."""
    [(name, value)] = best.items()
    metrics = dict(best)
    if (run / "metrics.csv").is_file():
        with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                half = row.get(f"{name}_ci95")
                if half and row.get(name) and abs(float(row[name]) - value) < 1e-6:
                    metrics[f"{name}_ci95"] = float(half)
    return metrics


def _numbers(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures of a run, with their intervals, and the hashes of the episodes."""
    kept = {name: value for name, value in summary.get("metrics", {}).items() if name.startswith(("val/", "test/"))}
    rows = {name: str(value) for name, value in in_words(kept).items()}
    rows |= {f"report: {name}": f"{value:.4g}" for name, value in summary.get("report", {}).items()}
    return rows | {f"episodes {name}": f"hash `{its}`" for name, its in summary.get("episodes", {}).items()}
