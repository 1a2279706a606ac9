"""What W&B and TensorBoard are told, read back from short offline runs; dashboards; the table of metrics."""

import importlib.util
import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import ROOT
from test_golden import RESOLVED, checked, finish
from tracked_runs import Recorded, make_runs, of_kind, recorded

from genmeta.cli import experiment, lineage, tracking
from genmeta.cli.main import main
from genmeta.cli.tracking import BEST, IMAGES, STEP
from genmeta.experiments import checks
from genmeta.experiments.run import Run
from genmeta.experiments.run_folder import RunSettings
from genmeta.modules.worst_queries import COLUMNS


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
        "compare": "compare",
        "compared": "meta-test",
    }
    assert all(run.run["project"] == "genmeta" for run in runs.values())
    assert runs["learner"].run["run_group"] == "together"
    of_data = [set(run.run["tags"]) for name, run in runs.items() if name != "compare"]
    assert {"data:toy", "split:toy"} <= set.intersection(*of_data)
    learner = {"learner:ProtoNet", "tasks:MixedTasks", "tasks:LatentTasks", "policy:RandomOther", "generator:vae"}
    assert learner <= set(runs["learner"].run["tags"])
    assert "generator:gan" in runs["gan"].run["tags"]


def test_a_run_of_a_comparison_says_its_arm_its_seed_and_of_what_it_is(runs):
    compared, compare = runs["compared"], runs["compare"]
    version = compare.config["experiment_version"]
    place = {"arm": "real", "arm_title": "real, with rotations", "seed": 1}
    place |= {"experiment": "two", "experiment_version": version}
    assert place.items() <= compared.config.items()
    assert {"arm:real", "seed:1", "experiment:two", f"version:{version}"} <= set(compared.run["tags"])
    assert compared.run["run_group"] == compare.run["run_group"] == "two"
    assert {"experiment:two", f"version:{version}"} <= set(compare.run["tags"])
    alone = runs["learner"]
    assert {"arm:learner", "seed:0"} <= set(alone.run["tags"])
    assert alone.config["arm"] == "learner"
    assert "experiment" not in alone.config


def test_the_run_of_a_comparison_has_its_sentence_its_arms_and_their_paired_differences(runs):
    compare = runs["compare"]
    results = json.loads((compare.folder / "results.json").read_text())
    assert results["sentence"] in compare.run["notes"]
    arms, differences = compare.table("tables/arms"), compare.table("tables/differences")
    assert [(row["arm"], row["title"], row["seeds"], row["is_control"]) for row in arms] == [
        ("real", "real, with rotations", 2, False),
        ("pixels", "pixels", 1, True),
    ]
    (expected,) = results["comparisons"]
    (found,) = differences
    assert found["difference"] == expected["difference"]
    assert (found["title"], found["control"], found["episodes"]) == ("real, with rotations", "pixels", "5w1s")
    assert (found["ci95_seeds"], found["p_holm"]) == (expected["ci95_seeds"], expected["p_holm"])
    assert arms[0]["accuracy"] - arms[1]["accuracy"] == pytest.approx(found["difference"])
    inputs = compare.config["inputs"]
    assert sorted(inputs) == ["real-seed0", "real-seed1"]
    assert Recorded(Path(inputs["real-seed1"]["path"]).parents[1]).run["run_id"] == inputs["real-seed1"]["run_id"]


