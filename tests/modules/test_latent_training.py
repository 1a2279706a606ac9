"""Training with generated images through Lightning: encodings, redrawing, bank, adaptive share; resume, DDP."""

import contextlib
import warnings
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from genmeta.cli.report.sections import _notes
from genmeta.data.glyphs import Glyphs
from genmeta.episode import EpisodeShape
from genmeta.errors import UserError
from genmeta.experiments.progress import GridProgress
from genmeta.learners.metric import ProtoNet
from genmeta.models.backbones import Conv4
from genmeta.models.checkpoint import load_generator
from genmeta.modules.episodic_data import EpisodicDataModule
from genmeta.modules.meta_module import MetaModule
from genmeta.tasks.bank import BankedTasks
from genmeta.tasks.elastic import Elastic
from genmeta.tasks.evaluated import Episodes, Support
from genmeta.tasks.latent import LatentTasks
from genmeta.tasks.mixed import MixedTasks
from genmeta.tasks.policies import ClassInterpolation, EncodedNoise, RandomOther
from genmeta.tasks.real import RealTasks
from genmeta.tasks.redrawn import Redraw, RedrawnTasks
from genmeta.tasks.share import Adaptive

SHAPE = EpisodeShape(4, 1, 2)


def make_data(tasks, generator=None, redrawer=None, **options) -> EpisodicDataModule:
    settings = {
        "val": Episodes(4, 1, 3, n_episodes=6),
        "test": [Episodes(4, 1, 3, n_episodes=8)],
        "tasks_per_step": 2,
        "steps_per_epoch": 3,
        **options,
    }
    paths = {"generator": str(generator) if generator else None, "redrawer": str(redrawer) if redrawer else None}
    return EpisodicDataModule(Glyphs(), "glyphs_minimal", tasks, SHAPE, **paths, **settings)


def module() -> MetaModule:
    torch.manual_seed(0)
    return MetaModule(ProtoNet(Conv4(1, 4, 28)))


def trainer_for(folder, **options) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, **quiet, **options}
    return Trainer(default_root_dir=folder, **settings)


def weights(of: MetaModule) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in of.parameters()])


def adaptive_tasks() -> MixedTasks:
    banked = BankedTasks(LatentTasks(RandomOther(0.3), 0.3), episodes=4, refresh=2)
    return MixedTasks(RealTasks(rotations=True), banked, Adaptive(0.4, change=0.2), "class")


def test_encodings_are_those_of_the_encoder_in_the_order_of_the_rows(vae):
    data = make_data(LatentTasks(EncodedNoise(keep_real=True), 0.0), vae)
    data.setup("fit")
    encodings = data.pools["train"].encodings
    assert len(encodings.rows) == len(data.pools["train"].all_rows) == 149 * 20
    some = torch.tensor([0, 7, 1500, 2979])
    images = data.table.images[encodings.rows[some]].float() / 255
    mean, log_var = load_generator(vae).encode(images)
    torch.testing.assert_close(encodings.means[some], mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encodings.scales[some], (log_var / 2).exp(), atol=1e-5, rtol=1e-4)
    classes = data.table.class_ids[encodings.rows]
    assert torch.equal(classes, data.split.class_ids(data.table, "train")[encodings.classes])
    assert data.pools["val"].encodings is None, "nothing of the other classes is encoded"


class Noted(RealTasks):
    """Tasks that have lowered something."""

    notes = ("less separation",)


def test_a_lowered_separation_is_told_once_and_recorded(capsys):
    """It was printed by runs of experiments alone, where nobody saw it."""
    data = make_data(Noted())
    data.setup("fit")
    data.setup("fit")  # as the trainer does
    [note] = data.facts["notes"]
    assert capsys.readouterr().err == f"genmeta: {note}\n"
    said = StringIO()
    with contextlib.redirect_stdout(said):
        run = SimpleNamespace(args=("fit",), label="fit", expected=0, after=(), finished=True)
        run.summary = {"seconds": 1, "notes": [note]}
        GridProgress([run], 1).ends(run, "")
    assert note in said.getvalue()
    [shown] = _notes([run, SimpleNamespace(label="test", summary={})])
    assert shown.rows == [[note, "fit"]]


