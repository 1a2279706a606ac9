"""Generated classes before time is spent on them: numbers known beforehand, flags where they belong."""

import json

import pytest
import torch
from conftest import ROOT
from test_cli import assert_one_line
from torch import Tensor

from genmeta.cli.main import main
from genmeta.episode import EpisodeBatch
from genmeta.evaluation.audit import (
    RULES,
    Reference,
    audit_numbers,
    copies,
    duplicate_share,
    episode_accuracy,
    generated_classes,
    label_agreement,
    verdicts,
    within_and_between,
)
from genmeta.models.vae_networks import ConvDecoder
from genmeta.rng import make_rng


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def batch() -> EpisodeBatch:
    """Two tasks of three classes, one shot and two queries; an image's value is 100 · task + 10 · label + number."""
    support_y, query_y = torch.tensor([[2, 0, 1], [1, 2, 0]]), torch.tensor([[0, 1, 2, 2, 1, 0], [2, 2, 0, 0, 1, 1]])
    task = torch.tensor([[0.0], [100.0]])
    number = torch.tensor([[1.0, 1, 1, 2, 2, 2], [1, 2, 1, 2, 1, 2]])
    return EpisodeBatch(
        support_x=(task + 10 * support_y)[..., None, None, None],
        support_y=support_y,
        query_x=(task + 10 * query_y + number)[..., None, None, None],
        query_y=query_y,
        is_generated=torch.tensor([[True, False, True], [False, True, False]]),
    )


def test_generated_classes_are_gathered_by_label_whatever_their_order():
    some = batch()
    assert generated_classes(some, some.is_generated).flatten(1).tolist() == [[0, 1, 2], [20, 21, 22], [110, 111, 112]]


def test_only_queries_of_generated_classes_are_counted_but_all_classes_compete():
    b = batch()
    query_x = b.query_x.clone()
    query_x[1, 4] = 100  # a query of the generated class of task 1 that looks like real class 0
    query_x[0, 1] = 0  # one of a real class: not counted
    b = EpisodeBatch(b.support_x, b.support_y, query_x, b.query_y, b.is_generated)
    assert sorted(episode_accuracy(flat, b, b.is_generated).tolist()) == [0, 1, 1, 1, 1, 1]
    assert episode_accuracy(flat, b, torch.ones_like(b.is_generated)).sum() == 10


def test_distances_within_and_between_by_hand():
    x = torch.tensor([[0.0, 0], [0, 2], [3, 0], [3, 4]])
    within, between = within_and_between(x, torch.tensor([0, 0, 1, 1]))
    assert within == pytest.approx((2 + 4) / 2)
    assert between == pytest.approx((3 + 5 + 13**0.5 + 13**0.5) / 4)


def test_label_agreement_is_the_share_of_pairs():
    centres = torch.tensor([[0.0], [10.0]])
    # one class all near 0; one with two of three near 10: 1 of 3 pairs agrees
    assert label_agreement(torch.tensor([[[1.0], [2], [3]], [[9.0], [8], [1]]]), centres) == pytest.approx(2 / 3)


def test_duplicates_are_counted_exactly():
    x = torch.rand(10, 1, 4, 4, generator=make_rng("duplicates"))
    assert duplicate_share(x) == 0
    x[3], x[4], x[9] = x[0], x[0], x[1] + 1e-4 * (x[1] < 0.5)
    assert duplicate_share((x * 255).round() / 255) == pytest.approx(3 / 10)


def test_a_copy_of_a_training_image_is_found():
    training = torch.rand(30, 1, 6, 6, generator=make_rng("training"))
    generated = torch.rand(8, 1, 6, 6, generator=make_rng("generated"))
    assert copies(generated, training, usual=0.3) == 0
    generated[5] = training[17] * 0.99
    assert copies(generated, training, usual=0.3) == pytest.approx(1 / 8)


N = 8  # images a class: more than the 5 neighbours of precision and coverage, so that these stay within a class


def classes(*seed: str) -> Tensor:
    rng = make_rng(*seed)
    centres = torch.rand(40, 1, 1, 8, 8, generator=rng)
    return (centres + 0.05 * torch.randn(40, 2 * N, 1, 8, 8, generator=rng)).clamp(0, 1)


def reference() -> Reference:
    real = classes("world")
    held_out, training = real[:, :N], real[:, N:]
    centres = training.mean(1).flatten(1)
    return Reference(held_out, centres, training.flatten(0, 1), accuracy=1.0, chance=0.2)


