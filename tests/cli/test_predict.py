"""Labels for new pictures: in Python, and `genmeta predict`."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_table, toy_split
from lightning.pytorch import Trainer
from PIL import Image
from test_cli import assert_one_line

import genmeta
from genmeta.cli.main import main
from genmeta.data.pictures import as_images, pictures_below
from genmeta.data.seen import Seen
from genmeta.errors import UserError
from genmeta.learners.maml import MAML
from genmeta.learners.matching import MatchingNet
from genmeta.learners.metric import PixelNearestNeighbour, ProtoNet
from genmeta.learners.predictor import Predictor, balanced
from genmeta.models.backbones import Conv4
from genmeta.modules.meta_module import MetaModule


def predictor(learner, shape=(1, 16, 16)) -> Predictor:
    table = make_table()
    return Predictor(learner.eval(), shape, Seen.of(toy_split(table), table))


def gradient(side: int, turns: int, mode: str = "L") -> Image.Image:
    """A picture that is easy to tell from its quarter turns, at any size."""
    ramp = np.broadcast_to(np.linspace(0, 255, side).astype(np.uint8), (side, side))
    return Image.fromarray(np.rot90(ramp, turns)).convert(mode)


def test_probabilities_are_those_of_a_slow_loop_also_with_unequal_numbers_of_examples():
    learner = ProtoNet(Conv4(1, 4, 16)).eval()
    images = torch.randint(0, 256, (6, 1, 16, 16), dtype=torch.uint8)
    query = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8)
    support = {"a": images[:1], "b": images[1:3], "c": images[3:]}
    found = predictor(learner).predict(support, query)
    with torch.no_grad():
        centres = torch.stack([learner.backbone(of / 255).mean(0) for of in support.values()])
        distances = (learner.backbone(query / 255)[:, None] - centres).square().sum(2)
    torch.testing.assert_close(found.probabilities, (-distances).softmax(1))
    assert found.labels == ["abc"[i] for i in distances.argmin(1)]
    torch.testing.assert_close(torch.tensor(found.confidences), (-distances).softmax(1).amax(1))


def test_classes_weigh_the_same_and_so_do_the_examples_of_each():
    support, weight = balanced([torch.full((k, 1, 2, 2), k, dtype=torch.uint8) for k in (2, 3, 1)])
    assert support.shape == (3, 3, 1, 2, 2)
    assert weight.tolist() == [[0.75, 1.5, 0.75], [1, 1, 1], [1, 1, 1]]
    assert balanced([torch.zeros(2, 1, 2, 2, dtype=torch.uint8)] * 2)[1] is None


def test_pictures_are_the_same_in_whatever_form_they_come(tmp_path):
    picture = gradient(40, 1, "RGB")
    picture.save(tmp_path / "it.png")
    array = np.array(picture)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    deep = np.array(picture.convert("L")).astype(np.uint16) << 8
    forms = [picture, array, array / 255, array.transpose(2, 0, 1), tensor, tensor / 255, tmp_path / "it.png"]
    forms += [
        picture.convert("L"),
        picture.convert("RGBA"),
        deep,
        tensor[0],
        tensor[:1],
        np.array(picture.convert("L")),
    ]
    images = as_images(forms, 16, 3, "them")
    assert images.shape == (len(forms), 3, 16, 16)
    for image in images[1:]:
        torch.testing.assert_close(image, images[0])
    assert as_images([tensor > 127], 16, 1, "them").unique().tolist()[-1] == 255


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (np.full((4, 4), 300.0), "numbers from 300 to 300; expected \\[0, 1\\]"),
        (np.full((4, 4), np.nan), "numbers from nan"),
        (torch.zeros(4, 4, dtype=torch.long), "an array of int64; expected uint8"),
        (np.zeros((2, 4, 5)), "shape \\[2, 4, 5\\]"),
        (torch.zeros(1, 0, 4), "shape"),
        ([[0, 1]], "a list is no picture"),
        ("nowhere.png", "nowhere.png: damaged, or no picture"),
    ],
)
def test_what_is_no_picture_is_told(picture, told):
    with pytest.raises(UserError, match=told):
        as_images([gradient(8, 0), picture], 16, 1, "query")


def test_what_a_learner_cannot_work_with_is_told():
    images = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    with pytest.raises(UserError, match="n_way=5, but the episodes have n_way=2"):
        predictor(MAML(Conv4(1, 4, 16, norm="batch"), n_way=5)).predict({"a": images, "b": images}, images)
    model = predictor(PixelNearestNeighbour())
    with pytest.raises(UserError, match="two classes or more, found a"):
        model.predict({"a": images}, images)
    with pytest.raises(UserError, match="query: there is no picture"):
        model.predict({"a": images, "b": images}, [])
    with pytest.raises(UserError, match="expected a list of pictures, found one Image"):
        model.predict({"a": images, "b": images}, gradient(8, 0))


@pytest.mark.parametrize(
    "make", [lambda: MAML(Conv4(1, 4, 16, norm="batch"), n_way=3), lambda: MatchingNet(Conv4(1, 4, 16))]
)
def test_learners_of_other_kinds_take_any_number_of_queries(make):
    support = {str(k): torch.randint(0, 256, (k, 1, 16, 16), dtype=torch.uint8) for k in (1, 2, 3)}
    query = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    assert predictor(make()).predict(support, query).probabilities.shape == (2, 3)


@pytest.fixture
def checkpoint(tmp_path, toy_data):
    """A ProtoNet for grey images of 16 × 16, after three steps."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, **quiet)
    trainer.fit(MetaModule(ProtoNet(Conv4(1, 8, image_size=16))), datamodule=toy_data)
    trainer.save_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    return tmp_path / "run" / "checkpoints" / "best.ckpt"