def test_the_bank_holds_what_its_filling_renders_and_is_filled_anew(generator):
    banked = BankedTasks(LatentTasks(RandomOther(0.3), 0.3), episodes=25, refresh=2)
    data = make_data(banked, generator)
    data.setup("fit")
    seen = []
    for step in range(4):
        plan = data.train_plan(step)
        batch = data.on_after_batch_transfer(plan, 0)
        filling = banked.fill(data.pools["train"], SHAPE, step // 2, _bank_rng(step // 2))
        direct = data.render(filling)
        by_slot = [x.view(25, 4, -1, 1, 28, 28) for x in (direct.support_x, direct.query_x)]
        expected = torch.cat(by_slot, 2).flatten(0, 2)[plan.rows.flatten()].view(2, 4, 3, 1, 28, 28)
        torch.testing.assert_close(batch.support_x, expected[:, :, 0], atol=0.5 / 255 + 1e-6, rtol=0)
        torch.testing.assert_close(batch.query_x.view(2, 4, 2, 1, 28, 28), expected[:, :, 1:], atol=0.51 / 255, rtol=0)
        seen.append(data.bank(step // 2, batch.support_x.device).images)
    assert seen[0] is seen[1]
    assert not torch.equal(seen[1], seen[2])


def _bank_rng(period):
    from genmeta.rng import make_rng

    return make_rng(0, "bank", period)


@pytest.mark.parametrize("steps", [4, None], ids=["mid epoch", "after validation"])
def test_bank_and_adaptive_share_resume_exactly(tmp_path, generator, steps):
    whole, data = module(), make_data(adaptive_tasks(), generator)
    trainer_for(tmp_path, max_epochs=4).fit(whole, data)
    assert data.schedules[0].since == 12
    assert data.schedules[0].share != 0.4, "the share moved"

    every = ModelCheckpoint(dirpath=tmp_path / "ckpt", filename="part", every_n_train_steps=steps, save_top_k=-1)
    stop = trainer_for(tmp_path, max_steps=steps or 3, enable_checkpointing=True, callbacks=[every])
    stop.fit(module(), make_data(adaptive_tasks(), generator))
    (path,) = (tmp_path / "ckpt").glob("part*.ckpt")

    second, fresh = MetaModule(ProtoNet(Conv4(1, 4, 28))), make_data(adaptive_tasks(), generator)
    trainer_for(tmp_path, max_epochs=4).fit(second, fresh, ckpt_path=path, weights_only=True)
    assert fresh.schedules[0].state_dict() == data.schedules[0].state_dict()
    assert torch.equal(weights(second), weights(whole))


def test_two_processes_draw_what_one_draws(tmp_path, generator, redrawer):
    """Bank, redrawing and an adaptive share with a process each for half of the tasks."""
    plans = []
    for devices in (1, 2):
        real = RedrawnTasks(RealTasks(), Redraw(1.0, Elastic()), share=0.5)
        data = make_data(replace(adaptive_tasks(), real=real), generator, redrawer)
        options = {"devices": 2, "strategy": "ddp_fork"} if devices == 2 else {}
        of = module()
        with warnings.catch_warnings():  # of forking with threads (Python 3.12)
            warnings.simplefilter("ignore")
            trainer = trainer_for(tmp_path, max_epochs=3, **options)
            trainer.fit(of, data)
        plans.append({name: float(value) for name, value in trainer.callback_metrics.items()})
    # batch norm sees half of the tasks in each process, so weights differ; what was drawn does not
    for name in ("made_up", "decoded", "redrawn"):
        assert plans[0][f"train/{name}_share"] == pytest.approx(plans[1][f"train/{name}_share"])
    assert plans[0]["train/redrawn_share"] > 0


def test_generated_support_images_are_tested_on_the_same_episodes(tmp_path, redrawer):
    supports = [None, Support(n=3, weight=0.0), Support(Redraw(0.0, Elastic()), 3, 0.5), Support(n=5)]
    episodes = [Episodes(4, 1, 3, n_episodes=8, support=support) for support in supports]
    data = make_data(RealTasks(), redrawer=redrawer, test=episodes)
    of = module()
    trainer_for(tmp_path).test(of, data, verbose=False)
    found = of.episode_accuracies
    assert set(found) == {"4w1s", "4w1s+3redrawn", "4w1s+3elastic", "4w1s+5redrawn"}
    plans = [data.eval_plan("test", e) for e in episodes]
    for plan in plans[1:]:
        assert torch.equal(plan.rows[..., -3:], plans[0].rows[..., -3:])
        assert torch.equal(plan.labels, plans[0].labels)
    assert found["4w1s+3redrawn"] == found["4w1s"], "generated images that weigh nothing"


def test_a_redrawer_or_generator_of_another_split_is_refused(vae, redrawer):
    for tasks, options in (
        (RedrawnTasks(RealTasks(), Redraw()), {"redrawer": redrawer}),
        (LatentTasks(ClassInterpolation(), 0.1), {"generator": vae}),
    ):
        data = EpisodicDataModule(
            Glyphs(), "glyphs_full", tasks, SHAPE, Episodes(), [Episodes()], **{k: str(v) for k, v in options.items()}
        )
        with pytest.raises(UserError, match="was trained on split 'glyphs_minimal'"):
            data.setup("fit")


@pytest.mark.parametrize(
    ("tasks", "codes", "redraws", "message"),
    [
        (RedrawnTasks(RealTasks(), Redraw()), None, None, r"data\.redrawer is not set"),
        (RedrawnTasks(RealTasks(), Redraw()), None, "vae", "does not draw given images again"),
        (LatentTasks(ClassInterpolation()), "redrawer", None, "has no decoder"),
        (LatentTasks(ClassInterpolation()), "generator", None, "has no encoder"),
        (LatentTasks(ClassInterpolation(), 3.0), "vae", None, "no 4 classes with separation 3"),
        (
            MixedTasks(BankedTasks(RealTasks()), BankedTasks(LatentTasks(RandomOther(), 0.3))),
            "vae",
            None,
            "one bank of generated tasks only",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_training(request, tasks, codes, redraws, message):
    path = lambda name: request.getfixturevalue(name) if name else None  # noqa: E731
    with pytest.raises(UserError, match=message):
        make_data(tasks, path(codes), path(redraws)).setup("fit")
