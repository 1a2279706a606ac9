"""Second and third data: the digits of scikit-learn, and colour at 84 pixels, with learners that move images."""

import json
import os

import pytest
import torch
from conftest import ROOT
from small_data import mini_imagenet

from genmeta.cli.main import main
from genmeta.data.digits import Digits
from genmeta.data.splits import PARTS, load_split
from genmeta.errors import UserError

ALIGNED, BENDING = "--config=configs/learner/aligned.yaml", "--config=configs/baseline/bending.yaml"
DIGITS = ["--config=configs/data/digits.yaml", "--config=configs/budget/digits.yaml"]
DEBUG = "--config=configs/trainer/debug.yaml"


def test_digits_are_in_their_class_and_place():
    """Bug: images and labels sorted apart from each other, or a digit that is not where MNIST has it."""
    from sklearn.datasets import load_digits

    table, found = Digits().load(), load_digits()
    assert table.image_shape == Digits().image_shape == (1, 28, 28)
    assert table.counts.tolist() == [int((found.target == digit).sum()) for digit in range(10)]
    firsts = torch.stack([torch.from_numpy(found.images[found.target == digit][0]) for digit in range(10)]).float()
    for digit in range(10):
        drawn = table.images[table.starts[digit], 0].float() / 255
        assert drawn[:4].max() == drawn[-4:].max() == drawn[:, :4].max() == drawn[:, -4:].max() == 0
        small = torch.nn.functional.adaptive_avg_pool2d(drawn[None, 4:24, 4:24], 8)[0]
        alike = torch.corrcoef(torch.cat([small.flatten()[None], firsts.flatten(1)]))[0, 1:]
        assert alike.argmax() == digit
        assert alike[digit] > 0.9, "but for the smoothing of the interpolation"
    assert table.images.max() > 240, "ink is white"
    assert Digits(56).load().image_shape == (1, 56, 56)
    with pytest.raises(UserError, match="size"):
        Digits(0)


def test_the_split_has_every_digit_once():
    table, split = Digits().load(), load_split("digits")
    ids = torch.cat([split.class_ids(table, part) for part in PARTS])
    assert ids.tolist() == list(range(10))


def train_and_test(folder, *args) -> None:
    settings = [DEBUG, f"--run.folder={folder}", "--run.wandb=off", "--data.tasks_per_eval_batch=1"]
    assert main(["fit", ALIGNED, *args, *settings, "--run.name=fit"]) == 0
    os.environ.pop("GENMETA_RUN_FOLDER", None)
    fit = folder / "fit" / "001"
    aligned = [f"--config={fit / 'config.yaml'}", f"--ckpt_path={fit / 'checkpoints' / 'best.ckpt'}"]
    for name, learner in (("aligned", aligned), ("bending", [BENDING, *args, "--model.learner.steps=2"])):
        assert main(["test", *learner, *settings, f"--run.name={name}"]) == 0
        os.environ.pop("GENMETA_RUN_FOLDER", None)
        assert json.loads((folder / name / "001" / "run.json").read_text())["episode_accuracies"]
        assert (folder / name / "001" / "pictures" / "stages.png").is_file()


def test_learners_that_move_images_train_and_test_on_digits(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    train_and_test(tmp_path, *DIGITS)


@pytest.mark.slow
def test_they_run_in_colour_at_84_pixels(tmp_path, monkeypatch):
    """Bug: sizes or channels of 28-pixel ink that are written down somewhere."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "files").mkdir()
    mini_imagenet(tmp_path / "files")
    sizes = ["train={n_way: 3, n_shot: 1, n_query: 1}", "val={n_way: 3, n_shot: 1, n_query: 1, n_episodes: 2}"]
    sizes += ["test=[{n_way: 3, n_shot: 1, n_query: 1, n_episodes: 2}]", "train_tasks=genmeta.tasks.real.RealTasks"]
    data = ["--config=configs/data/mini_imagenet.yaml", f"--data.source.folder={tmp_path / 'files'}"]
    train_and_test(tmp_path, *data, *(f"--data.{option}" for option in sizes))
