"""`genmeta export`: what is written is what was trained, and others can read it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from test_cli import assert_one_line

import genmeta
from genmeta.cli import onnx_file
from genmeta.cli.main import main
from genmeta.errors import UserError
from genmeta.experiments.run_folder import write_run_file
from genmeta.learners.checkpoint import load_learner
from genmeta.learners.maml import MAML
from genmeta.learners.metric import PixelNearestNeighbour
from genmeta.models.backbones import Conv4
from genmeta.models.checkpoint import KEY, load_generator, read_checkpoint

safetensors = pytest.importorskip("safetensors.torch")


def export(run: Path, out: Path) -> int:
    return main(["export", str(run), f"--out={out}"])


def test_a_learner_comes_back_equal_with_all_that_it_has_seen(learner, tmp_path, capsys):
    assert export(learner.parents[1], tmp_path / "out") == 0
    assert "model.safetensors, config.json, README.md" in capsys.readouterr().out
    one, other = load_learner(str(learner)), load_learner(str(tmp_path / "out"))
    assert type(one.learner) is type(other.learner)
    torch.testing.assert_close(one.learner.state_dict(), other.learner.state_dict(), rtol=0, atol=0)
    assert one.image_shape == other.image_shape
    for name, value in vars(one.seen).items():
        its = getattr(other.seen, name)
        assert torch.equal(value, its) if isinstance(value, torch.Tensor) else value == its
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    found = [
        genmeta.load(path).predict({"a": images[:1], "b": images[1:2]}, images) for path in (learner, tmp_path / "out")
    ]
    assert torch.equal(found[0].probabilities, found[1].probabilities)
    # by others, without genmeta
    weights = safetensors.load_file(tmp_path / "out" / "model.safetensors")
    assert any(name.startswith("learner.backbone.") for name in weights)
    text = (tmp_path / "out" / "config.json").read_text()
    assert str(learner.parents[3]) not in text, "no path of the machine that trained it"
    assert json.loads(text)["entry"]["learner"]["class_path"] == "genmeta.learners.metric.ProtoNet"


def test_a_generator_comes_back_equal(redrawer, tmp_path):
    assert export(redrawer, tmp_path / "out") == 0
    one, other = load_generator(redrawer), load_generator(tmp_path / "out")
    torch.testing.assert_close(one.networks.state_dict(), other.networks.state_dict(), rtol=0, atol=0)
    assert one.origin == other.origin
    torch.testing.assert_close(vars(one.prior), vars(other.prior))


def test_the_card_has_hashes_and_the_figures_of_the_tests_of_this_checkpoint(learner, tmp_path):
    run = tmp_path / "runs" / "it" / "001"
    path = run / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(learner.read_bytes())
    metrics = {"val/acc": 0.499, "val/acc_ci95": 0.1, "train/loss": 1.0}
    write_run_file(run, {"stage": "fit", "metrics": metrics, "best": {"val/acc": 0.5}, "debug": True})
    (run / "metrics.csv").write_text("step,val/acc,val/acc_ci95\n1,0.5,0.25\n2,,\n3,0.499,0.1\n")
    for version, tested, accuracy in (("001", path, 0.625), ("002", learner, 0.75)):
        folder = tmp_path / "runs" / "meta-test" / version
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump({"ckpt_path": str(tested)}))
        metrics = {"test/acc_5w1s": accuracy, "test/acc_5w1s_ci95": 0.0125}
        write_run_file(folder, {"stage": "test", "metrics": metrics, "episodes": {"test/5w1s": "abc"}})
    assert export(run, tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    entry = read_checkpoint(learner)[KEY]
    assert "49.9" not in card, "the accuracy of the last epoch"
    for said in (entry["split_hash"], entry["content"], "50.00 ± 25.00 %", "62.50 ± 1.25 %", "`abc`", "mean nothing"):
        assert said in card
    assert "75.00" not in card, "a test of another checkpoint"
    assert "train/loss" not in card


def test_the_backbone_in_onnx_gives_the_same_features(learner, tmp_path, capfd):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from onnx.reference import ReferenceEvaluator

    assert main(["export", str(learner), f"--out={tmp_path / 'out'}", "--onnx"]) == 0
    told = capfd.readouterr()
    assert told.out.endswith("/model.safetensors, config.json, README.md, backbone.onnx\n")
    assert told.err == ""
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("README.md", "backbone.onnx", "config.json", "model.safetensors")
    ]
    model = onnx.load(tmp_path / "out" / "backbone.onnx")
    onnx.checker.check_model(model)
    backbone = load_learner(str(learner)).learner.backbone
    for n in (1, 3):
        images = torch.rand(n, 1, 28, 28)
        (features,) = ReferenceEvaluator(model).run(None, {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(features), backbone(images), rtol=1e-4, atol=1e-5)
    assert "float32 `[n, 1, 28, 28]` in [0, 1]" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_onnx_without_its_packages_is_one_line_before_anything_is_written(learner, tmp_path, monkeypatch, capsys):
    find_spec = onnx_file.importlib.util.find_spec
    missing = {"onnx", "onnxscript"}
    monkeypatch.setattr(onnx_file.importlib.util, "find_spec", lambda n: None if n in missing else find_spec(n))
    args = ["export", str(learner), f"--out={tmp_path / 'out'}", "--onnx"]
    assert main(args) == 2
    told = '--onnx: needs onnx and onnxscript, not installed here; pip install "genmeta[onnx]"'
    assert_one_line(capsys, re.escape(told))
    missing.remove("onnx")
    assert main(args) == 2
    assert_one_line(capsys, "--onnx: needs onnxscript, not")
    assert not (tmp_path / "out").exists()


def test_what_has_no_backbone_of_images_alone_is_told(learner, redrawer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_file, "_NEEDED", ())
    assert main(["export", str(redrawer), f"--out={tmp_path / 'out'}", "--onnx"]) == 2
    assert_one_line(capsys, "is of a generator; expected a learner, whose backbone is written")
    assert not (tmp_path / "out").exists()
    loaded = load_learner(str(learner))
    for other in (MAML(Conv4(norm="batch"), n_way=5, inner_lr=0.1), PixelNearestNeighbour()):
        with pytest.raises(UserError, match=f"{type(other).__name__} has no backbone that is the same in every task"):
            onnx_file.as_onnx(replace(loaded, learner=other))
    loaded.learner.backbone = Conv4(norm="batch")  # which ours refuse, other people's may not
    with pytest.raises(UserError, match="this ProtoNet normalises each image with the others of a batch"):
        onnx_file.as_onnx(loaded)


def test_what_cannot_be_exported_or_read_is_one_line(learner, tmp_path, capsys):
    assert export(tmp_path / "nowhere", tmp_path / "out") == 2
    assert_one_line(capsys, "nowhere: no such file")
    assert export(learner, tmp_path / "out") == 0
    capsys.readouterr()
    assert export(learner, tmp_path / "out") == 2
    assert_one_line(capsys, "out is not empty; nothing was overwritten")
    weights = tmp_path / "out" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert export(tmp_path / "out", tmp_path / "again") == 2
    assert_one_line(capsys, "out: cannot be read as an exported model; cut off or damaged")
