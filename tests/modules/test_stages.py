"""Pictures of the stages of a registration."""

import os

import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_inference_learners import glyph_batch, likelihood
from test_learners import make_batch

from genmeta.cli.main import main
from genmeta.learners.aligned import AlignedRelation
from genmeta.learners.bending import BendingRegistration
from genmeta.learners.fused import Fused, Trained
from genmeta.learners.latent_likelihood import LatentLikelihood
from genmeta.learners.metric import PixelNearestNeighbour
from genmeta.models.backbones import Conv4
from genmeta.models.redraw import DeformationRedrawer, PairEncoder
from genmeta.models.registration import relative_errors, scales
from genmeta.modules.stages import RIGHT, TRUTH, WRONG, decisions, draw_decision


def trained_aligned() -> AlignedRelation:
    """Its registration has learned to move these few pairs."""
    torch.manual_seed(0)
    learner = AlignedRelation(Conv4(1, 4, 28, "group"), channels=8, stages=2)
    batch = glyph_batch(dtype=torch.float32)
    moving, fixed = scales(batch.support_x[0]), scales(batch.query_x[0])
    optimizer = torch.optim.Adam(learner.registration.parameters(), 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        relative_errors(learner.register(moving, fixed).moved, fixed).sum().backward()
        optimizer.step()
    return learner.eval()


def searching_likelihood() -> LatentLikelihood:
    torch.manual_seed(0)
    redrawer, encoder = DeformationRedrawer(4, (1, 28, 28), channels=4), PairEncoder(4, (1, 28, 28), (4, 8), 16)
    torch.nn.init.normal_(redrawer.affine.weight, std=0.1)
    return LatentLikelihood(None, steps=40, redrawer=redrawer, encoder=encoder).eval()


LEARNERS = {
    "aligned": (trained_aligned, ["stage 1", "stage 2"]),
    "bending": (BendingRegistration, ["level 1", "level 2", "level 3"]),
    "likelihood": (searching_likelihood, ["amortised", "searched"]),
    "fused": (lambda: Fused([PixelNearestNeighbour(), Trained(learner=trained_aligned())]), ["1 stage 1", "1 stage 2"]),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_the_moved_image_is_closer_to_the_query_than_the_support_image_is(name):
    make, stages = LEARNERS[name]
    learner, batch = make(), glyph_batch(dtype=torch.float32)
    found = decisions(learner, batch, learner(batch), 3, 3)
    assert list(learner.moved(batch.support_x[0], batch.query_x[0])) == stages
    own = [one for one in found if one.right or not one.chosen]
    assert len(own) == 3
    for one in own:
        assert one.moved.shape == (len(stages), 1, 28, 28)
        assert torch.equal(one.residual, one.query - one.moved[-1])
        assert one.residual.square().sum() < 0.8 * (one.query - one.support).square().sum()


def test_right_and_wrong_decisions_show_the_images_of_their_classes():
    """Bug: the support image of another class, or of another task."""
    batch, learner = make_batch(n_tasks=2, n_shot=2, n_query=2), likelihood(steps=0)
    logits = torch.nn.functional.one_hot(batch.query_y, 3).double()
    wrong = (int(batch.query_y[1, 4]) + 1) % 3
    logits[1, 4] = torch.nn.functional.one_hot(torch.tensor(wrong), 3)
    found = decisions(learner, batch, logits, 3, 2)
    assert [(one.right, one.chosen) for one in found] == [(True, True)] * 3 + [(False, True), (False, False)]
    for one, label in zip(found[3:], (wrong, int(batch.query_y[1, 4])), strict=True):
        first = int((batch.support_y[1] == label).nonzero()[0])
        assert torch.equal(one.support, batch.support_x[1, first])
        assert torch.equal(one.query, batch.query_x[1, 4])
    for number, one in enumerate(found[:3]):
        assert torch.equal(one.query, batch.query_x[0, number])
        first = int((batch.support_y[0] == batch.query_y[0, number]).nonzero()[0])
        assert torch.equal(one.support, batch.support_x[0, first])
    for one, colour in zip((found[0], *found[3:]), (RIGHT, WRONG, TRUTH), strict=True):
        row = draw_decision(one)
        assert row.shape == (3, 20, 4 * 20), "support, one stage, query, residual"
        assert row[:, 0, 0].tolist() == pytest.approx(colour)
    assert decisions(PixelNearestNeighbour(), batch, logits, 3, 2) == []


def test_a_test_draws_its_stages_and_the_report_shows_them(tmp_path, toy_split_file, monkeypatch):
    monkeypatch.chdir(ROOT)
    data = ["--data.source=conftest.ToySource", f"--data.split={toy_split_file}", "--data.tasks_per_eval_batch=2"]
    quick = ["--config=configs/trainer/debug.yaml", f"--run.folder={tmp_path}", "--run.wandb=off", "--run.name=hand"]
    learner = ["--config=configs/baseline/bending.yaml", "--model.learner.steps=2"]
    assert main(["test", *learner, *data, *quick]) == 0
    os.environ.pop("GENMETA_RUN_FOLDER", None)
    folder = tmp_path / "hand" / "001"
    with Image.open(folder / "pictures" / "stages.png") as picture:
        assert picture.width == 2 * (1 + 3 + 2) * 20
        assert picture.height >= 2 * 6 * 20
    assert main(["report", str(folder), "--out", str(tmp_path / "report.html")]) == 0
    assert "decisions of the test" in (tmp_path / "report.html").read_text()
    nothing = ["--config=configs/baseline/pixels.yaml", "--run.name=pixels"]
    assert main(["test", *nothing, *data, *quick[:-1]]) == 0
    assert not (tmp_path / "pixels" / "001" / "pictures" / "stages.png").exists()
