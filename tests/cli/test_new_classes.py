"""A trained learner is tested on a folder of new classes only, and on nothing that it may have seen."""

import csv
import json
import shutil

import pytest
from conftest import ROOT
from small_data import write_class
from small_runs import config, fit, newest, part, write

from genmeta.data.splits import load_split

N = 6  # pictures of a class: one shot and five queries


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENMETA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, pictures):
    """The folder of a learner's run on fifteen classes."""
    root = tmp_path_factory.mktemp("trained")
    assert fit(write(root / "it.yaml", config("learner", pictures)), root / "runs") == 0
    return newest(root / "runs")


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """Four classes of other pictures."""
    root = tmp_path_factory.mktemp("new")
    for seed in range(4):
        small_class(root / f"new{seed}", 100 + seed)
    return root


def small_class(folder, seed, n=N):
    write_class(folder, [f"{j}.png" for j in range(20)], "PNG", seed)
    for number in range(n, 20):
        (folder / f"{number}.png").unlink()


def on_new(tmp_path, run, folder, *more, command="test", split="all_test"):
    checkpoint = run / "checkpoints" / "best.ckpt"
    options = [f"--data.source.folder={folder}", f"--data.split={split}", f"--ckpt_path={checkpoint}", *more]
    return fit(run / "config.yaml", tmp_path / "runs", *options, command=command)


def test_the_accuracy_on_new_classes_and_that_of_each(tmp_path, run, new, capsys):
    assert on_new(tmp_path, run, new) == 0
    folder, said = newest(tmp_path / "runs"), capsys.readouterr().out
    summary = json.loads((folder / "run.json").read_text())
    assert summary["split"]["name"] == "all_test"
    mean = summary["metrics"]["test/acc_3w1s"]
    assert f"test/acc_3w1s {100 * mean:.2f} ± {100 * summary['metrics']['test/acc_3w1s_ci95']:.2f} %" in said
    split = load_split(str(folder / "split.json"))
    assert (split.train, split.val, split.test) == ((), (), ("new0", "new1", "new2", "new3"))
    rows = list(csv.DictReader((folder / "per_class.csv").read_text().splitlines()))
    assert [row["class"] for row in rows] == list(split.test)
    assert sum(int(row["queries"]) for row in rows) == 6 * 3 * 5
    assert sum(int(row["right"]) for row in rows) == round(mean * 6 * 3 * 5)
    lowest = min(rows, key=lambda row: (float(row["accuracy"] or 2), row["class"]))
    assert f"hardest classes of 3w1s: {lowest['class']} {100 * float(lowest['accuracy']):.1f} %" in said
    assert (folder / "pictures" / "confusion.png").is_file()
    # the run's own split file names the same test again
    assert on_new(tmp_path, run, new, split=folder / "split.json") == 0
    again = json.loads((newest(tmp_path / "runs") / "run.json").read_text())
    assert (again["split"]["hash"], again["metrics"]) == (summary["split"]["hash"], summary["metrics"])


def test_the_shipped_yaml_takes_another_source_in_place_of_the_runs(tmp_path, run, new):
    laid = ["--config", ROOT / "configs" / "test" / "new_classes.yaml", "--data.source.size=16"]
    assert fit(run / "config.yaml", tmp_path / "runs", *laid, f"--data.source.folder={new}", command="test") == 0


def copies(root, pictures, names):
    """Classes of the training folder under other names, beside new ones."""
    for number, name in enumerate(names):
        shutil.copytree(pictures / name, root / f"copy{number}")
    for seed in range(3):
        write_class(root / f"new{seed}", [f"{j}.png" for j in range(20)], "PNG", 200 + seed)
    return root


def few(root, new):
    shutil.copytree(new, root / "few")
    small_class(root / "few" / "scarce", 300, 4)
    return root / "few"


