"""Pictures are a part of what runs, generators and learners are of: the same names do not make the same data."""

import json
import time
from dataclasses import replace

import pytest
import torch
from conftest import make_table
from small_data import encoded, pixels
from small_runs import config, fit, newest, part, write

from genmeta.cli.main import main
from genmeta.data.image_folder import ImageFolder
from genmeta.data.seen import Origin
from genmeta.data.table import ImageTable
from genmeta.errors import UserError
from genmeta.experiments.results import check_same_episodes
from genmeta.learners.latent_likelihood import LatentLikelihood
from genmeta.models.redraw import DeformationRedrawer, PairEncoder


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path / "cache"))


def folder(root, seed):
    """Fifteen classes of twenty pictures: names and counts are those of every seed."""
    for number in range(15):
        (root / f"thing{number}").mkdir(parents=True, exist_ok=True)
        for i, picture in enumerate(pixels(16, 100 * seed + number)):
            (root / f"thing{number}" / f"{i}.png").write_bytes(encoded(picture))
    return root


def content_of(root, **more) -> str:
    return ImageFolder(str(root), **{"size": 16, "channels": 1, **more}).load().content


def test_content_is_of_pixels_size_colour_and_classes(tmp_path):
    one, other = folder(tmp_path / "one", 0), folder(tmp_path / "other", 1)
    contents = [content_of(one), content_of(other), content_of(one, size=12), content_of(one, channels=3)]
    assert len(set(contents)) == 4
    made = content_of(one)
    assert made == contents[0]
    assert content_of(folder(tmp_path / "copy", 0)) == made


def test_content_of_the_cache_is_that_of_the_table(tmp_path):
    table = ImageFolder(str(folder(tmp_path / "one", 0)), size=16, channels=1).load()
    assert table.known_content == replace(table, known_content=None).content


def test_every_change_of_a_table_is_another_content():
    table = make_table()
    changed = table.images.clone()
    changed[3, 0, 2, 2] ^= 1
    moved = torch.cat([table.class_ids[:19], table.class_ids[20:21], table.class_ids[20:]])
    others = [replace(table, images=changed), replace(table, class_ids=moved), table.keep(torch.arange(1, 480))]
    assert len({table.content, *(other.content for other in others)}) == 4


def test_a_hundred_thousand_pictures_take_seconds_at_most():
    images = torch.zeros(100_000, 1, 28, 28, dtype=torch.uint8)
    table = ImageTable("zeros", images, torch.arange(100_000) // 20, tuple(map(str, range(5000))), ("g",) * 5000)
    before = time.process_time()
    _ = table.content
    assert time.process_time() - before < 3


def test_runs_on_other_pictures_of_the_same_names_do_not_pair(tmp_path):
    tests = {}
    for seed in (0, 1):
        pictures = folder(tmp_path / "pictures", seed)
        yaml_file = write(tmp_path / "it.yaml", config("learner", pictures))
        assert fit(yaml_file, tmp_path / "runs", command="test") == 0
        summary = json.loads((newest(tmp_path / "runs") / "run.json").read_text())
        tests[str(seed)] = summary
    one, other = (summary["episodes"]["test/3w1s"] for summary in tests.values())
    assert one == other, "classes and rows are the same"
    with pytest.raises(UserError, match="tested on different episodes"):
        check_same_episodes(tests)


def test_a_generator_and_a_learner_of_other_pictures_of_the_same_names_are_refused(tmp_path, capsys):
    one, other = folder(tmp_path / "one", 0), folder(tmp_path / "other", 1)
    generator = write(tmp_path / "redrawer.yaml", config("redrawer", one))
    assert fit(generator, tmp_path / "runs") == 0
    checkpoint = newest(tmp_path / "runs") / "checkpoints" / "best.ckpt"
    redrawn = {"class_path": "genmeta.tasks.redrawn.RedrawnTasks"}
    redrawn["init_args"] = {"tasks": "genmeta.tasks.real.RealTasks", "redraw": {"learned": 1.0}, "share": 0.5}
    contents = {name: content_of(root) for name, root in (("one", one), ("other", other))}
    for name, root in (("one", one), ("other", other)):
        content = config("learner", root)
        content["data"]["init_args"] |= {"train_tasks": redrawn, "redrawer": str(checkpoint)}
        expected = 0 if name == "one" else 2
        assert fit(write(tmp_path / f"{name}.yaml", content), tmp_path / "runs") == expected
    said = capsys.readouterr().err
    assert "was trained on other pictures of the same class names" in said
    assert contents["one"] in said
    assert contents["other"] in said

    learner = newest(tmp_path / "runs") / "checkpoints" / "last.ckpt"
    plain = write(tmp_path / "plain.yaml", config("learner", other))
    assert fit(plain, tmp_path / "runs", f"--ckpt_path={learner}", "--trainer.max_epochs=2") == 2
    said = capsys.readouterr().err
    assert f"was trained on other pictures: content {contents['one']}" in said
    assert contents["other"] in said


@pytest.mark.parametrize("kind", ["learner", "vae"])
def test_trained_parts_and_explore_hold_to_the_pictures(kind, tmp_path, capsys):
    one, other = folder(tmp_path / "one", 0), folder(tmp_path / "other", 1)
    assert fit(write(tmp_path / "it.yaml", config(kind, one)), tmp_path / "runs") == 0
    checkpoint = str(newest(tmp_path / "runs") / "checkpoints" / "best.ckpt")
    backbone = "learners.checkpoint.LearnerBackbone" if kind == "learner" else "models.transfer.EncoderBackbone"
    learners = [part("genmeta.learners.metric.ProtoNet", backbone=part(f"genmeta.{backbone}", checkpoint=checkpoint))]
    if kind == "learner":
        trained = part("genmeta.learners.fused.Trained", checkpoint=checkpoint)
        learners.append(part("genmeta.learners.fused.Fused", members=[trained]))
    for number, made in enumerate(learners):
        content = config("learner", other)
        content["model"]["init_args"]["learner"] = made
        assert fit(write(tmp_path / f"{number}.yaml", content), tmp_path / "runs", command="test") == 2
        assert f"but this run uses content {content_of(other)}" in capsys.readouterr().err
    if kind == "vae":
        data = write(tmp_path / "data.yaml", {"data": config("vae", other)["data"]})
        out = tmp_path / "explored"
        assert main(["explore", "--ckpt", checkpoint, "--data", str(data), "--out", str(out), "--wandb", "off"]) == 2
        assert f"but these data have content {content_of(other)}" in capsys.readouterr().err


def test_the_search_in_a_redrawers_space_holds_to_its_pictures():
    learner = LatentLikelihood(
        redrawer=DeformationRedrawer(4, (1, 16, 16), channels=4), encoder=PairEncoder(4, (1, 16, 16), channels=(4, 8))
    )
    learner.checkpoint, learner.origin = "a.ckpt", Origin("s", "0" * 16, "one")
    learner.check_origin(Origin("s", "0" * 16, "one"))
    learner.check_origin(Origin("s", "0" * 16))
    with pytest.raises(UserError, match=r"LatentLikelihood a\.ckpt was trained on other pictures .* content other"):
        learner.check_origin(Origin("s", "0" * 16, "other"))
