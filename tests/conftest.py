"""Small data for tests that do not need real ones, the order of tests, and what each leaves behind."""

import json
import os
import random
import socket
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# before torch counts the cores: tests run side by side, and processes that are forked from one with several threads
# of OpenMP wait for these for ever
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from lightning.fabric.plugins.environments import lightning as lightning_environment

from genmeta.cli.main import main
from genmeta.data.omniglot_minimal import FILES
from genmeta.data.source import DataSource
from genmeta.data.splits import Split
from genmeta.data.table import ImageTable
from genmeta.episode import EpisodeShape
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.tasks.evaluated import Episodes
from genmeta.tasks.real import RealTasks

ROOT = Path(__file__).parents[1]
_PLACES = [Path(os.environ.get("GENMETA_DATA") or "data"), ROOT.parent / "shared" / "data" / "omniglot-minimal"]
OMNIGLOT = next((place for place in _PLACES if (place / FILES[0]).is_file()), Path("no Omniglot here"))
os.environ["GENMETA_DATA"] = str(OMNIGLOT.absolute())  # where configs/data/omniglot_minimal.yaml looks
PATIENCE = 600
"""Seconds that a test waits for what must happen: long, as only a fault uses them up, and a busy machine is none."""


def test_file(name: str) -> Path:
    """Return the file of tests of a name, in whichever folder it is."""
    [found] = (ROOT / "tests").rglob(name)
    return found


test_file.__test__ = False  # type: ignore[attr-defined]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--order-seed", type=int, help="shuffle the files, and the tests in each file, by this number")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("order_seed") is not None and hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # xdist begins with the files of most tests, else


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (seed := config.getoption("order_seed")) is not None:
        items[:] = shuffled(items, seed)


def shuffled(items: list[pytest.Item], seed: int) -> list[pytest.Item]:
    """Return tests in an order that follows from the seed and from their names.

    Tests of a file stay together, or its module-scoped fixtures would be made again and again. So do tests with the
    same parameter of such a fixture, which pytest sorts after this.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in sorted(items, key=lambda item: item.nodeid):  # xdist's workers must agree, whatever they were given
        files.setdefault(item.path, []).append(item)
    rng = random.Random(seed)
    groups = list(files.values())
    rng.shuffle(groups)
    for group in groups:
        rng.shuffle(group)
    return [item for group in groups for item in group]


def seed_global_generators() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
    """Fixtures that several tests share draw the same numbers, whichever test is the first to ask for them."""
    if fixturedef.scope == "function":
        return (yield)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    seed_global_generators()
    try:
        return (yield)
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def variables() -> dict[str, str]:
    """Return the environment but for what pytest itself keeps there."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@pytest.fixture(autouse=True)
def _as_if_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test begins alike and puts back what is the process's, so that it cannot matter which ran before it.

    Not put back: objects that are still alive, memory, threads, loaded modules, Lightning's log levels. What counts
    these runs in a process of its own.
    """
    environment, here, path = variables(), Path.cwd(), [*sys.path]
    dtype, n_threads = torch.get_default_dtype(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    seed_global_generators()
    # no W&B unless a test asks for it, and no run folder handed down from another test
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("GENMETA_RUN_FOLDER", raising=False)
    yield
    monkeypatch.undo()
    os.chdir(here)
    for name in variables().keys() - environment.keys():  # e.g. PL_GLOBAL_SEED of Lightning
        del os.environ[name]
    os.environ.update(environment)
    sys.path[:] = path
    torch.set_default_dtype(dtype)
    torch.set_num_threads(n_threads)
    torch.use_deterministic_algorithms(deterministic)


def free_port() -> int:
    """Return a port of this machine that nobody uses, of those that systems do not give to who asks for any.

    One that was asked for as "any" (port 0) and closed again may be another program's before it is used.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


lightning_environment.find_free_network_port = free_port  # for the processes that Lightning starts