def write_pictures(folder) -> None:
    """Mixed sizes, modes and formats, names with spaces and Unicode, what systems leave, a class of one picture."""
    for turns, name in enumerate(["über uns", "日本", "one only"]):
        (folder / "support" / name).mkdir(parents=True)
        for number in range(1 if turns == 2 else 3):
            gradient(16 + 30 * number, turns, "L" if number else "RGB").save(
                folder / "support" / name / f"p {number}.jpg"
            )
        (folder / "support" / name / ".DS_Store").write_bytes(b"no picture")
        (folder / "query" / "below").mkdir(parents=True, exist_ok=True)
        gradient(100, turns, "P").save(folder / "query" / f"{name} 1.png")
        gradient(33, turns).save(folder / "query" / "below" / f"{name} 2.JPEG")
    for name in ("Thumbs.db", ".DS_Store", "notes.txt"):
        (folder / "query" / name).write_bytes(b"no picture")


def test_the_command_names_a_folder_as_it_is_and_so_does_python(tmp_path, checkpoint, capsys):
    write_pictures(tmp_path)
    where = [f"--support={tmp_path / 'support'}", f"--query={tmp_path / 'query'}", f"--out={tmp_path / 'out'}"]
    assert main(["predict", f"--ckpt={tmp_path / 'run'}", *where]) == 0
    shown = capsys.readouterr().out
    assert "support      3 classes, 1 to 3 pictures each" in shown
    assert "6 used, 1 passed over: 1 of kind .txt (notes.txt)" in shown
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for row in rows:
        assert row["class"] in row["picture"]
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [row["picture"] for row in written] == [row["picture"] for row in rows]
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.size[0] > 300

    files, _ = pictures_below(tmp_path / "query")
    support = {folder.name: sorted(folder.glob("*.jpg")) for folder in sorted((tmp_path / "support").iterdir())}
    found = genmeta.load(checkpoint).predict(support, files)
    assert [dict(zip(found.classes, p, strict=True)) for p in found.probabilities.tolist()] == [
        row["probabilities"] for row in written
    ]


def test_what_cannot_be_named_is_one_line(tmp_path, checkpoint, capsys):
    write_pictures(tmp_path)
    support, query = f"--support={tmp_path / 'support'}", f"--query={tmp_path / 'query'}"
    assert main(["predict", f"--ckpt={tmp_path}", support, query]) == 2
    assert_one_line(capsys, "holds no checkpoints/best.ckpt; .* there is .*run/checkpoints/best.ckpt")
    assert main(["predict", f"--ckpt={checkpoint}", support, f"--query={tmp_path / 'nowhere'}"]) == 2
    assert_one_line(capsys, "nowhere: no such folder")
    (tmp_path / "query" / "cut off.jpg").write_bytes((tmp_path / "query" / "below" / "日本 2.JPEG").read_bytes()[:200])
    assert main(["predict", f"--ckpt={checkpoint}", support, query]) == 2
    assert_one_line(capsys, "cut off.jpg: damaged, or no picture that can be read: .*; remove or replace it")


class Mirror(torch.nn.Module):
    """Draws everything again as its negative."""

    image_shape, latent_dim = (1, 16, 16), 2

    def check_redraws(self) -> None:
        return

    def redraw(self, x, z):
        assert len(x) == len(z)
        return 1 - x


def test_redrawn_examples_count_seven_tenths_of_a_class():
    learner = ProtoNet(torch.nn.Flatten())
    model = replace(predictor(learner), redrawer=Mirror())
    images = torch.randint(0, 256, (4, 1, 16, 16), dtype=torch.uint8)
    support, weight = model._with_redrawn(*balanced([images[:1], images[1:]]))
    assert support.shape == (2, 3 * 31, 1, 16, 16)
    x = images[0].float() / 255
    centre = (support[0] * weight[0, :, None, None, None]).sum(0) / weight[0].sum()
    torch.testing.assert_close(centre, 0.3 * x + 0.7 * (1 - x))
    assert model.predict({"a": images[:1], "b": images[1:]}, images).probabilities.isfinite().all()
