"""Lightning modules and data: purity of the steps, workers, processes, resume."""

import csv
import json
import warnings
from pathlib import Path

import pytest
import torch
from conftest import ToySource
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from genmeta.episode import EpisodePlan, EpisodeShape, concatenate, plan_hash
from genmeta.errors import UserError
from genmeta.learners.maml import MAML
from genmeta.learners.metric import ProtoNet
from genmeta.models.backbones import Conv4
from genmeta.models.gan_networks import FullyConnectedDiscriminator, FullyConnectedGenerator
from genmeta.models.vae_networks import ConvDecoder, ConvEncoder
from genmeta.modules.class_files import ClassFiles
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.gan_module import GANModule
from genmeta.modules.image_data import ImageDataModule
from genmeta.modules.meta_module import MetaModule
from genmeta.modules.step_loader import StepLoader
from genmeta.modules.vae_module import VAEModule
from genmeta.tasks.elastic import Elastic
from genmeta.tasks.evaluated import Episodes
from genmeta.tasks.latent import LatentTasks
from genmeta.tasks.mixed import MixedTasks
from genmeta.tasks.policies import PriorNoise
from genmeta.tasks.real import RealTasks
from genmeta.tasks.redrawn import DeformedClasses
from genmeta.tasks.share import Adaptive


def trainer_for(folder, **options) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, **quiet, **options}
    return Trainer(default_root_dir=folder, **settings)


def protonet() -> MetaModule:
    torch.manual_seed(0)
    return MetaModule(ProtoNet(Conv4(1, 4, 16)))


