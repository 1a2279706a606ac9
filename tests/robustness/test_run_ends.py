"""However a training ends, what it made is kept, and only files that exist are named."""

import json
import re
from pathlib import Path

import pytest
import torch
from small_runs import config, fit, newest, part, write

pytestmark = pytest.mark.usefixtures("cache_of_session")

STOP = part(
    "lightning.pytorch.callbacks.EarlyStopping",
    monitor="train/acc",
    mode="max",
    patience=0,
    check_on_train_epoch_end=True,
)
ENDS = {
    "after the last validation": ([], True, 3),
    "no validation by limit_val_batches": (["--trainer.limit_val_batches=0"], False, 3),
    "no validation by check_val_every_n_epoch": (["--trainer.check_val_every_n_epoch=2"], False, 3),
    "no validation by max_steps": (["--trainer.max_steps=2"], False, 2),
    "an epoch after the last validation": (
        ["--trainer.check_val_every_n_epoch=2", "--trainer.max_epochs=3"],
        True,
        9,
    ),
    "steps after the last validation": (["--trainer.max_epochs=2", "--trainer.max_steps=5"], True, 5),
    "steps after a validation in the epoch": (["--trainer.val_check_interval=2"], True, 3),
    "stopped early": (["--trainer.max_epochs=9", f"--trainer.callbacks+={json.dumps(STOP)}"], True, None),
    "nothing is kept": (["--trainer.fast_dev_run=2"], None, 2),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_end_is_kept_and_only_what_exists_is_named(end, tmp_path, pictures, capsys):
    options, has_best, steps = ENDS[end]
    yaml_file = write(tmp_path / "learner.yaml", config("learner", pictures))
    assert fit(yaml_file, tmp_path / "runs", *options) == 0
    folder, out = newest(tmp_path / "runs"), capsys.readouterr()
    summary = json.loads((folder / "run.json").read_text())
    best, last = (folder / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
    for named in re.findall(re.escape(str(folder)) + r"[^\s,;]*", out.out):
        assert Path(named).exists(), named
    assert "could not find the monitored key" not in out.err
    assert last.is_file() == (has_best is not None)
    assert best.is_file() == bool(has_best) == ("best" in summary)
    if has_best is None:
        assert "no checkpoint: trainer.fast_dev_run keeps none" in out.out
        return
    assert (str(best) if has_best else f"{last}, the last (there was no validation") in out.out
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["global_step"] == summary["steps"]
    if steps is not None:
        assert summary["steps"] == steps


@pytest.mark.parametrize("kind", ["gan", "vae", "redrawer"])
def test_a_generator_without_a_validation_is_its_last(kind, tmp_path, pictures, capsys):
    yaml_file = write(tmp_path / "generator.yaml", config(kind, pictures))
    assert fit(yaml_file, tmp_path / "runs", "--trainer.limit_val_batches=0") == 0
    folder = newest(tmp_path / "runs")
    assert f"{folder / 'checkpoints' / 'last.ckpt'}, the last" in capsys.readouterr().out
    assert json.loads((folder / "run.json").read_text())["report"]["fid"] > 0


@pytest.mark.parametrize(("max_steps", "validates"), [(4, False), (5, True)])
def test_that_no_validation_will_come_is_told_before_training(max_steps, validates, tmp_path, pictures, capsys):
    """Two optimisers take six steps in the three batches until the validation; the fifth step is in the third batch."""
    yaml_file = write(tmp_path / "gan.yaml", config("gan", pictures))
    assert fit(yaml_file, tmp_path / "runs", "--trainer.max_epochs=-1", f"--trainer.max_steps={max_steps}") == 0
    told = "no validation chooses the best checkpoint, so the last is the result" in capsys.readouterr().err
    assert told != validates
    assert (newest(tmp_path / "runs") / "checkpoints" / "best.ckpt").is_file() == validates


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (["--trainer.max_epochs=3"], ["--trainer.max_epochs=4"]),
        (["--trainer.max_steps=8"], ["--trainer.max_epochs=-1", "--trainer.max_steps=12"]),
    ],
    ids=["an epoch after the last validation", "in an epoch"],
)
def test_what_was_kept_at_the_end_goes_on_as_if_it_had_not_ended(first, then, tmp_path, pictures):
    yaml_file = write(tmp_path / "learner.yaml", config("learner", pictures))
    every = "--trainer.check_val_every_n_epoch=2"
    assert fit(yaml_file, tmp_path / "whole", every, *then) == 0
    assert fit(yaml_file, tmp_path / "parts", "--trainer.max_epochs=4", every, *first) == 0
    last = newest(tmp_path / "parts") / "checkpoints" / "last.ckpt"
    assert fit(yaml_file, tmp_path / "parts", every, *then, f"--ckpt_path={last}") == 0
    whole, parts = (
        torch.load(newest(tmp_path / runs) / "checkpoints" / "last.ckpt", weights_only=True)
        for runs in ("whole", "parts")
    )
    assert whole["global_step"] == parts["global_step"] == 12
    torch.testing.assert_close(whole["state_dict"], parts["state_dict"], rtol=0, atol=0)


def test_a_run_without_a_best_checkpoint_is_used_again(tmp_path, pictures):
    yaml_file = write(tmp_path / "learner.yaml", config("learner", pictures))
    for _ in range(2):
        assert fit(yaml_file, tmp_path / "runs", "--trainer.limit_val_batches=0", "--run.reuse=true") == 0
    assert len(list((tmp_path / "runs" / "learner").iterdir())) == 1
