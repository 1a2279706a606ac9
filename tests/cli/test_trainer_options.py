"""Every option of Lightning's Trainer works with every kind of module, or is refused in one line before training."""

import csv
import json
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from small_runs import MODELS, config, fit, newest, part, write

pytestmark = pytest.mark.usefixtures("cache_of_session")

ALL = tuple(MODELS)
STOP = "lightning.pytorch.callbacks.EarlyStopping"
PLATEAU = "lightning.pytorch.cli.ReduceLROnPlateau"


def callback(monitor: str, **more) -> str:
    return f"--trainer.callbacks=[{json.dumps(part(STOP, monitor=monitor, **more))}]"


def plateau(monitor: str, mode: str) -> str:
    return f"--model.lr_scheduler={json.dumps(part(PLATEAU, monitor=monitor, mode=mode))}"


REFUSED = {
    "clipping of a GAN": (["gan"], ["--trainer.gradient_clip_val=1.0"], "set model.gradient_clip"),
    "accumulation of a GAN": (["gan"], ["--trainer.accumulate_grad_batches=2"], "set model.accumulate"),
    "clipping with a fused optimiser": (
        ["vae"],
        ["--trainer.gradient_clip_val=1.0", "--trainer.precision=bf16-mixed"],
        "set model.optimizer.init_args.fused to false",
    ),
    "negative clipping": (ALL, ["--trainer.gradient_clip_val=-1.0"], "expected at least 0, found -1.0"),
    "no accumulation": (ALL, ["--trainer.accumulate_grad_batches=0"], "expected at least 1, found 0"),
    "stop by what is not logged": (ALL, [callback("val/axc")], "trainer.callbacks.0.monitor: 'val/axc' is not logged"),
    "stop by a validation that never comes": (
        ["learner"],
        [callback("val/acc", mode="max"), "--trainer.limit_val_batches=0"],
        "there is no 'val/acc' without a validation, and trainer.limit_val_batches is 0",
    ),
    "stop by what is not logged, beside a callback that logs nothing": (
        ["learner"],
        [f"--trainer.callbacks=[{json.dumps(part(STOP, monitor='val/axc'))}, test_trainer_options.Silent]"],
        "trainer.callbacks.0.monitor: 'val/axc' is not logged",
    ),
    "stop a GAN by a validation that its steps do not reach": (
        ["gan"],
        [callback("val/fid"), "--trainer.max_epochs=-1", "--trainer.max_steps=4"],
        "trainer.max_steps is 4 (it counts each optimiser's steps, 4 until then), and the first validation comes",
    ),
    "schedule by what is not logged": (ALL, [plateau("val/axc", "min")], "model.lr_scheduler.monitor: 'val/axc'"),
    "schedule the wrong way": (["learner"], [plateau("val/acc", "min")], "set mode: max"),
    "no batches": (ALL, ["--trainer.limit_train_batches=0"], "nothing would be trained"),
    "a share of no batch": (["learner"], ["--trainer.limit_train_batches=0.1"], "0.1 of 3 batches are none"),
    "no epochs": (["learner"], ["--trainer.max_epochs=0"], "trainer.max_epochs: found 0"),
    "no end": (["learner"], ["--trainer.max_epochs=null"], "expected when training ends"),
    "validation every zero epochs": (["learner"], ["--trainer.check_val_every_n_epoch=0"], "expected at least 1"),
    "validation after more batches than there are": (
        ["learner"],
        ["--trainer.val_check_interval=9"],
        "found 9 batches, but an epoch has 3",
    ),
    "a share of no validation batch": (["learner"], ["--trainer.limit_val_batches=0.1"], "trainer: "),
    "weights in another type": (ALL, ["--trainer.precision=64-true"], "trainer.precision: found 64-true"),
    "no checkpoints": (["learner"], ["--trainer.enable_checkpointing=false"], "trainer: "),
    "barebones": (["learner"], ["--trainer.barebones=true"], "trainer: "),
    "no such device": (["learner"], ["--trainer.accelerator=tpu"], "trainer: "),
}


@pytest.mark.parametrize(("what", "kind"), [(what, kind) for what, (kinds, _, _) in REFUSED.items() for kind in kinds])
def test_what_cannot_be_honoured_is_refused_in_one_line_and_leaves_no_folder(what, kind, tmp_path, pictures, capsys):
    _, options, told = REFUSED[what]
    yaml_file = write(tmp_path / "it.yaml", config(kind, pictures))
    assert fit(yaml_file, tmp_path / "runs", *options) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("genmeta: ")]
    assert len(said) == 1
    assert told in said[0]
    assert not list((tmp_path / "runs").glob("*/*"))


class Silent(Callback):
    """Logs nothing."""


class Talking(Callback):
    """Logs a metric of its own."""

    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.log("mine/metric", 1.0)