def slow_but(kept: Collection[str], values: Iterable[Any]) -> list[Any]:
    """Return parameters of which all but the kept ones are of slow tests. One is kept of each kind of fault that such a
    test has found, or could find.

    Args:
        kept: names.
        values: names, or paths, which are named by their stems.
    """
    values = list(values)
    names = [Path(value).stem if str(value).endswith(".yaml") else str(value) for value in values]
    assert set(kept) <= set(names), set(kept) - set(names)
    slow = pytest.mark.slow
    return [v if n in kept else pytest.param(v, marks=slow) for n, v in zip(names, values, strict=True)]


def make_table(n_classes: int = 24, counts: tuple[int, ...] = (20,), size: int = 16) -> ImageTable:
    """Noise with a mean of its own for each class; `counts` are used in turn."""
    per_class = torch.tensor([counts[i % len(counts)] for i in range(n_classes)])
    class_ids = torch.repeat_interleave(per_class)
    rng = torch.Generator().manual_seed(1)
    patterns = torch.randint(0, 200, (n_classes, 1, size, size), generator=rng)
    noise = torch.randint(0, 56, (len(class_ids), 1, size, size), generator=rng)
    return ImageTable(
        name="toy",
        images=(patterns[class_ids] + noise).to(torch.uint8),
        class_ids=class_ids,
        class_names=tuple(f"g{i // 8}/c{i}" for i in range(n_classes)),
        groups=tuple(f"g{i // 8}" for i in range(n_classes)),
    )


@dataclass(frozen=True)
class ToySource(DataSource):
    size: int = 16

    def load(self) -> ImageTable:
        return make_table(size=self.size)


def toy_split(table: ImageTable) -> Split:
    names = table.class_names
    return Split("toy", "toy", names[:12], names[12:18], names[18:])


@pytest.fixture
def toy_split_file(tmp_path: Path) -> str:
    split = toy_split(make_table())
    content = {"dataset": "toy", "train": split.train, "val": split.val, "test": split.test}
    (tmp_path / "toy.json").write_text(json.dumps(content))
    return str(tmp_path / "toy.json")


@pytest.fixture
def toy_data(toy_split_file: str) -> EpisodicDataModule:
    return EpisodicDataModule(
        source=ToySource(),
        split=toy_split_file,
        train_tasks=RealTasks(),
        train=EpisodeShape(5, 1, 4),
        val=Episodes(5, 1, 5, n_episodes=20),
        test=[Episodes(5, 1, 5, n_episodes=21), Episodes(5, 5, 5, n_episodes=13)],
        tasks_per_step=4,
        steps_per_epoch=3,
    )


def _three_steps(folder: Path, *args: str) -> Path:
    """Return the checkpoint of a run of three steps on glyphs_minimal."""
    here = Path.cwd()
    os.chdir(ROOT)
    try:
        more = ["--config", "configs/trainer/debug.yaml", f"--run.folder={folder}", "--run.name=run", "--run.wandb=off"]
        assert main(["fit", *args, *more]) == 0
    finally:
        os.chdir(here)
        os.environ.pop("GENMETA_RUN_FOLDER", None)
    return folder / "run" / "001" / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="session")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GAN's checkpoint."""
    return _three_steps(
        tmp_path_factory.mktemp("generator"), "--config", "configs/generator/gan_classic.yaml", "--data.feature_steps=2"
    )


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a VAE, which has an encoder."""
    quick = ["--data.feature_steps=2", "--model.importance_samples=2"]
    return _three_steps(tmp_path_factory.mktemp("vae"), "--config", "configs/generator/vae_plain.yaml", *quick)


@pytest.fixture(scope="session")
def redrawer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a model that draws given images again."""
    config = ["--config", "configs/generator/vae_deformation.yaml"]
    return _three_steps(tmp_path_factory.mktemp("redrawer"), *config, "--data.feature_steps=2")


@pytest.fixture(scope="session")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ProtoNet's checkpoint, trained on real tasks."""
    configs = ["--config", "configs/learner/protonet.yaml", "--config", "configs/policy/real_only.yaml"]
    return _three_steps(tmp_path_factory.mktemp("learner"), *configs)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small pictures, fifteen classes."""
    from small_data import image_folder  # here: SciPy takes long to import

    root = tmp_path_factory.mktemp("pictures")
    image_folder(root)
    return root


@pytest.fixture
def cache_of_session(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tables are prepared once for all tests of a process, apart from the user's."""
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
