"""A flow in the place of any other generator: policies, bank, redrawing, exploring and exporting take it as it is."""

import json

import pytest
import torch
from conftest import ToySource, make_table, slow_but
from test_generator_training import SHAPE, fit, flow, flow_redraw, images_of

from genmeta.cli.main import main
from genmeta.episode import EpisodeShape
from genmeta.errors import UserError
from genmeta.evaluation.generators import count_weights, images_per_second
from genmeta.explore.exploration import ExploredImages, explore
from genmeta.models.checkpoint import load_generator
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.tasks.bank import BankedTasks
from genmeta.tasks.clusters import ClusterTasks
from genmeta.tasks.evaluated import Episodes
from genmeta.tasks.latent import GeneratedInstances, LatentTasks
from genmeta.tasks.policies import (
    ClassExtrapolation,
    ClassGaussian,
    ClassInterpolation,
    EncodedNoise,
    MixtureComponents,
    OtherClass,
    RandomOther,
    TransferredVariation,
)
from genmeta.tasks.real import RealTasks
from genmeta.tasks.redrawn import Redraw, RedrawnTasks

TASKS = {
    "random_other": LatentTasks(RandomOther(0.3, spherical=True)),
    "random_other_linear": LatentTasks(RandomOther(0.3)),
    "other_class": LatentTasks(OtherClass(0.3)),
    "interpolation": LatentTasks(ClassInterpolation()),
    "extrapolation": LatentTasks(ClassExtrapolation()),
    "encoded_noise": LatentTasks(EncodedNoise(sigma=50.0)),
    "transferred": LatentTasks(TransferredVariation()),
    "transferred_instances": GeneratedInstances(RealTasks(), TransferredVariation()),
    "class_gaussian": LatentTasks(ClassGaussian()),
    "mixture": LatentTasks(MixtureComponents(10)),
    "classes": LatentTasks(MixtureComponents(0), separation=0.0),
    "clusters": ClusterTasks(n_partitions=2, n_clusters=20),
    "bank": BankedTasks(LatentTasks(ClassInterpolation()), episodes=4, refresh=2),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow")
    names = make_table().class_names
    split = folder / "split.json"
    split.write_text(json.dumps({"dataset": "toy", "train": names[:12], "val": names[12:18], "test": names[18:]}))
    fit(flow(class_dim=3), images_of(str(split)), folder / "codes", steps=3)
    fit(flow_redraw(), images_of(str(split)), folder / "redrawer", steps=3)
    return {"split": str(split), "generator": folder / "codes" / "a.ckpt", "redrawer": folder / "redrawer" / "a.ckpt"}


def episodes_of(tasks, places, n_way=3) -> EpisodicDataModule:
    test, shape = Episodes(2, 1, 1), EpisodeShape(n_way, 1, 2)
    paths = {role: str(places[role]) for role in ("generator", "redrawer")}
    data = EpisodicDataModule(ToySource(), places["split"], tasks, shape, test, [test], tasks_per_step=2, **paths)
    data.setup("fit")
    return data


@pytest.mark.parametrize("name", TASKS)
def test_every_policy_draws_from_a_flow(name, places):
    """Codes have 256 entries of noise and 3 of the class; all that is drawn of them is images."""
    data = episodes_of(TASKS[name], places)
    plan = data.train_plan(0)
    if len(plan.z):
        assert plan.z.shape[1] == 16 * 16 + 3
        assert plan.z.isfinite().all()
    batch = data.on_after_batch_transfer(plan, 0)
    images = torch.cat([batch.support_x, batch.query_x], 1)
    assert images.shape == (2, 9, *SHAPE)
    assert 0 <= images.min() <= images.max() <= 1


def test_a_flow_redraws_given_images(places):
    data = episodes_of(RedrawnTasks(RealTasks(), Redraw(), share=1.0), places)
    batch = data.on_after_batch_transfer(data.train_plan(0), 0)
    assert batch.support_x.shape == (2, 3, *SHAPE)
    loaded = load_generator(places["redrawer"])
    with pytest.raises(UserError, match="has no decoder"):
        loaded.check_draws_from_codes()


@pytest.mark.parametrize("role", slow_but(["generator"], ["generator", "redrawer"]))
def test_a_flow_is_explored_and_exported(role, places, tmp_path):
    model, table = load_generator(places[role]), make_table()
    rows = torch.arange(0, 160, 10)
    classes = table.class_ids[rows]
    names = tuple(f"c{number}" for number in range(8))
    seen = ExploredImages(
        table.images[rows].float() / 255, classes, names, names, ("train",) * 8, (True,) * 4 + (False,) * 4
    )
    found = explore(model, seen)
    assert "units" in found.pictures
    assert bool(found.skipped) == (role == "redrawer")
    network = model.networks["decoder" if role == "generator" else "redrawer"]
    assert count_weights(model) == sum(weights.numel() for weights in network.ode.network.parameters())
    assert images_per_second(model, 4) > 0
    assert main(["export", str(places[role]), f"--out={tmp_path / 'out'}"]) == 0
    exported = load_generator(tmp_path / "out")
    torch.testing.assert_close(exported.networks.state_dict(), model.networks.state_dict(), rtol=0, atol=0)
    assert main(["export", str(places[role]), f"--out={tmp_path / 'onnx'}", "--onnx"]) == 2
