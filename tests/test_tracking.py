"""What W&B and TensorBoard are told, read back from short offline runs; dashboards; the table of metrics."""

import importlib.util
import json
import os
import re
import socket
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from tracked_runs import Recorded, make_runs

from genmeta.cli import lineage, tracking
from genmeta.cli.main import main
from genmeta.cli.tracking import BEST, IMAGES, STEP
from genmeta.experiments.run_folder import RunSettings


@pytest.fixture(scope="module")
def connections() -> list[object]:
    return []


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, connections: list[object]) -> dict[str, Recorded]:
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and not (isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1")):
            connections.append(address)
            raise OSError("no network in this test")
        connect(self, address)  # type: ignore[arg-type]  # W&B talks to its own process

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DATA_DIR", "")  # set by the runs, put back after
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.chdir(ROOT)
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr("builtins.input", lambda *_: pytest.fail("something was asked"))
        return make_runs(tmp_path_factory.mktemp("runs"))


def test_nothing_is_connected_to(runs, connections):
    assert runs
    assert connections == []


def test_runs_are_labelled_so_that_they_group_and_filter(runs):
    kinds = {name: run.run["job_type"] for name, run in runs.items()}
    assert kinds == {
        "gan": "pretrain-gan",
        "vae": "pretrain-vae",
        "redrawer": "pretrain-redrawer",
        "learner": "meta-train",
        "redrawn": "meta-train",
        "test": "meta-test",
        "by-hand": "meta-test",
        "audit-learner": "audit",
        "explore": "explore",
    }
    assert all(run.run["project"] == "genmeta" for run in runs.values())
    assert runs["learner"].run["run_group"] == "together"
    assert {"data:toy", "split:toy"} <= set.intersection(*(set(r.run["tags"]) for r in runs.values()))
    learner = {"learner:ProtoNet", "tasks:MixedTasks", "tasks:LatentTasks", "policy:RandomOther", "generator:vae"}
    assert learner <= set(runs["learner"].run["tags"])
    assert "generator:gan" in runs["gan"].run["tags"]


def test_every_entry_of_training_has_both_axes(runs):
    for name in ("gan", "vae", "redrawer", "learner"):
        data = runs[name].config["data"]["init_args"]
        a_step = data.get("batch_size", 4 * 10 * 3)  # of episodes: tasks, classes, images of a class
        items = [item for item in runs[name].history if any(key.startswith("train/") for key in item)]
        assert items
        for item in items:
            assert item[IMAGES] == (item[STEP] + 1) * a_step
    last = max(item[STEP] for item in runs["gan"].history if STEP in item)
    assert last == 2, "three steps of a GAN count three, not one for each of its networks"


def test_the_summary_has_the_best_of_what_is_chosen_by_and_the_last_of_tests(runs):
    assert "max" in runs["learner"].summary["val/acc"]
    assert "min" in runs["gan"].summary["val/fid"]
    assert isinstance(runs["test"].summary["test/acc_5w1s"], float)
    logged = set().union(*(run.keys for run in runs.values()))
    assert set(BEST) <= logged | {"train/error"}, "a best value is defined of something that is never logged"


def test_the_lineage_goes_from_the_split_to_the_test(runs):
    vae, learner = (runs[name].artifacts(used=False) for name in ("vae", "learner"))
    for run, made in (("learner", vae), ("audit-learner", vae), ("explore", vae), ("test", learner)):
        used = runs[run].artifacts(used=True)
        for name, artifact in made.items():
            assert used[name]["digest"] == artifact["digest"]
    splits = [runs[name].artifacts(used=True)["dataset/split-toy"] for name in ("gan", "vae", "learner")]
    assert len({split["digest"] for split in splits}) == 1
    inputs = runs["test"].config["inputs"]["learner"]
    assert inputs["run_id"] == runs["learner"].run["run_id"]
    assert Path(inputs["path"]).is_file()


def test_the_configuration_is_complete_and_without_secrets(runs, monkeypatch):
    config = runs["learner"].config
    assert config["data"]["init_args"]["train_tasks"]["init_args"]["share"] == 0.5
    assert config["split"]["name"] == "toy"
    assert {"trainer", "model", "run", "seed_everything", "versions", "commit", "episodes"} <= set(config)
    everything = json.dumps(runs["learner"].records)
    assert "remote_url" not in everything
    assert os.environ.get("USER", "?" * 9) + "@" not in everything


def test_tests_have_a_histogram_and_a_table(runs):
    keys = runs["test"].keys
    assert {"episodes/acc_5w1s", "episodes/acc_5w5s", "tables/results"} <= keys
    (histogram,) = [item for item in runs["test"].history if any("episodes/acc_5w1s" in key for key in item)]
    assert sum(histogram["episodes/acc_5w1s.values"]) == 20, "two batches of ten episodes"


def test_every_metric_is_explained_and_every_explained_one_is_logged(runs):
    text = (ROOT / "docs" / "tracking.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `([^`]+)`", text, re.MULTILINE))
    logged = set().union(*(run.keys for run in runs.values())) - {"epoch"}
    logged = {re.sub(r"5w[15]s", "<shape>", key) for key in logged}
    assert logged == explained - {"tables/arms"}  # logged by `genmeta experiment` alone, which has no run here


