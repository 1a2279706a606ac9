"""No labels: class ids of training images reach nothing that is trained."""

from dataclasses import replace

import pytest
import torch
from conftest import ToySource, make_table, toy_split
from test_training import trainer_for, weights

from genmeta.cli.inputs import inputs_of
from genmeta.data.low_data import LowData
from genmeta.data.seen import Origin, Seen
from genmeta.data.unlabelled import rows_by_pixels
from genmeta.episode import EpisodeShape
from genmeta.errors import UserError
from genmeta.learners.contrastive import Contrastive
from genmeta.learners.metric import ProtoNet
from genmeta.models.backbones import Conv4
from genmeta.models.checkpoint import KEY
from genmeta.models.vae_networks import ConvDecoder, ConvEncoder
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.image_data import ImageDataModule
from genmeta.modules.meta_module import MetaModule
from genmeta.modules.train_classes import MinedLabels
from genmeta.modules.vae_module import VAEModule
from genmeta.rng import make_rng
from genmeta.tasks.clusters import ClusterTasks
from genmeta.tasks.elastic import Elastic
from genmeta.tasks.evaluated import Episodes
from genmeta.tasks.real import RealTasks
from genmeta.tasks.redrawn import Redraw, RedrawnTasks, SingleImageTasks
from genmeta.tasks.sampler import TaskSampler


class Shuffled(ToySource):
    """The same pictures of the same train classes, each said to be of another of them."""

    def load(self):
        table = make_table(size=self.size)
        n = 12 * 20  # toy_split trains on the first twelve classes
        order = torch.randperm(n, generator=make_rng("shuffled ids"))
        assert (table.class_ids[order] != table.class_ids[:n]).float().mean() > 0.8
        return replace(table, images=torch.cat([table.images[:n][order], table.images[n:]]))


UMTRA = RedrawnTasks(SingleImageTasks(rotations=True, mirrors=True), Redraw(0.0, Elastic()), which="query")


def images(source, split, labels) -> ImageDataModule:
    return ImageDataModule(source, split, batch_size=16, steps_per_epoch=3, feature_steps=2, labels=labels)


def episodes(source, split, labels, tasks: TaskSampler = UMTRA, n_query: int = 2, **options) -> EpisodicDataModule:
    train, val = EpisodeShape(5, 1, n_query), Episodes(5, 1, 2, n_episodes=4)
    return EpisodicDataModule(source, split, tasks, train, val, [val], steps_per_epoch=3, labels=labels, **options)


def trained_vae(folder, source, split, labels) -> tuple[torch.Tensor, str]:
    torch.manual_seed(0)
    sizes = {"latent_dim": 4, "image_shape": (1, 16, 16), "channels": (4, 8), "hidden": 8}
    module = VAEModule(ConvEncoder(**sizes), ConvDecoder(**sizes), importance_samples=1)
    trainer = trainer_for(folder, max_epochs=2)
    trainer.fit(module, datamodule=images(source, split, labels))
    path = folder / f"{type(source).__name__}-{labels}.ckpt"
    trainer.save_checkpoint(path)
    return weights(module), str(path)


def trained_learner(folder, data: EpisodicDataModule, learner=ProtoNet) -> torch.Tensor:
    torch.manual_seed(0)
    module = MetaModule(learner(Conv4(1, 4, 16)))
    trainer_for(folder, max_epochs=2).fit(module, datamodule=data)
    return weights(module)


