"""No test on classes that the learner or its generator has seen: every way there is refused before any work."""

import json
import re

import pytest
import torch
from conftest import ROOT, make_table
from test_cli import DEBUG, LATENT, PROTONET, REAL, assert_one_line, run

from genmeta.data.seen import Seen, hash_images
from genmeta.data.splits import Split, load_split
from genmeta.data.table import ImageTable
from genmeta.errors import UserError
from genmeta.learners.checkpoint import load_learner
from genmeta.learners.metric import ProtoNet

TABLE = make_table()
NAMES = TABLE.class_names
SPLIT = Split("toy", "toy", NAMES[:12], NAMES[12:18], NAMES[18:])
SEEN = Seen.of(SPLIT, TABLE)


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def split_file(tmp_path, name, **parts) -> str:
    split = load_split("glyphs_minimal")
    content = {"dataset": "glyphs", "train": split.train, "val": split.val, "test": split.test, **parts}
    (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return str(tmp_path / f"{name}.json")


def test_a_learners_checkpoint_says_what_it_has_seen(learner):
    entry = torch.load(learner, weights_only=True)["genmeta"]
    split = load_split("glyphs_minimal")
    assert (entry["dataset"], entry["split_name"], entry["split_hash"]) == ("glyphs", "glyphs_minimal", split.hash)
    assert (tuple(entry["train"]), tuple(entry["val"])) == (split.train, split.val)
    assert set(entry["groups"]) == {"Tifinagh", "Lao", "Hebrew", "NKo", "OldItalic", "Greek", "Coptic"}
    assert (len(entry["train_images"]), len(entry["val_images"])) == (149 * 20, 52 * 20)
    assert entry["generator"] is None
    assert entry["learner"]["class_path"] == "genmeta.learners.metric.ProtoNet"


def test_the_learners_generator_is_in_its_checkpoint(tmp_path, generator):
    configs = ["--config", PROTONET, "--config", LATENT, "--config", DEBUG]
    assert run(tmp_path, "fit", *configs, f"--data.generator={generator}") == 0
    (path,) = tmp_path.glob("*/001/checkpoints/best.ckpt")
    assert torch.load(path, weights_only=True)["genmeta"]["generator"] == str(generator)


def check(tmp_path, learner, *more, command="test") -> int:
    args = [command, "--config", PROTONET, "--config", DEBUG, f"--ckpt_path={learner}", "--run.wandb=off"]
    return run(tmp_path / "runs", *args, *(["--config", REAL] if command == "fit" else []), *more)


def test_unseen_classes_may_be_tested(tmp_path, learner):
    """Of its own split, of another with the same test classes; and validation classes, while settings are chosen."""
    for more in ([], ["--data.split=glyphs_full"], ["--data.test_part=val"]):
        assert check(tmp_path, learner, *more) == 0
    assert check(tmp_path, learner, command="validate") == 0


def test_training_classes_of_its_own_split_are_refused(tmp_path, learner, capsys):
    assert check(tmp_path, learner, "--data.test_part=train") == 2
    assert_one_line(capsys, r"best\.ckpt was trained on 149 of the 149 classes of part 'train' of split 'glyphs_mini")
    assert not (tmp_path / "runs").exists()


def test_another_split_with_a_training_class_in_its_test_part_is_refused(tmp_path, learner, capsys):
    split = load_split("glyphs_minimal")
    swapped = split_file(tmp_path, "swapped", train=split.train[1:], test=(*split.test, split.train[0]))
    assert check(tmp_path, learner, f"--data.split={swapped}") == 2
    assert_one_line(capsys, rf"was trained on 1 of the 159 .* 'test' .* e\.g\. '{re.escape(split.train[0])}'")
    swapped = split_file(tmp_path, "other_val", train=split.train[1:], val=(*split.val, split.train[0]))
    assert check(tmp_path, learner, f"--data.split={swapped}", command="validate") == 2
    assert_one_line(capsys, "was trained on 1 of the 53 classes of part 'val'")
    assert not (tmp_path / "runs").exists()


def test_classes_that_chose_the_checkpoint_are_no_test_classes(tmp_path, learner, capsys):
    split = load_split("glyphs_minimal")
    swapped = split_file(tmp_path, "swapped", val=split.test, test=split.val)
    assert check(tmp_path, learner, f"--data.split={swapped}") == 2
    assert_one_line(capsys, "was chosen on 52 of the 52 classes of part 'test'")


def test_training_goes_on_with_the_same_split_only(tmp_path, learner, capsys):
    assert check(tmp_path, learner, "--data.split=glyphs_full", command="fit") == 2
    assert_one_line(capsys, "trained on split 'glyphs_minimal' .* uses split 'glyphs_full'")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("entry", [None, {}, {"split_hash": "x"}, {**SEEN.state(), "train_images": [1]}])
def test_a_checkpoint_without_a_record_is_refused(tmp_path, learner, capsys, entry):
    checkpoint = torch.load(learner, weights_only=True)
    del checkpoint["genmeta"]
    torch.save(checkpoint | ({"genmeta": entry} if entry is not None else {}), tmp_path / "a.ckpt")
    assert check(tmp_path, tmp_path / "a.ckpt") == 2
    assert_one_line(capsys, r"a\.ckpt: has no record of the classes that it was trained on")
    assert not (tmp_path / "runs").exists()


def renamed(n_changed_of_each=0) -> ImageTable:
    """The toy images as another data set with other class names; the first images of each class may differ."""
    images = TABLE.images.clone()
    first = torch.arange(20).repeat(24) < n_changed_of_each
    images[first] = 255 - images[first]
    return ImageTable("other", images, TABLE.class_ids, tuple(f"x{name}" for name in NAMES), TABLE.groups)


OTHER = Split("other", "other", ("xg2/c18",), ("xg2/c19",), tuple(f"x{n}" for n in NAMES[:12]))


def test_copies_under_other_names_are_found_by_their_images():
    for n_changed in (0, 9):
        with pytest.raises(UserError, match=rf"has seen {20 - n_changed} of the 20 images of class 'xg0/c0' .*toy"):
            SEEN.check_unseen(renamed(n_changed), OTHER, "test", "a.ckpt")
    SEEN.check_unseen(renamed(10), OTHER, "test", "a.ckpt")  # half may be a matter of the data


def test_names_count_in_another_data_set_too():
    table = ImageTable("more", 255 - TABLE.images, TABLE.class_ids, NAMES, TABLE.groups)
    with pytest.raises(UserError, match="was trained on 1 of the 2 classes"):
        SEEN.check_unseen(table, Split("m", "more", NAMES[:1], NAMES[1:2], (NAMES[5], NAMES[20])), "test", "a.ckpt")


def test_a_record_survives_a_checkpoint(tmp_path):
    torch.save(SEEN.state(), tmp_path / "a.pt")
    read = Seen.read(torch.load(tmp_path / "a.pt", weights_only=True), "a.pt")
    for name, value in vars(SEEN).items():
        assert torch.equal(getattr(read, name), value) if name.endswith("images") else getattr(read, name) == value


def test_image_hashes_tell_images_apart_and_depend_on_nothing_else():
    images = torch.randint(0, 256, (50, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    hashes = hash_images(images)
    assert len(hashes.unique()) == 50
    assert torch.equal(hash_images(images[10:20]), hashes[10:20])
    assert torch.equal(hash_images(images.to(memory_format=torch.channels_last)), hashes)
    assert hash_images(torch.zeros(1, 1, 2, 2, dtype=torch.uint8)).tolist() == [-7059167771142159282], "must not change"
    assert hash_images(images[:0]).shape == (0,)


def test_a_learner_is_built_again_from_its_checkpoint_alone(learner, tmp_path):
    (tmp_path / "alone.ckpt").write_bytes(learner.read_bytes())
    state = torch.get_rng_state()
    loaded = load_learner(str(tmp_path / "alone.ckpt"))
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert isinstance(loaded.learner, ProtoNet)
    assert not loaded.learner.training
    assert loaded.image_shape == (1, 28, 28)
    assert loaded.seen.split_name == "glyphs_minimal"
    weights = torch.load(learner, weights_only=True)["state_dict"]
    for name, value in loaded.learner.state_dict().items():
        assert torch.equal(value, weights[f"learner.{name}"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.update(learner=None), "does not say how to build its learner"),
        (lambda e: e["learner"].update(class_path="os.system"), "os.system is not a Learner"),
        (lambda e: e["learner"].update(class_path="nowhere.Net"), "class nowhere.Net is not installed"),
        (lambda e: e["learner"]["init_args"].update(tempo=1), "cannot be built .*tempo"),
        (
            lambda e: e["learner"]["init_args"]["backbone"].update(class_path="subprocess.Popen"),
            "subprocess.Popen is not a Module",
        ),
        (lambda e: e["learner"]["init_args"]["backbone"]["init_args"].update(hidden=8), "weights do not fit"),
    ],
)
def test_a_checkpoint_that_names_something_else_is_refused_and_runs_nothing(tmp_path, learner, change, message):
    checkpoint = torch.load(learner, weights_only=True)
    change(checkpoint["genmeta"])
    torch.save(checkpoint, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=message):
        load_learner(str(tmp_path / "a.ckpt"))


def test_a_generators_checkpoint_is_no_learner(generator):
    with pytest.raises(UserError, match="does not say how to build its learner"):
        load_learner(str(generator))
