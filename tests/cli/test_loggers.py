"""Loggers that are given by `class_path`, beside ours."""

import csv
import importlib.util

import pytest
from small_runs import config, fit, newest, part, write
from test_cli import assert_one_line

pytestmark = pytest.mark.usefixtures("cache_of_session")

LOGGERS = "lightning.pytorch.loggers"


def rows(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_tensorboard_and_csv_of_a_yaml_have_what_ours_has(tmp_path, pictures):
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    content = config("learner", pictures)
    content["trainer"]["logger"] = [
        part(f"{LOGGERS}.TensorBoardLogger", save_dir=str(tmp_path / "board"), name="mine", version="one"),
        part(f"{LOGGERS}.CSVLogger", save_dir=str(tmp_path / "table"), name="mine", version="one"),
    ]
    assert fit(write(tmp_path / "it.yaml", content), tmp_path / "runs") == 0
    run = newest(tmp_path / "runs")
    ours, theirs = rows(run / "metrics.csv"), rows(tmp_path / "table" / "mine" / "one" / "metrics.csv")
    assert ours == theirs
    assert {"train/loss", "val/acc"} <= set(ours[0])
    events = loading.EventAccumulator(str(tmp_path / "board" / "mine" / "one"))
    events.Reload()
    logged = [float(row["train/loss"]) for row in ours if row["train/loss"]]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(logged)
    assert "pictures/episodes" in events.Tags()["images"]
    assert "arm: learner" in (tmp_path / "table" / "mine" / "one" / "hparams.yaml").read_text()
    # and its test, by the configuration that the run has written
    best = run / "checkpoints" / "best.ckpt"
    assert fit(run / "config.yaml", tmp_path / "runs", f"--ckpt_path={best}", "--run.name=again", command="test") == 0


def test_a_logger_of_the_command_line(tmp_path, pictures):
    given = [f"--trainer.logger={LOGGERS}.CSVLogger", f"--trainer.logger.save_dir={tmp_path / 'table'}"]
    assert fit(write(tmp_path / "it.yaml", config("learner", pictures)), tmp_path / "runs", *given) == 0
    (theirs,) = (tmp_path / "table").rglob("metrics.csv")
    assert rows(theirs) == rows(newest(tmp_path / "runs") / "metrics.csv")


def test_mlflow_logs_or_is_said_to_be_missing(tmp_path, pictures, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = f"--trainer.logger={LOGGERS}.MLFlowLogger"
    code = fit(write(tmp_path / "it.yaml", config("learner", pictures)), tmp_path / "runs", given)
    if importlib.util.find_spec("mlflow") is None:
        assert code == 2
        assert_one_line(capsys, "the configured parts cannot be made: .*mlflow.*pip install")
        assert not (tmp_path / "runs").exists()
    else:
        assert code == 0
        (found,) = (tmp_path / "mlruns").glob("*/*/metrics/train/loss")
        assert found.read_text()