def test_shuffled_ids_give_bit_identical_weights(tmp_path, toy_split_file):
    """Bug: classes reach a training that says it has none, by the order of the table or by groups."""
    both = (ToySource(), Shuffled())
    vaes = [trained_vae(tmp_path, source, toy_split_file, "none") for source in both]
    assert torch.equal(vaes[0][0], vaes[1][0])
    for tasks, generator in ((UMTRA, False), (ClusterTasks(n_partitions=2, n_clusters=12), True)):
        results = [
            trained_learner(
                tmp_path, episodes(source, toy_split_file, "none", tasks, generator=path if generator else None)
            )
            for source, (_, path) in zip(both, vaes, strict=True)
        ]
        assert torch.equal(*results)
    # the test can fail: with labels they do matter, to both
    with_labels = [trained_learner(tmp_path, episodes(source, toy_split_file, "all", RealTasks())) for source in both]
    assert not torch.equal(*with_labels)
    labelled = [trained_vae(tmp_path, source, toy_split_file, "all") for source in both]
    assert not torch.equal(labelled[0][0], labelled[1][0])
    # nor may ids come by way of what was trained with them
    with pytest.raises(UserError, match=r"was trained with the classes of the data \(data.labels all\)"):
        episodes(ToySource(), toy_split_file, "none", ClusterTasks(2, 12), generator=labelled[0][1]).setup("fit")


def mined_of(folder, source, split) -> MinedLabels:
    """Pseudo-classes by an embedding of these data, which is trained without labels."""
    path = folder / f"{type(source).__name__}-embedding.ckpt"
    torch.manual_seed(0)
    module, trainer = MetaModule(Contrastive(Conv4(1, 4, 16))), trainer_for(folder, max_epochs=2)
    views = RedrawnTasks(SingleImageTasks(), Redraw(0.0, Elastic()))
    trainer.fit(module, datamodule=episodes(source, split, "none", views, n_query=1))
    trainer.save_checkpoint(path)
    return MinedLabels(str(path), neighbours=6, cut=15.0, smallest=3, n_groups=2, steps=2)


def test_shuffled_ids_give_the_same_pseudo_classes_and_weights(tmp_path, toy_split_file):
    # an embedding for each: pictures under other class names count as other pictures
    both = (ToySource(), Shuffled())
    mined = [mined_of(tmp_path, source, toy_split_file) for source in both]
    data = [
        episodes(source, toy_split_file, labels, RealTasks(groups="within"))
        for source, labels in zip(both, mined, strict=True)
    ]
    results = [trained_learner(tmp_path, one) for one in data]
    assert torch.equal(*results)
    pool = data[0].pools["train"]
    assert int(pool.counts.min()) >= 3
    assert len(pool.groups.sizes) == 2
    assert data[0].facts["labels"] == "mined"
    learner = MetaModule(ProtoNet(Conv4(1, 4, 16)))
    assert inputs_of(learner, data[0], None) == {"embedding": mined[0].embedding}
    # each class of this toy is a pattern of its own, so most of what is found are its classes; chance is 1 of 12
    table = make_table()
    largest = [int(table.class_ids[rows].bincount().max()) for rows in data[0].class_rows]
    assert sum(largest) > 0.6 * sum(map(len, data[0].class_rows))
    # a VAE of pairs can use them, too: each image has a partner of its pseudo-class
    pairs = images(ToySource(), toy_split_file, mined[0])
    pairs.setup("fit")
    assert pairs.features.name.startswith("Conv4-64 ProtoNet on pseudo-classes, 2 steps")
    plan = pairs.plan(0)
    of_row = {row: number for number, rows in enumerate(pairs.class_rows) for row in rows.tolist()}
    assert [of_row[row] for row in plan.rows.tolist()] == [of_row[row] for row in plan.partners.tolist()]
    assert not set(zip(plan.rows.tolist(), plan.partners.tolist(), strict=True)) & {(row, row) for row in of_row}


def test_rows_by_pixels_do_not_depend_on_the_order_of_the_table():
    table = make_table(size=4)
    rows = torch.arange(100)
    ordered = table.images[rows_by_pixels(table.images, rows)]
    other = torch.randperm(100, generator=make_rng("rows"))
    assert torch.equal(table.images[rows_by_pixels(table.images, other)], ordered)
    assert not torch.equal(ordered, table.images[:100])


