"""Any data as a source: torch and torchvision data sets, arrays, Hugging Face."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset
from torchvision.datasets import FakeData
from torchvision.transforms import v2

from genmeta.cli.data import read_data_yaml
from genmeta.cli.main import main
from genmeta.data import FromDataset
from genmeta.errors import UserError

IMAGES = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 1, 8, 8) * 40
LABELS = [2, 0, 2, 1, 0, 2]


def check(table, names, label_order=(0, 1, 2)) -> None:
    """The images of each label, in their order, under its name."""
    assert table.class_names == names
    expected = [number for label in label_order for number, its in enumerate(LABELS) if its == label]
    assert table.images[:, 0, 0, 0].tolist() == [40 * number for number in expected]
    assert table.counts.tolist() == [LABELS.count(label) for label in label_order]


class Named(Dataset):
    classes: ClassVar = ["zebra", "ant", "cow"]

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        return Image.fromarray(IMAGES[number, 0].numpy()), LABELS[number]


class Stream(IterableDataset):
    def __iter__(self):
        return iter({"image": image, "label": torch.tensor(label)} for image, label in zip(IMAGES, LABELS, strict=True))


NUMBERS = ("x/0", "x/1", "x/2")
DATASETS = {
    "arrays": ((IMAGES.numpy(), np.array(LABELS)), NUMBERS),
    "channels last": ((IMAGES.permute(0, 2, 3, 1).numpy(), LABELS), NUMBERS),
    "tensors": (TensorDataset(IMAGES / 255, torch.tensor(LABELS)), NUMBERS),
    "named": (Named(), ("x/zebra", "x/ant", "x/cow")),
    "a stream": (Stream(), NUMBERS),
    "names as labels": ((IMAGES, ["abc"[label] for label in LABELS]), ("x/a", "x/b", "x/c")),
}


@pytest.mark.parametrize("kind", DATASETS)
def test_every_kind_of_data_set_becomes_the_same_table(kind):
    dataset, names = DATASETS[kind]
    source = FromDataset(dataset, size=8, channels=1, name="x")
    table = source.load()
    check(table, names)
    assert table.image_shape == source.image_shape == (1, 8, 8)
    assert table.groups == ("x",) * 3


class HuggingFace:
    """What is used of `datasets.Dataset`."""

    column_names: ClassVar = ["picture", "fine", "coarse"]
    info = SimpleNamespace(dataset_name="animals")

    def __init__(self) -> None:
        class Image:
            pass

        class ClassLabel:
            names: ClassVar = ["zebra", "ant", "cow"]

        self.features = {"picture": Image(), "fine": ClassLabel(), "coarse": ClassLabel()}

    def __len__(self) -> int:
        return len(LABELS)

    def __iter__(self):
        named = Named()
        return ({"picture": named[i][0], "fine": named[i][1], "coarse": 0} for i in range(len(LABELS)))


def test_a_data_set_of_hugging_face_by_object_and_by_name(monkeypatch):
    check(FromDataset(HuggingFace(), 8, 1, label="fine").load(), ("animals/zebra", "animals/ant", "animals/cow"))
    with pytest.raises(UserError, match="label: give its column, one of fine, coarse"):
        FromDataset(HuggingFace(), 8, 1).load()
    with pytest.raises(UserError, match="no column 'fin'; did you mean 'fine'"):
        FromDataset(HuggingFace(), 8, 1, label="fin").load()
    with pytest.raises(UserError, match="one part of a data set, found all of train, test"):
        FromDataset({"train": HuggingFace(), "test": HuggingFace()}, 8, 1).load()
    asked = []
    package = ModuleType("datasets")
    package.load_dataset = lambda name, split: asked.append((name, split)) or HuggingFace()
    monkeypatch.setitem(sys.modules, "datasets", package)
    assert FromDataset("me/animals", 8, 1, label="fine", hf_split="train+test").load().name == "animals"
    assert asked == [("me/animals", "train+test")]
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r'pip install "genmeta\[hf\]"'):
        FromDataset("me/animals").load()


def test_transforms_come_before_the_size_and_draw_the_same_each_time():
    ramp = np.broadcast_to(np.linspace(0, 255, 16).astype(np.uint8), (16, 16))
    plain, turned = (
        FromDataset(([ramp, ramp], [0, 1]), 8, 1, transforms=transforms).load().images
        for transforms in ([], [v2.RandomHorizontalFlip(p=1.0)])
    )
    torch.testing.assert_close(turned, plain.flip(3))
    source = FromDataset(([ramp, ramp], [0, 1]), 8, 1, transforms=[v2.RandomRotation(90)])
    before = torch.get_rng_state()
    torch.testing.assert_close(source.load().images, source.load().images)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        ((IMAGES, LABELS[:5]), "of the same length"),
        (TensorDataset(IMAGES[:, 0]), "item 0: expected a picture and its label, found tuple"),
        ((IMAGES.long(), LABELS), "item 0: an array of int64"),
        ((IMAGES, [{"box": 1}] * 6), "item 0: expected a number or a name as label, found dict"),
        (([], []), "there are no items"),
    ],
)
def test_what_is_no_data_set_is_told(dataset, told):
    with pytest.raises(UserError, match=told):
        FromDataset(dataset, 8, 1).load()


YAML = """
data:
  init_args:
    source:
      class_path: genmeta.data.FromDataset
      init_args:
        dataset:
          class_path: torchvision.datasets.FakeData
          init_args: {size: 60, image_size: [3, 24, 20], num_classes: 6}
        size: 16
        channels: 1
        transforms:
          - {class_path: torchvision.transforms.v2.CenterCrop, init_args: {size: 12}}
          - {class_path: torchvision.transforms.v2.RandomInvert, init_args: {p: 1.0}}
    split: {seed: 0}
"""


def test_a_yaml_names_a_data_set_of_torchvision_and_transforms(tmp_path):
    path = tmp_path / "fake.yaml"
    path.write_text(YAML)
    source, _ = read_data_yaml(path)
    table = source.load()
    assert table.name == "FakeData"
    crop = v2.Compose([v2.CenterCrop(12), v2.RandomInvert(1.0)])
    expected = FromDataset([[crop(x) for x, _ in FakeData(60, (3, 24, 20), 6)], [0] * 60], 16, 1).load().images
    assert sorted(map(hash, map(bytes, table.images.numpy()))) == sorted(map(hash, map(bytes, expected.numpy())))


@pytest.mark.slow
def test_a_learner_trains_on_it(tmp_path, monkeypatch):
    """The parser's copy of the data set reaches the run, and its whole configuration can be written and read again."""
    monkeypatch.chdir(tmp_path)
    Path("fake.yaml").write_text(YAML)
    small = ["--data.train={n_way: 3, n_shot: 1, n_query: 1}", "--data.test=[{n_way: 2, n_shot: 1, n_query: 1}]"]
    small += [
        "--data.val={n_way: 2, n_shot: 1, n_query: 1, n_episodes: 5}",
        "--data.split.val=0.34",
        "--data.split.test=0.34",
    ]
    args = ["--config", "learner/protonet.yaml", "--config", "policy/real_only.yaml", "--config", "fake.yaml"]
    more = ["--config", "trainer/debug.yaml", "--run.wandb=off", "--run.name=it", *small]
    assert main(["fit", *args, *more]) == 0
    run = Path("runs/debug/it/001")
    again = [f"--config={run / 'config.yaml'}", f"--ckpt_path={run / 'checkpoints' / 'best.ckpt'}", "--run.name=test"]
    assert main(["test", *again]) == 0
