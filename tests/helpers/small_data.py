"""Small files in exactly the forms that the data sources read."""

import json
import pickle
import zipfile
from collections.abc import Iterable
from io import BytesIO
from itertools import chain
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from genmeta.data.splits import SPLITS_FOLDER
from genmeta.learn2learn_import import import_learn2learn

N = 20  # images of a class: 5 shots and 15 queries
MODES = ("train", "validation", "test")
SHORT = ("train", "val", "test")


def pixels(size: int, seed: int, n: int = N) -> np.ndarray:
    """Noise about a colour: uint8 `[n, size, size, 3]`."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 200, 3) + rng.integers(0, 56, (n, size, size, 3))).astype(np.uint8)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def write_class(folder: Path, names: Iterable[str], kind: str, seed: int, size: int = 24) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, pixels(size, seed), strict=True):
        (folder / name).write_bytes(encoded(image, kind))


def mini_imagenet(root: Path) -> None:
    for number, mode in enumerate(MODES):
        names = [f"n{number}{i:07d}" for i in range(5)]
        content = {
            "image_data": np.concatenate([pixels(84, 100 * number + i) for i in range(5)]),
            "class_dict": {name: list(range(N * i, N * i + N)) for i, name in enumerate(names)},
        }
        (root / f"mini-imagenet-cache-{mode}.pkl").write_bytes(pickle.dumps(content, 2))


def fc100(root: Path) -> None:
    for number, part in enumerate(SHORT):
        labels = [i for i in range(5) for _ in range(N)]
        content = {"data": np.concatenate([pixels(32, 100 * number + i) for i in range(5)]), "labels": labels}
        (root / f"FC100_{part}.pickle").write_bytes(pickle.dumps(content, 2))


def tiered_imagenet(root: Path) -> None:
    folder = root / "tiered-imagenet"
    folder.mkdir()
    for number, part in enumerate(SHORT):
        images = [encoded(x) for i in range(5) for x in pixels(84, 100 * number + i)]
        # as OpenCV encodes them: a column of bytes
        content = [np.frombuffer(png, np.uint8)[:, None] for png in images]
        (folder / f"{part}_images_png.pkl").write_bytes(pickle.dumps(content, 2))
        labels = np.repeat(np.arange(5), N)
        (folder / f"{part}_labels.pkl").write_bytes(pickle.dumps({"label_specific": labels}, 2))


def cifar_fs(root: Path) -> None:
    lists = root / "cifarfs" / "cifar100" / "splits" / "bertinetto"
    lists.mkdir(parents=True)
    for number, part in enumerate(SHORT):
        names = [f"{part}_thing_{i}" for i in range(5)]
        (lists / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))
        for i, name in enumerate(names):
            files = [f"{name}_s_{j:06d}.png" for j in range(N)]
            write_class(root / "cifarfs" / "cifar100" / "data" / name, files, "PNG", 100 * number + i, 32)


def cub200(root: Path) -> None:
    splits = import_learn2learn().vision.datasets.cu_birds200.SPLITS
    for seed, name in enumerate(chain(*splits.values())):
        files = [f"{name[4:]}_{j:04d}_{seed}.jpg" for j in range(N)]
        write_class(root / "cubirds200" / "CUB_200_2011" / "images" / name, files, "JPEG", seed)


def vgg_flowers(root: Path) -> None:
    labels = np.tile(np.arange(1, 103), N).astype(np.uint8)
    folder = root / "vgg_flower102" / "jpg"
    folder.mkdir(parents=True)
    for number, label in enumerate(labels.tolist(), 1):
        (folder / f"image_{number:05d}.jpg").write_bytes(encoded(pixels(24, label, 1)[0], "JPEG"))
    scipy.io.savemat(root / "vgg_flower102" / "imagelabels.mat", {"labels": labels[None]})


def fgvc_aircraft(root: Path) -> None:
    splits = import_learn2learn().vision.datasets.fgvc_aircraft.SPLITS
    folder = root / "fgvc_aircraft" / "fgvc-aircraft-2013b" / "data"
    lines: dict[str, list[str]] = {part: [] for part in SHORT}
    for seed, name in enumerate(splits["all"]):
        files = [f"{seed:03d}{j:04d}" for j in range(N)]
        write_class(folder / "images", [f"{file}.jpg" for file in files], "JPEG", seed)
        for j, file in enumerate(files):  # its own parts cut through the classes
            lines[SHORT[j % 3]].append(f"{file} {name}\n")
    for part, text in lines.items():
        (folder / f"images_variant_{part}.txt").write_text("".join(text))


def dtd(root: Path) -> None:
    splits = import_learn2learn().vision.datasets.describable_textures.SPLITS
    for seed, name in enumerate(chain(*splits.values())):
        files = [f"{name}_{j:04d}.jpg" for j in range(N)]
        write_class(root / "describable_textures" / "dtd" / "images" / name, files, "JPEG", seed)


def drawing(seed: int) -> bytes:
    """A PNG of Omniglot's kind: 105×105, black lines on white, one bit a pixel."""
    image = np.full((105, 105), 255, np.uint8)
    row, column = divmod(seed * 7919 % 10000, 100)
    image[row : row + 5] = 0
    image[:, column : column + 5] = 0
    file = BytesIO()
    Image.fromarray(image).convert("1").save(file, "PNG")
    return file.getvalue()


def omniglot(root: Path) -> None:
    split = json.loads((SPLITS_FOLDER / "omniglot.json").read_text())
    background = split["train"] + split["val"]
    for name, classes, first in (
        ("images_background", background, 0),
        ("images_evaluation", split["test"], len(background)),  # other drawings: a learner is not tested on what it saw
    ):
        with zipfile.ZipFile(root / f"{name}.zip", "w") as archive:
            for i, character in enumerate(classes, first):
                content = drawing(i)
                for drawer in range(1, N + 1):
                    archive.writestr(f"{name}/{character}/{i:04d}_{drawer:02d}.png", content)


def image_folder(root: Path) -> None:
    for seed in range(15):
        write_class(root / f"group{seed // 5}" / f"thing{seed}", [f"{j}.png" for j in range(N)], "PNG", seed)


BUILD = {
    "omniglot": omniglot,
    "omniglot_vinyals": omniglot,
    "mini_imagenet": mini_imagenet,
    "cifar_fs": cifar_fs,
    "fc100": fc100,
    "tiered_imagenet": tiered_imagenet,
    "cub200": cub200,
    "vgg_flowers": vgg_flowers,
    "fgvc_aircraft": fgvc_aircraft,
    "dtd": dtd,
    "image_folder": image_folder,
}