def test_a_metric_that_another_callback_may_log_is_told_and_can_be_waited_for(tmp_path, pictures, capsys):
    yaml_file = write(tmp_path / "it.yaml", config("learner", pictures))
    stop = part(STOP, monitor="mine/metric", check_on_train_epoch_end=True)
    callbacks = f"[test_trainer_options.Talking, {json.dumps(stop)}]"
    assert fit(yaml_file, tmp_path / "runs", f"--trainer.callbacks={callbacks}") == 0
    assert "'mine/metric' is not logged by the model; if test_trainer_options.Talking" in capsys.readouterr().err


WORK = {
    "clipping": (["learner", "vae"], ["--trainer.gradient_clip_val=1.0"]),
    "accumulation": (["learner", "redrawer"], ["--trainer.accumulate_grad_batches=2"]),
    "clipping and accumulation of a GAN": (["gan"], ["--model.gradient_clip=1.0", "--model.accumulate=2"]),
    "no bar, no logging of steps": (
        ["learner", "gan"],
        ["--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=0"],
    ),
    "stop by a metric": (["learner"], [callback("train/acc", mode="max", patience=1)]),
    "a check before training": (["gan"], ["--trainer.num_sanity_val_steps=1"]),
}


@pytest.mark.parametrize(("what", "kind"), [(what, kind) for what, (kinds, _) in WORK.items() for kind in kinds])
def test_what_is_accepted_works(what, kind, tmp_path, pictures):
    yaml_file = write(tmp_path / "it.yaml", config(kind, pictures))
    assert fit(yaml_file, tmp_path / "runs", *WORK[what][1]) == 0
    assert (newest(tmp_path / "runs") / "checkpoints" / "best.ckpt").is_file()


def metrics(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def test_overfitting_to_some_batches_sees_no_others(tmp_path, pictures, monkeypatch):
    steps: list[int] = []
    from genmeta.modules.episodic_data import EpisodicDataModule

    plan = EpisodicDataModule.train_plan
    monkeypatch.setattr(EpisodicDataModule, "train_plan", lambda data, step: steps.append(step) or plan(data, step))
    yaml_file = write(tmp_path / "it.yaml", config("learner", pictures))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You requested to overfit")
        assert fit(yaml_file, tmp_path / "runs", "--trainer.overfit_batches=2", "--trainer.max_epochs=3") == 0
    assert steps[-6:] == [0, 1, 0, 1, 0, 1]


def test_loaders_made_again_every_epoch_go_on(tmp_path, pictures, monkeypatch):
    content = config("learner", pictures)
    yaml_file = write(tmp_path / "it.yaml", content)
    for runs, options in (("once", []), ("again", ["--trainer.reload_dataloaders_every_n_epochs=1"])):
        assert fit(yaml_file, tmp_path / runs, "--trainer.max_epochs=3", *options) == 0
    once, again = (metrics(newest(tmp_path / runs), "train/loss") for runs in ("once", "again"))
    assert once == again
    assert len(set(once)) == 9


@pytest.mark.parametrize("kind", ALL)
def test_a_schedule_by_a_metric_follows_it(kind, tmp_path, pictures):
    """The threshold is never passed, so that every validation but the first halves the rate; there is one every other
    epoch.
    """
    monitor, mode = {"learner": ("val/acc", "max"), "gan": ("val/fid", "min"), "vae": ("val/elbo", "max")}.get(
        kind, ("val/loss", "min")
    )
    made = part(
        PLATEAU, monitor=monitor, mode=mode, patience=0, factor=0.5, threshold=1e9, threshold_mode="abs", eps=0.0
    )
    content = config(kind, pictures)
    content["trainer"] |= {"max_epochs": 6, "check_val_every_n_epoch": 2}
    content["model"] = {**content["model"], "init_args": {**content["model"]["init_args"], "lr_scheduler": made}}
    assert fit(write(tmp_path / "it.yaml", content), tmp_path / "runs") == 0
    checkpoint = torch.load(newest(tmp_path / "runs") / "checkpoints" / "last.ckpt", weights_only=True)
    # the last is written after the third validation, before the schedule is stepped for the third time
    rates = [state["param_groups"][0]["lr"] for state in checkpoint["optimizer_states"]]
    assert rates == pytest.approx([0.0005] * len(rates))


@pytest.mark.parametrize("kind", ALL)
def test_a_module_names_all_metrics_that_it_logs(kind, tmp_path, pictures):
    from genmeta.cli.training import TrainingCLI

    yaml_file = write(tmp_path / "it.yaml", config(kind, pictures))
    assert fit(yaml_file, tmp_path / "runs") == 0
    logged = set(json.loads((newest(tmp_path / "runs") / "run.json").read_text())["metrics"])
    cli = TrainingCLI(["fit", "--config", str(yaml_file)], check_only=True)
    assert logged == cli.model.logged(cli.datamodule)