def flags(generated: Tensor, accuracy: float = 0.95) -> set[str]:
    numbers = audit_numbers(generated, accuracy, 0.2, reference(), flat, None)
    raised = {rule.number for rule in RULES if rule.holds(numbers)}
    assert len(verdicts(numbers)) == len(raised)
    return raised


def test_a_perfect_generator_raises_no_flag():
    """Other images of the same classes, which are what generated ones should be like."""
    rng = make_rng("perfect")
    centres = torch.rand(40, 1, 1, 8, 8, generator=make_rng("world"))
    assert flags((centres + 0.05 * torch.randn(40, N, 1, 8, 8, generator=rng)).clamp(0, 1)) == set()


def test_an_untrained_generator_is_flagged():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = ConvDecoder(8, (1, 8, 8), (16, 8), 32)
    with torch.no_grad():
        images = decoder.decode(torch.randn(40 * N, 8, generator=make_rng("codes"))).unflatten(0, (40, N))
    assert {"diversity", "precision", "covered"} <= flags(images)


def test_a_collapsed_generator_is_flagged():
    """It has learnt to draw one real image, and draws it with a little noise whatever the code."""
    one = reference().classes[7, 0]
    noise = 0.003 * torch.randn(40, N, 1, 8, 8, generator=make_rng("noise"))
    raised = flags((one + noise).clamp(0, 1), accuracy=0.2)
    assert {"diversity", "recognised", "spread", "covered"} <= raised
    assert "duplicates" not in raised
    assert "duplicates" in flags(one.expand(40, N, -1, -1, -1), accuracy=0.2)


def test_each_fault_raises_its_own_flag():
    real = reference()
    training = real.training.unflatten(0, (40, N))
    assert flags(training) == {"copies"}
    alike = real.classes[:, :1] + 0.001 * torch.randn(40, N, 1, 8, 8, generator=make_rng("alike"))
    assert flags(alike.clamp(0, 1)) == {"spread"}
    mixed = real.classes.flatten(0, 1)[torch.randperm(40 * N, generator=make_rng("mixed"))].unflatten(0, (40, N))
    assert flags(mixed, accuracy=0.21) == {"recognised", "agreement"}


def test_a_nan_raises_a_flag():
    assert verdicts({"diversity": float("nan")})


def test_coverage_is_measured_in_codes_if_there_is_an_encoder():
    generated = classes("elsewhere")[:, :N]

    def blind(x: Tensor) -> Tensor:
        """Codes that do not depend on the images: every real one has a generated one at the same place."""
        return torch.rand(len(x), 1, generator=make_rng("blind"))

    numbers = audit_numbers(generated, 0.9, 0.2, reference(), flat, blind)
    assert numbers["coverage"] > 0.9
    assert audit_numbers(generated, 0.9, 0.2, reference(), flat, None)["coverage"] < 0.1


ARGS = ("audit", "--feature_steps", "2", "--config", "configs/learner/protonet.yaml")
ARGS += ("--config", "configs/policy/random_other.yaml")


def test_command_flags_a_generator_of_three_steps(monkeypatch, generator, tmp_path, capsys):
    monkeypatch.chdir(ROOT)
    args = [*ARGS, f"--run.folder={tmp_path}", f"--data.generator={generator}"]
    assert main([*args, "--strict"]) == 1
    shown = capsys.readouterr().out
    assert "FLAG: collapsed" in shown
    folder = tmp_path / "audit-protonet-glyphs" / "001"
    content = json.loads((folder / "audit.json").read_text())
    assert content["numbers"]["diversity"] < 0.5
    assert content["n_classes"] >= 200
    assert content["images_per_class"] == 3
    assert (folder / "episodes.png").is_file()
    for flag in content["flags"]:
        assert f"FLAG: {flag}" in shown
        assert flag in (folder / "audit.md").read_text()
    assert not (tmp_path / "protonet-glyphs").exists()  # nothing was trained
    assert main(args) == 0  # without --strict it reports


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--config", "configs/policy/real_only.yaml"], "draws no generated image in the first 2000 steps"),
        (["--data.train_tasks.shard", "1"], "unknown option 'data.train_tasks.shard'"),
    ],
)
def test_wrong_input_is_told_in_one_line(monkeypatch, tmp_path, capsys, more, message):
    monkeypatch.chdir(ROOT)
    assert main([*ARGS, f"--run.folder={tmp_path}", *more]) == 2
    assert_one_line(capsys, message)
    assert not list(tmp_path.iterdir())
