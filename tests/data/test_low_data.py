"""Fewer groups, classes, images: of the train part only, seeded, recorded, and known to the guard."""

import json

import pytest
import torch
from conftest import ROOT, ToySource, make_table, toy_split
from test_cli import assert_one_line

from genmeta.cli.main import main
from genmeta.data.low_data import LowData
from genmeta.episode import EpisodeShape, plan_hash
from genmeta.errors import UserError
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.image_data import ImageDataModule
from genmeta.tasks.evaluated import Episodes
from genmeta.tasks.real import RealTasks

TABLE = make_table()
SPLIT = toy_split(TABLE)  # 12 train classes: 8 of group g0, 4 of g1
DEBUG, PROTONET, REAL = "configs/trainer/debug.yaml", "configs/learner/protonet.yaml", "configs/policy/real_only.yaml"
LATENT = "configs/policy/random_other.yaml"
VAE = "configs/generator/vae.yaml"


def episodic(split_file: str, low_data: LowData | None, **more) -> EpisodicDataModule:
    data = EpisodicDataModule(
        source=ToySource(),
        split=split_file,
        train_tasks=RealTasks(),
        train=EpisodeShape(2, 1, 2),
        val=Episodes(5, 1, 5, n_episodes=20),
        test=[Episodes(5, 1, 5, n_episodes=21)],
        low_data=low_data,
        **more,
    )
    data.setup("fit")
    return data


@pytest.mark.parametrize(
    ("low", "n_classes"),
    [
        (LowData(), 12),
        (LowData(classes=5), 5),
        (LowData(classes=0.5), 6),
        (LowData(classes=0.001), 1),
        (LowData(groups=1), None),
        (LowData(groups=0.5), None),
        (LowData(groups=2, classes=12), 12),
    ],
)
def test_numbers_and_shares_of_classes_and_groups(low, n_classes):
    kept = low.keep_classes(SPLIT, TABLE)
    assert set(kept.train) <= set(SPLIT.train)
    assert (kept.val, kept.test) == (SPLIT.val, SPLIT.test)
    if n_classes is None:
        assert len({name.split("/")[0] for name in kept.train}) == 1
        assert len(kept.train) in (4, 8)
    else:
        assert len(kept.train) == n_classes
    assert (kept.hash == SPLIT.hash) == (len(kept.train) == 12)


@pytest.mark.parametrize(("wanted", "n"), [(7, 7), (0.25, 5), (0.01, 1), (100, 20)])
def test_images_per_class_are_distinct_rows_of_their_class(wanted, n):
    ids = SPLIT.class_ids(TABLE, "train")
    rows = LowData(images_per_class=wanted).keep_images(TABLE, ids)
    for class_id, of_class in zip(ids, rows, strict=True):
        assert len(set(of_class.tolist())) == n
        assert (TABLE.class_ids[of_class] == class_id).all()


def test_a_smaller_choice_is_part_of_a_larger_one_and_follows_the_seed():
    small, large, other = (
        LowData(classes=n, seed=s).keep_classes(SPLIT, TABLE).train for n, s in ((3, 0), (6, 0), (3, 1))
    )
    assert set(small) < set(large)
    assert set(small) != set(other)
    ids = SPLIT.class_ids(TABLE, "train")
    few, more = (torch.cat(LowData(images_per_class=n).keep_images(TABLE, ids)).tolist() for n in (3, 9))
    assert set(few) < set(more)


def test_fewer_images_are_another_hash_though_the_classes_are_the_same():
    """A generator that saw twenty images of a class must not pass for one that saw five."""
    hashes = {
        LowData(images_per_class=n, seed=s).keep_classes(SPLIT, TABLE).hash
        for n, s in ((None, 0), (5, 0), (6, 0), (5, 1))
    }
    assert len(hashes) == 4


def test_training_tasks_hold_kept_images_only_and_test_episodes_stay(toy_split_file):
    whole = episodic(toy_split_file, None)
    low = LowData(classes=4, images_per_class=5)
    data = episodic(toy_split_file, low)
    kept = torch.cat(low.keep_images(TABLE, data.split.class_ids(TABLE, "train"))).tolist()
    drawn = set(torch.cat([data.train_plan(step).rows.flatten() for step in range(30)]).tolist())
    assert drawn <= set(kept)
    assert len(drawn) == 20, "all kept images are drawn in time"
    for part, episodes in (("val", data.val), ("test", data.test[0])):
        assert plan_hash(data.eval_plan(part, episodes)) == plan_hash(whole.eval_plan(part, episodes))


def test_generator_and_learner_keep_the_same(toy_split_file):
    low = LowData(groups=1, classes=3, images_per_class=0.5, seed=4)
    learner = episodic(toy_split_file, low)
    generator = ImageDataModule(ToySource(), toy_split_file, batch_size=4, low_data=low)
    generator.setup("fit")
    assert generator.split.hash == learner.split.hash
    seen = torch.cat([generator.train_rows, generator.held_out_rows])
    assert set(seen.tolist()) == set(learner.pools["train"].rows.tolist())
    assert generator.facts == learner.facts
    assert generator.facts["low_data"]["train_images"] == 30


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"classes": 0}, r"data\.low_data\.classes is 0; expected a whole number"),
        ({"groups": -1}, r"data\.low_data\.groups is -1"),
        ({"images_per_class": 2.5}, r"images_per_class is 2\.5"),
    ],
)
def test_wrong_numbers_are_told(wrong, message):
    with pytest.raises(UserError, match=message):
        LowData(**wrong)


def test_more_than_there_is_is_told():
    with pytest.raises(UserError, match=r"data\.low_data\.classes is 13, but the train part has 12"):
        LowData(classes=13).keep_classes(SPLIT, TABLE)
    with pytest.raises(UserError, match=r"data\.low_data\.groups is 3, but the train part has 2"):
        LowData(groups=3).keep_classes(SPLIT, TABLE)


def test_a_run_records_the_choice_and_a_generator_of_other_data_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    runs = ["--config", DEBUG, f"--run.folder={tmp_path}", "--run.wandb=off"]
    low = ["--data.low_data.classes=30", "--data.low_data.images_per_class=10"]
    quick = ["--data.feature_steps=2", "--model.importance_samples=2"]
    assert main(["fit", "--config", VAE, *quick, *low, *runs]) == 0
    (folder,) = tmp_path.glob("*/001")
    facts = json.loads((folder / "run.json").read_text())
    assert facts["low_data"] == {
        "groups": None,
        "classes": 30.0,
        "images_per_class": 10.0,
        "seed": 0,
        "train_classes": 30,
        "train_images": 300,
    }
    split = json.loads((folder / "split.json").read_text())
    assert len(split["train"]) == 30
    assert split["hash"] == facts["split"]["hash"]
    learner = [
        "fit",
        "--config",
        PROTONET,
        "--config",
        LATENT,
        f"--data.generator={folder / 'checkpoints' / 'best.ckpt'}",
        *runs,
    ]
    assert main([*learner, *low]) == 0
    capsys.readouterr()
    assert main([*learner, low[0]]) == 2
    assert_one_line(capsys, "was trained on split .* but this run uses split")