REDRAW = part("genmeta.tasks.redrawn.Redraw", learned=1.0)["init_args"]
SUPPORT = [{"n_way": 3, "n_shot": 1, "n_query": 5, "n_episodes": 6, "support": {"n": 2, "redraw": REDRAW}}]
REFUSED = {
    "the training folder": (lambda root, pictures, new: pictures, [], "best.ckpt was trained on"),
    "a folder with too few pictures": (
        lambda root, pictures, new: few(root, new),
        [],
        "n_shot + n_query is 1 + 5 = 6, but the smallest class has 4 images; the sum must be at most that (split "
        "'all_test', part 'test': 'scarce')",
    ),
    "another size": (
        lambda root, pictures, new: new,
        ["--data.source.size=20"],
        "is for images of shape [1, 16, 16], but the data",
    ),
    "generated support images": (
        lambda root, pictures, new: new,
        [f"--data.test={json.dumps(SUPPORT)}", "--data.redrawer=any.ckpt"],
        "test without generated support images",
    ),
    "validation classes": (lambda root, pictures, new: new, ["--data.test_part=val"], "needs val classes"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_test_on_new_classes_is_refused_before_it_begins(what, tmp_path, run, pictures, new, capsys):
    make, options, told = REFUSED[what]
    assert on_new(tmp_path, run, make(tmp_path, pictures, new), *options) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()


def test_pictures_of_the_training_are_found_under_other_names(tmp_path, run, pictures, capsys):
    split = load_split(str(run / "split.json"))
    for part_of, name in (("train", split.train[0]), ("val", split.val[0])):
        root = copies(tmp_path / part_of, pictures, [name])
        assert on_new(tmp_path, run, root) == 2
        assert "has seen 20 of the 20 images of class 'copy0'" in capsys.readouterr().err
    # a test class of its own split it has not seen
    assert on_new(tmp_path, run, copies(tmp_path / "unseen", pictures, split.test[:1])) == 0


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_nothing_is_trained_or_chosen_on_test_classes(command, tmp_path, run, new, capsys):
    assert on_new(tmp_path, run, new, command=command) == 2
    assert "'all_test' has test classes only, but this needs" in capsys.readouterr().err


def test_a_generator_is_not_trained_on_test_classes(tmp_path, new, capsys):
    assert fit(write(tmp_path / "it.yaml", config("vae", new)), tmp_path / "runs", "--data.split=all_test") == 2
    assert "'all_test' has test classes only, but this needs train classes" in capsys.readouterr().err


def with_backbone_of(run, folder):
    content = config("learner", folder)
    backbone = part("genmeta.learners.checkpoint.LearnerBackbone", checkpoint=str(run / "checkpoints" / "best.ckpt"))
    content["model"]["init_args"]["learner"]["init_args"]["backbone"] = {
        **backbone,
        "init_args": {**backbone["init_args"], "frozen": False},
    }
    return content


def test_a_learner_of_trained_parts_is_tested_by_its_checkpoint_only(tmp_path, run, pictures, new, capsys):
    """What its parts have seen is what the checkpoint says that it has seen."""
    yaml_file = write(tmp_path / "it.yaml", with_backbone_of(run, pictures))
    assert fit(yaml_file, tmp_path / "runs") == 0
    second = newest(tmp_path / "runs")
    assert on_new(tmp_path, second, new) == 0
    options = [f"--data.source.folder={new}", "--data.split=all_test"]
    assert fit(yaml_file, tmp_path / "other", *options, command="test") == 2
    assert "give the checkpoint of a learner that was trained with them" in capsys.readouterr().err


def test_a_data_sheet_of_test_classes_only(tmp_path, new, capsys):
    from genmeta.cli.main import main

    source = part("genmeta.data.image_folder.ImageFolder", folder=str(new), size=16, channels=1)
    yaml_file = write(tmp_path / "new.yaml", {"data": {"init_args": {"source": source, "split": "all_test"}}})
    assert main(["data", "show", str(yaml_file), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "train  no classes" in said
    assert "test   4 classes in 1 groups, 24 images" in said