def test_single_images_are_the_classes_and_validation_keeps_its_own(toy_split_file):
    data = episodes(ToySource(), toy_split_file, "none")
    data.setup("fit")
    pool, val = data.pools["train"], data.pools["val"]
    assert pool.counts.tolist() == [1] * 240
    assert pool.group_ids.unique().tolist() == [0]
    assert val.counts.tolist() == [20] * 6
    assert data.split.hash == toy_split(make_table()).hash, "what was seen is the same"
    assert data.facts["labels"] == "none"


def test_generators_hold_out_images_without_labels(toy_split_file):
    data = images(ToySource(), toy_split_file, "none")
    data.setup("fit")
    assert (len(data.train_rows), len(data.held_out_rows)) == (192, 48)
    assert not set(data.train_rows.tolist()) & set(data.held_out_rows.tolist())
    assert torch.cat([data.train_rows, data.held_out_rows]).sort().values.tolist() == list(range(240))
    assert data.features.name.startswith("Conv4-64 UMTRA")


def test_what_needs_labels_is_told(tmp_path, toy_split_file):
    with pytest.raises(UserError, match="each training image is a class of its own: SingleImageTasks"):
        episodes(ToySource(), toy_split_file, "none", RealTasks()).setup("fit")
    with pytest.raises(UserError, match=r"data.low_data keeps some of the classes .* leave one of the two out"):
        episodes(ToySource(), toy_split_file, "none", low_data=LowData(classes=4))
    with pytest.raises(UserError, match=r"data\.labels\.embedding: checkpoint nowhere: no such file"):
        episodes(ToySource(), toy_split_file, MinedLabels("nowhere")).setup("fit")
    with pytest.raises(UserError, match=r"data\.labels: neighbours, n_groups and steps must be at least 1"):
        MinedLabels("nowhere", neighbours=0)


def test_checkpoints_of_pseudo_classes_have_not_seen_test_classes_or_ids(tmp_path):
    """Bug: an embedding of another split, which may have seen the test classes, or one that was trained with labels."""
    table, path = make_table(), str(tmp_path / "embedding.ckpt")
    split = toy_split(table)
    origin = Origin.of(split, table)

    def save(labels: str) -> None:
        torch.save({"state_dict": {}, KEY: {**Seen.of(split, table).state(), "labels": labels}}, path)

    save("none")
    MinedLabels(path).check_trained_on(origin)
    with pytest.raises(
        UserError, match=r"data\.labels\.embedding: .* was trained on split .* may have seen the classes"
    ):
        MinedLabels(path).check_trained_on(replace(origin, split_hash="another"))
    save("all")
    with pytest.raises(UserError, match="was trained with the classes of the data"):
        MinedLabels(path).check_trained_on(origin)


def test_validation_images_that_are_trained_on_lose_their_classes_too(toy_split_file):
    """Bug: `train_part: val` reads class ids of validation images, or their order, in a run that says it has none."""
    data = episodes(ToySource(), toy_split_file, "none", SingleImageTasks(), train_part="val")
    data.setup("fit")
    pool, table = data.train_pool, make_table()
    assert pool.counts.tolist() == [1] * 120
    rows = pool.all_rows
    assert {table.class_names[n] for n in table.class_ids[rows].tolist()} == set(data.split.val)
    assert torch.equal(rows, rows_by_pixels(table.images, rows.sort().values))
    assert set(data.train_plan(0).rows.flatten().tolist()) <= set(rows.tolist())
    assert data.pools["val"].counts.tolist() == [20] * 6, "validation itself has classes"
    with pytest.raises(UserError, match="each training image is a class of its own"):
        episodes(ToySource(), toy_split_file, "none", RealTasks(), train_part="val").setup("fit")
    with pytest.raises(UserError, match=r"data\.train_part is 'val', but data\.labels finds pseudo-classes"):
        episodes(ToySource(), toy_split_file, MinedLabels("nowhere"), train_part="val")