def maml(dtype=torch.float64) -> MetaModule:
    torch.manual_seed(0)
    learner = MAML(Conv4(1, 4, 16, norm="batch"), n_way=5, inner_lr=0.1)
    return MetaModule(learner.to(dtype), optimizer=lambda p: torch.optim.SGD(p, lr=0.1))


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_step_loader_counts_on_over_epochs_and_resumes():
    loader = StepLoader(lambda t: t, steps_per_epoch=4)
    assert [list(loader), list(loader)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    seen = iter(loader)
    assert [next(seen), next(seen)] == [8, 9]
    other = StepLoader(lambda t: t, steps_per_epoch=4)
    other.load_state_dict(loader.state_dict())
    assert list(other) == [10, 11, 12, 13]  # Lightning takes the first two


def test_training_tasks_are_the_same_for_any_number_of_workers(toy_data):
    toy_data.setup("fit")
    expected = [plan_hash(toy_data.train_plan(t)) for t in range(6)]
    assert len(set(expected)) == 6
    state = torch.get_rng_state()
    for n_workers in (0, 1, 3):
        toy_data.n_workers = n_workers
        loader = toy_data.train_dataloader()
        with warnings.catch_warnings():  # of fewer cores than workers, and of forking with threads (Python 3.12)
            warnings.simplefilter("ignore")
            plans = [plan for _ in range(2) for plan in loader]
        assert [plan_hash(plan) for plan in plans] == expected
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_the_meta_batch_without_gap_or_overlap(toy_data, world):
    toy_data.setup("fit")
    whole = toy_data.train_plan(7)
    parts = [toy_data.train_slice(rank, world, 7) for rank in range(world)]
    assert plan_hash(concatenate(parts)) == plan_hash(whole)


def test_evaluation_episodes_do_not_depend_on_the_training_seed(toy_split_file, toy_data):
    other = EpisodicDataModule(
        ToySource(), toy_split_file, RealTasks(), EpisodeShape(5, 1, 4), toy_data.val, toy_data.test, seed=5
    )
    other.setup("fit")
    toy_data.setup("fit")
    assert other.eval_hashes("test") == toy_data.eval_hashes("test")
    assert other.eval_hashes("validate") == toy_data.eval_hashes("validate")
    assert plan_hash(other.train_plan(0)) != plan_hash(toy_data.train_plan(0))
    assert len(set(toy_data.eval_hashes("test").values())) == 2


def test_splits_do_not_leak_into_each_other(toy_data):
    toy_data.setup("fit")
    toy_data.setup("test")
    table = toy_data.table
    names = lambda plan: {table.class_names[i] for i in table.class_ids[plan.rows].flatten()}  # noqa: E731
    seen = {
        "train": set().union(*(names(toy_data.train_plan(t)) for t in range(40))),
        "val": names(toy_data.eval_plan("val", Episodes(5, 1, 5, 100))),
        "test": names(toy_data.eval_plan("test", Episodes(5, 1, 5, 100))),
    }
    for part, classes in seen.items():
        assert classes == set(getattr(toy_data.split, part))


@pytest.mark.parametrize("make", [protonet, lambda: maml(torch.float32)], ids=["protonet", "maml"])
def test_fit_validate_and_test_loops(tmp_path, toy_data, make):
    module = make()
    trainer = trainer_for(tmp_path, max_epochs=2)
    trainer.fit(module, toy_data)
    metrics = dict(trainer.callback_metrics)
    assert {"train/loss", "train/acc", "train/acc_real", "val/acc", "val/acc_ci95"} <= set(metrics)
    assert not any("redrawn" in name or "decoded" in name or "made_up" in name for name in metrics)
    tested = trainer.test(module, toy_data, verbose=False)[0]
    again = trainer.test(module, toy_data, verbose=False)[0]
    assert tested == again
    assert [len(values) for values in module.episode_accuracies.values()] == [21, 13]
    assert tested["test/acc_5w1s"] == pytest.approx(sum(module.episode_accuracies["5w1s"]) / 21)
    validated = trainer.validate(module, toy_data, verbose=False)[0]  # in inference mode, unlike in fit
    assert validated["val/acc"] == pytest.approx(float(metrics["val/acc"]))


def test_accuracy_by_source_is_a_mean_over_the_queries_of_that_source(tmp_path, toy_data, toy_split_file):
    path = tmp_path / "vae" / "best.ckpt"
    pretrain(VAEModule(ConvEncoder(4, (1, 16, 16)), ConvDecoder(4, (1, 16, 16))), toy_split_file, tmp_path, path)
    toy_data.train_tasks = MixedTasks(RealTasks(), LatentTasks(PriorNoise(), 0.3), 0.25)
    toy_data.generator_path = str(path)
    module = protonet()
    seen = []
    original = module.learner.forward

    def spy(batch):
        logits = original(batch)
        if module.training:
            seen.append(((logits.argmax(2) == batch.query_y).float(), batch.query_is_generated))
        return logits

    module.learner.forward = spy
    trainer = trainer_for(tmp_path, max_epochs=1)
    trainer.fit(module, toy_data)
    right, latent = (torch.cat([row[i] for row in seen]) for i in (0, 1))
    assert latent.float().mean() == 0.25
    metrics = trainer.callback_metrics
    assert float(metrics["train/acc_decoded"]) == pytest.approx(right[latent].mean().item())
    assert float(metrics["train/acc_real"]) == pytest.approx(right[~latent].mean().item())
    assert float(metrics["train/decoded_share"]) == float(metrics["train/made_up_share"]) == pytest.approx(0.25)
    assert "train/acc_redrawn" not in metrics


def pretrain(module, split_file, folder, path, epochs=1) -> Trainer:
    data = ImageDataModule(ToySource(), split_file, batch_size=16, steps_per_epoch=4, feature_steps=2)
    checkpoint = ModelCheckpoint(dirpath=path.parent, filename=path.stem)
    trainer = trainer_for(folder, max_epochs=epochs, enable_checkpointing=True, callbacks=[checkpoint])
    trainer.fit(module, data)
    return trainer


def gan() -> GANModule:
    torch.manual_seed(0)
    return GANModule(
        FullyConnectedGenerator(4, (1, 16, 16), (8, 16)), FullyConnectedDiscriminator((1, 16, 16), (16, 8))
    )


def test_each_gan_step_moves_its_own_network_only(toy_split_file, tmp_path):
    module = gan()
    steps = []
    for optimizer in (0, 1):
        # with learning rate zero for one network, that one stands still and the other moves
        module = gan()
        made = []

        def make(parameters, made=made, optimizer=optimizer):
            made.append(1)
            return torch.optim.SGD(parameters, lr=0.0 if len(made) - 1 == optimizer else 0.1)

        module.optimizer = make
        before = weights(module.generator), weights(module.discriminator)
        pretrain(module, toy_split_file, tmp_path, tmp_path / f"{optimizer}" / "best.ckpt")
        steps.append(
            [
                not torch.equal(a, weights(n))
                for a, n in zip(before, (module.generator, module.discriminator), strict=True)
            ]
        )
    assert steps == [[False, True], [True, False]]
    assert all(p.requires_grad for p in module.parameters())


def test_pretraining_sees_no_image_of_other_classes_and_holds_some_out(toy_split_file):
    data = ImageDataModule(ToySource(), toy_split_file, batch_size=16, steps_per_epoch=4, held_out=0.1)
    data.setup("fit")
    rows = torch.cat([data.plan(t).rows for t in range(60)])
    classes = {data.table.class_names[i] for i in data.table.class_ids[rows]}
    assert classes == set(data.split.train)
    assert set(rows.tolist()) == set(data.train_rows.tolist())
    assert not set(rows.tolist()) & set(data.held_out_rows.tolist())
    assert len(data.held_out_rows) == 12 * 2
    epoch = rows[: len(data.train_rows)]
    assert len(set(epoch.tolist())) == len(epoch), "one pass is a permutation"


def test_a_vae_learns(toy_split_file, tmp_path):
    torch.manual_seed(0)
    module = VAEModule(ConvEncoder(4, (1, 16, 16)), ConvDecoder(4, (1, 16, 16)))
    first = pretrain(module, toy_split_file, tmp_path, tmp_path / "a" / "best.ckpt").callback_metrics["val/elbo"]
    later = pretrain(module, toy_split_file, tmp_path, tmp_path / "b" / "best.ckpt", epochs=15).callback_metrics[
        "val/elbo"
    ]
    assert later > first


@pytest.mark.parametrize("make", [gan, lambda: VAEModule(ConvEncoder(4, (1, 16, 16)), ConvDecoder(4, (1, 16, 16)))])
def test_pretraining_twice_gives_the_same_weights(make, toy_split_file, tmp_path):
    results = []
    for name in "ab":
        torch.manual_seed(0)
        module = make()
        torch.manual_seed(ord(name))  # nothing after the initial weights may use the global generator
        pretrain(module, toy_split_file, tmp_path, tmp_path / name / "best.ckpt")
        results.append(weights(module))
    assert torch.equal(*results)


@pytest.mark.parametrize("steps", [3, 4, None], ids=["before validation", "mid epoch", "after validation"])
def test_resumed_training_equals_uninterrupted_training(tmp_path, toy_data, toy_split_file, steps):
    toy_data.steps_per_epoch = 3
    whole = protonet()
    trainer_for(tmp_path, max_epochs=3).fit(whole, toy_data)

    first = protonet()
    every = ModelCheckpoint(dirpath=tmp_path / "ckpt", filename="part", every_n_train_steps=steps, save_top_k=-1)
    steps = steps or 3
    trainer_for(tmp_path, max_steps=steps, enable_checkpointing=True, callbacks=[every]).fit(first, toy_data)
    (path,) = (tmp_path / "ckpt").glob("part*.ckpt")

    second = MetaModule(ProtoNet(Conv4(1, 4, 16)))
    fresh = EpisodicDataModule(
        ToySource(), toy_split_file, RealTasks(), toy_data.train_shape, toy_data.val, toy_data.test, steps_per_epoch=3
    )
    trainer_for(tmp_path, max_epochs=3).fit(second, fresh, ckpt_path=path, weights_only=True)
    assert torch.equal(weights(second), weights(whole))


class DoubleData(EpisodicDataModule):
    def on_after_batch_transfer(self, batch: EpisodePlan, dataloader_idx: int):
        rendered = super().on_after_batch_transfer(batch, dataloader_idx)
        fields = vars(rendered)
        floats = {k for k, v in fields.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
        return type(rendered)(**{k: v.double() if k in floats else v for k, v in fields.items()})


def test_two_processes_equal_one(tmp_path, toy_data, toy_split_file):
    """Same tasks, same parameters, and every test episode counted once, in order (21 and 13 do not halve)."""
    results = []
    for devices in (1, 2):
        data = DoubleData(
            ToySource(),
            toy_split_file,
            RealTasks(),
            toy_data.train_shape,
            toy_data.val,
            toy_data.test,
            steps_per_epoch=3,
        )
        module = maml()
        options = {"devices": 2, "strategy": "ddp_fork"} if devices == 2 else {}
        folder = tmp_path / str(devices)
        folder.mkdir()
        trainer = trainer_for(tmp_path, max_epochs=2, callbacks=[ClassFiles(folder)], **options)
        with warnings.catch_warnings():  # of forking with threads (Python 3.12)
            warnings.simplefilter("ignore")
            trainer.fit(module, data)
            tested = trainer.test(module, data, verbose=False)[0]
        results.append(
            (weights(module), tested, [(folder / n).read_text() for n in ("per_class.csv", "confusion.csv")])
        )
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-10, rtol=1e-10)
    assert results[1][1] == pytest.approx(results[0][1], abs=1e-12)
    assert results[1][2] == results[0][2], "counts by class are exact sums"
    rows = list(csv.DictReader(results[0][2][0].splitlines()))
    for name, n_queries in (("5w1s", 21 * 5 * 5), ("5w5s", 13 * 5 * 5)):
        queries, right = (sum(int(row[c]) for row in rows if row["episodes"] == name) for c in ("queries", "right"))
        assert queries == n_queries
        assert right / n_queries == pytest.approx(results[0][1][f"test/acc_{name}"])


def test_a_learner_of_another_split_is_refused(tmp_path, toy_data, toy_split_file):
    module = protonet()
    checkpoint = ModelCheckpoint(dirpath=tmp_path / "ckpt", filename="a")
    trainer_for(tmp_path, max_epochs=1, enable_checkpointing=True, callbacks=[checkpoint]).fit(module, toy_data)
    content = json.loads(Path(toy_split_file).read_text())
    content["train"], content["test"] = content["test"], content["train"]
    (tmp_path / "swapped.json").write_text(json.dumps(content))
    swapped = EpisodicDataModule(
        ToySource(), str(tmp_path / "swapped.json"), RealTasks(), toy_data.train_shape, toy_data.val, toy_data.test
    )
    with pytest.raises(UserError, match=r"a\.ckpt was trained on 12 of the 12 classes of part .test. of split .swap"):
        trainer_for(tmp_path).test(
            protonet(), swapped, ckpt_path=tmp_path / "ckpt" / "a.ckpt", weights_only=True, verbose=False
        )


def test_metrics_csv_reader_of_curves_survives_empty_cells(tmp_path):
    from genmeta.modules.pictures import draw_curves

    with (tmp_path / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(
            [["epoch", "step", "train/loss", "val/acc"], [0, 1, 0.5, ""], [0, 2, "", 0.7], [1, 3, 0.4, ""]]
        )
    draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_an_adaptive_share_moves_by_made_up_classes_also_where_their_images_are_real(tmp_path, toy_data):
    """By images there is nothing generated, so that the share would never move."""
    schedule = Adaptive(0.5, change=0.1)
    toy_data.train_tasks = MixedTasks(RealTasks(), DeformedClasses(RealTasks(), Elastic()), schedule)
    trainer = trainer_for(tmp_path, max_epochs=1)
    trainer.fit(protonet(), toy_data)
    assert schedule.share != 0.5
    assert float(trainer.callback_metrics["train/made_up_share"]) == 0.5
    assert "train/decoded_share" not in trainer.callback_metrics
