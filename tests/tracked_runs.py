"""Short offline runs of every kind, and what W&B recorded of them."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

from conftest import PATIENCE, make_table, toy_split

from genmeta.cli.main import main
from genmeta.modules import generative_module

DEBUG = "--config=configs/trainer/debug.yaml"
QUICK = "--data.feature_steps=2"
PROTONET = "--config=configs/learner/protonet.yaml"


@dataclass(frozen=True)
class Recorded:
    """A W&B run, read back from the file that it wrote."""

    folder: Path

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        (file,) = self.folder.glob("wandb/offline-run-*/*.wandb")
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        lines = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=True
        ).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [record[kind] for record in self.records if record["type"] == kind]

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
        return {name: _run(folder, name, args) for name, args in commands.items()}


def _run(folder: Path, name: str, args: tuple[str, ...]) -> Recorded:
    os.environ.pop("GENMETA_RUN_FOLDER", None)
    named = () if name == "explore" else (f"--run.name={name.removeprefix('audit-')}", DEBUG)
    assert main([*args, *named]) == 0, name
    return Recorded(folder / name / "001")