def test_every_key_of_the_dashboard_is_logged(runs):
    pytest.importorskip("wandb_workspaces")
    spec = importlib.util.spec_from_file_location("dashboard", ROOT / "scripts" / "dashboard.py")
    dashboard = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "dashboard", dashboard)
        spec.loader.exec_module(dashboard)
    logged = set().union(*(run.keys for run in runs.values()))
    panels = [panel for section in dashboard.SECTIONS.values() for panel in section]
    assert {key for panel in panels for key in (*panel.keys, panel.x)} - logged == set()


def test_artifacts_can_be_left_out(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(ROOT)
    args = ["fit", "--config=configs/learner/protonet.yaml", "--config=configs/policy/real_only.yaml"]
    more = ["--config=configs/trainer/debug.yaml", f"--run.folder={tmp_path}", "--run.name=a"]
    assert main([*args, *more, "--run.artifacts=false"]) == 0
    assert Recorded(tmp_path / "a" / "001").all("artifact") == []


def test_a_run_is_recorded_in_its_folder_whatever_ran_before_in_this_process(tmp_path, monkeypatch):
    """W&B's process, begun by the first run, went on in that run's current folder: `runs/…` of the next lay there."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", "")
    for name in ("first", "second"):
        folder = tmp_path / name / "runs" / "check" / "001"
        folder.mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        with tracking.tracking(RunSettings(name=name), Path("runs/check/001"), "check") as experiment:
            experiment.log({"x": 1})
        assert Recorded(folder).run["display_name"] == f"{name}/001"


def test_a_large_checkpoint_is_referred_to_and_not_uploaded(runs, monkeypatch):
    checkpoint = runs["vae"].folder / "checkpoints" / "best.ckpt"
    monkeypatch.setattr(lineage, "LARGEST_FILE", 10)
    (entry,) = lineage.checkpoint_artifact(checkpoint, {}).manifest.entries.values()
    assert entry.ref.startswith("file://")


def test_tensorboard_has_scalars_pictures_and_histograms(runs):
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = loading.EventAccumulator(str(runs["learner"].folder / "tensorboard"))
    found.Reload()
    assert {"train/loss", "train/acc_decoded", "val/acc"} <= set(found.Tags()["scalars"])
    assert found.Tags()["images"] == ["pictures/episodes"]
    tested = loading.EventAccumulator(str(runs["test"].folder / "tensorboard"))
    tested.Reload()
    assert "episodes/acc_5w1s" in tested.Tags()["histograms"]


def test_tensorboard_that_is_not_installed_is_told_before_anything_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    find_spec = tracking.importlib.util.find_spec
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda n: None if n == "tensorboard" else find_spec(n))
    args = ["fit", "--config=configs/generator/gan_classic.yaml", f"--run.folder={tmp_path}"]
    assert main([*args, "--run.tensorboard=true"]) == 2
    error = capsys.readouterr().err
    assert "run.tensorboard" in error
    assert "genmeta[tensorboard]" in error
    assert list(tmp_path.iterdir()) == []
