"""Short offline runs of every kind, and what W&B recorded of them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from conftest import PATIENCE, make_table, toy_split

from genmeta.cli import compare
from genmeta.cli.main import main
from genmeta.experiments.run import Run
from genmeta.modules import generative_module

DEBUG = "--config=configs/trainer/debug.yaml"
QUICK = "--data.feature_steps=2"
PROTONET = "--config=configs/learner/protonet.yaml"


def recorded(file: Path) -> list[dict[str, Any]]:
    """Return what a file of W&B has recorded."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_kind(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in records if record["type"] == kind]


@dataclass(frozen=True)
class Recorded:
    """A W&B run, read back from the file that it wrote."""

    folder: Path

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        (file,) = self.folder.glob("wandb/offline-run-*/*.wandb")
        return recorded(file)

    def all(self, kind: str) -> list[dict[str, Any]]:
        return of_kind(self.records, kind)

    def table(self, key: str) -> list[dict[str, Any]]:
        """The rows of a table that was logged, by the names of its columns."""
        (file,) = self.folder.glob(f"wandb/offline-run-*/files/media/table/{key}_*.table.json")
        content = json.loads(file.read_text())
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]

    @property
    def run(self) -> dict[str, Any]:
        return self.all("run")[-1]

    @property
    def history(self) -> list[dict[str, Any]]:
        return [entry["item"] for entry in self.all("history")]

    @property
    def keys(self) -> set[str]:
        """What was logged or written to the summary, without W&B's own."""
        items = [*self.history, *(entry.get("update", {}) for entry in self.all("summary"))]
        return {name for item in items for key in item if not (name := key.split(".")[0]).startswith("_")}

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for entry in self.all("config"):
            config |= entry.get("update", {})
        return config

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = {}
        for entry in self.all("summary"):
            summary |= entry.get("update", {})
        return summary

    def artifacts(self, *, used: bool) -> dict[str, dict[str, Any]]:
        """By `type/name`, those that the run used, or those that it made."""
        return {f"{a['type']}/{a['name']}": a for a in self.all("artifact") if a.get("use_after_commit", False) == used}


def make_runs(folder: Path) -> dict[str, Recorded]:
    """Pretrain a GAN, a VAE and a redrawer, audit, meta-train on classes of the VAE, test, explore: on small data."""
    split = toy_split(make_table())
    parts = {part: getattr(split, part) for part in ("train", "val", "test")}
    (folder / "toy.json").write_text(json.dumps({"dataset": "toy", **parts}))
    where = f"--run.folder={folder}"
    data = ("--data.source=conftest.ToySource", f"--data.split={folder / 'toy.json'}")
    fit = ("fit", where)
    vae, redrawer, learner = (
        folder / name / "001" / "checkpoints" / "best.ckpt" for name in ("vae", "redrawer", "learner")
    )
    mixed = (PROTONET, "--config=configs/policy/random_other.yaml", *data, f"--data.generator={vae}")
    commands: dict[str, tuple[str, ...]] = {
        "gan": (*fit, "--config=configs/generator/gan.yaml", *data, QUICK),
        "vae": (*fit, "--config=configs/generator/vae_plain.yaml", *data, QUICK, "--model.importance_samples=2"),
        "redrawer": (*fit, "--config=configs/generator/vae_deformation.yaml", *data, QUICK),
        "learner": (*fit, *mixed, "--run.group=together", "--run.tensorboard=true"),
        "redrawn": (
            *fit,
            PROTONET,
            "--config=configs/policy/redrawn_quarter.yaml",
            *data,
            f"--data.redrawer={redrawer}",
        ),
        "test": ("test", where, *mixed, f"--ckpt_path={learner}", "--run.tensorboard=true"),
        "by-hand": ("test", where, "--config=configs/baseline/bending.yaml", *data, "--model.learner.steps=2"),
        "audit-learner": ("audit", "--feature_steps=2", *mixed, where),
        "explore": ("explore", "--ckpt", str(vae), "--out", str(folder / "explore" / "001")),
    }
    few = {"N_SAMPLES": 48, "N_CLASSES": 20}  # what a report measures, for the time's sake
    with patch.multiple(generative_module, **few):
        made = {name: _run(folder, name, args) for name, args in commands.items()}
    return made | _compared(folder)


def _compared(folder: Path) -> dict[str, Recorded]:
    """Compare two arms on two seeds, in this process; return the comparison, and one of its tests."""
    settings = {
        "data": str(folder / "toy.yaml"),
        "learner": "protonet",
        "seeds": [0, 1],
        "control": "pixels",
        "budget": ["configs/trainer/debug.yaml"],
        "tests": [{"n_way": 5, "n_shot": 1, "n_query": 5, "n_episodes": 20}],
        "arms": {
            "real": {"title": "real, with rotations", "policy": ["rotations"]},
            "pixels": {"learner": "configs/baseline/pixels.yaml", "train": False},
        },
    }
    source = {"class_path": "conftest.ToySource"}
    data = {"class_path": "genmeta.modules.episodic_data.EpisodicDataModule"}
    data["init_args"] = {"source": source, "split": str(folder / "toy.json")}
    (folder / "toy.yaml").write_text(yaml.safe_dump({"data": data}))
    (folder / "two.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    args = ["compare", f"--config={folder / 'two.yaml'}", f"--runs={folder}", "--track_runs"]
    with patch.object(compare, "run_all", _run_here):
        assert main(args) == 0
    (tested,) = (folder / "two" / "real-seed1-test").iterdir()
    return {"compare": Recorded(folder / "two"), "compared": Recorded(tested)}


def _run_here(runs: Iterable[Run], *_: object, **__: object) -> list[Run]:
    """Stand in for `run_all`, whose processes take 8 s each to begin."""
    for run in runs:
        os.environ.pop("GENMETA_RUN_FOLDER", None)
        where = (f"--run.name={run.name}", f"--run.folder={run.runs}", f"--run.version={run.folder.name}")
        assert main([*run.args, *run.labels, *where]) == 0
    return []


def _run(folder: Path, name: str, args: tuple[str, ...]) -> Recorded:
    os.environ.pop("GENMETA_RUN_FOLDER", None)
    named = () if name == "explore" else (f"--run.name={name.removeprefix('audit-')}", DEBUG)
    assert main([*args, *named]) == 0, name
    return Recorded(folder / name / "001")