def test_the_run_of_an_experiment_has_the_same_tables_and_its_runs_their_arms(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", "")
    monkeypatch.chdir(ROOT)
    begun: list[Run] = []
    monkeypatch.setattr(experiment, "run_all", lambda runs, *_: begun.extend(runs) or finish(runs))
    monkeypatch.setattr(experiment, "checked", checked("protonet.yaml"))
    monkeypatch.setattr(checks, "_check_generator", lambda *_: Mock(resolved=lambda: RESOLVED))
    assert experiment.experiment(["--runs", str(tmp_path)]) == 0
    (results,) = tmp_path.glob("glyphs-*/001/results.json")
    content, recorded_run = json.loads(results.read_text()), Recorded(results.parent)
    name = results.parent.parent.name
    assert (recorded_run.config["experiment"], recorded_run.config["experiment_version"]) == (name, "001")
    assert content["sentence"] in recorded_run.run["notes"]
    found = [row["difference"] for row in recorded_run.table("tables/differences")]
    assert found == [one["difference"] for one in content["comparisons"]]
    titles = {row["arm"]: row["title"] for row in recorded_run.table("tables/arms")}
    assert titles == {arm: of_arm["title"] for arm, of_arm in content["arms"].items()}
    labels = {run.label: run.labels for run in begun}
    assert len(labels) == len(begun) > 10
    whose = f"--run.experiment={name}/001"
    assert labels["elastic-seed1 test"] == (whose, "--run.arm=elastic", f"--run.arm_title={titles['elastic']}")
    assert labels["vae_deformation-glyphs 001"] == (whose,)


def test_the_table_of_test_episodes_shows_the_worst_queries_of_the_worst(runs):
    rows = runs["test"].table("tables/episodes")
    assert list(rows[0]) == list(COLUMNS)
    assert len(rows) == 8 * 4
    accuracies = json.loads((runs["test"].folder / "run.json").read_text())["episode_accuracies"]["5w1s"]
    lowest = sorted(range(len(accuracies)), key=lambda number: (accuracies[number], number))[:8]
    assert [row["episode"] for row in rows] == [number for number in lowest for _ in range(4)]
    assert [row["episode accuracy"] for row in rows[::4]] == pytest.approx([accuracies[number] for number in lowest])
    for row in rows:
        assert (row["class"] == row["taken for"]) == (row["how often confused"] is None)
        assert row["probability"] >= row["probability of its class"]
        assert row["query"] == row["its support"] == "Image"
    # which the file of the table only names; they are beside it in what is sent
    (table,) = [one for name, one in runs["test"].artifacts(used=False).items() if "-tablesepisodes-" in name]
    pictures = [entry for entry in table["manifest"]["contents"] if entry["path"].endswith(".png")]
    assert 32 <= len(pictures) <= 3 * 32, "those that are equal are sent once"


def test_a_run_that_goes_on_in_its_folder_is_the_same_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", "")
    monkeypatch.chdir(ROOT)
    args = ["fit", "--config=configs/learner/protonet.yaml", "--config=configs/policy/real_only.yaml"]
    where = ["--config=configs/trainer/debug.yaml", f"--run.folder={tmp_path}", "--run.name=a", "--run.version=v"]
    run = tmp_path / "a" / "v"
    assert main([*args, *where]) == 0
    (run / "run.json").unlink()  # as if it had been stopped
    last = f"--ckpt_path={run}/checkpoints/last.ckpt"
    monkeypatch.delenv("GENMETA_RUN_FOLDER")
    assert main([*args, *where, last, "--trainer.max_epochs=2"]) == 0
    first, second = (recorded(file) for file in sorted(run.glob("wandb/offline-run-*/*.wandb")))
    ids = [of_kind(records, "run")[0]["run_id"] for records in (first, second)]
    assert ids == [json.loads((run / "run.json").read_text())["wandb"]] * 2
    items = [[entry["item"] for entry in of_kind(part, "history")] for part in (first, second)]
    steps = [[item[STEP] for item in of_part if "train/loss" in item] for of_part in items]
    assert steps == [[0, 1, 2], [3, 4, 5]], "it goes on, and does not begin again"
    assert "learner" not in json.dumps([e["update"].get("inputs") for e in of_kind(second, "config")]), (
        "its own checkpoint is no input"
    )
    # another training that begins with its checkpoint is another run, which names it
    monkeypatch.delenv("GENMETA_RUN_FOLDER")
    assert main([*args, *where, "--run.version=w", last, "--trainer.max_epochs=3"]) == 0
    other = Recorded(tmp_path / "a" / "w")
    assert other.run["run_id"] != ids[0]
    assert other.config["inputs"]["learner"]["run_id"] == ids[0]
    assert "W&B fails" not in capsys.readouterr().err


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
    assert logged == explained


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
    # bars were those of all tests of an experiment together
    grouped = [("run", "group"), ("config", "experiment_version.value"), ("run", "jobType"), ("config", "arm.value")]
    for made in (dashboard.workspace("me", "genmeta"), dashboard.report("", "genmeta")):
        groupings = list(values_of(json.loads(dashboard.as_json(made)), "grouping"))
        assert groupings
        for keys in groupings:
            assert [(key["section"], key["name"]) for key in keys] == grouped
    assert {"experiment_version", "arm"} <= set(runs["compared"].config)


def values_of(content: object, name: str) -> Iterator[object]:
    """Yield what stands under a name, anywhere in a JSON; a report has a JSON within."""
    if isinstance(content, str) and content.startswith("{"):
        content = json.loads(content)
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        if key == name:
            yield value
        yield from values_of(value, name)


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
        with tracking.tracking(RunSettings(name=name), Path("runs/check/001"), "check") as begun:
            begun.log({"x": 1})
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
