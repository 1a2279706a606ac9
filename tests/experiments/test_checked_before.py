"""Experiments and comparisons refuse what cannot be run before the first step; all arms have the same test episodes."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from small_data import encoded, pixels
from small_runs import CONV4, config, part, write

from genmeta.cli.experiment import _parse, _told, plan_in
from genmeta.cli.training import checked as cli_checked
from genmeta.errors import UserError
from genmeta.experiments.checks import Checked, check_comparison
from genmeta.experiments.default import default_settings
from genmeta.experiments.run_options import options_of_generator
from genmeta.experiments.settings import read_settings

FEW = yaml.safe_load(
    (ROOT / "docs" / "your_images.md").read_text().split('```yaml title="few.yaml"\n')[1].split("```")[0]
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Thirty classes of twelve pictures, as a YAML of `configs/data`."""
    root = tmp_path_factory.mktemp("thirty")
    for seed in range(30):
        folder = root / "pictures" / f"thing{seed}"
        folder.mkdir(parents=True)
        for i, picture in enumerate(pixels(16, seed, 12)):
            (folder / f"{i}.png").write_bytes(encoded(picture))
    source = part("genmeta.data.image_folder.ImageFolder", folder=str(root / "pictures"), size=28, channels=1)
    return write(
        root / "mine.yaml", {"data": {"init_args": {"source": source, "split": {"seed": 0, "val": 0.25, "test": 0.25}}}}
    )


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path_factory):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("GENMETA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def checked(tmp_path, data, *more) -> Checked:
    options = _parse([f"--data={data}", f"--runs={tmp_path / 'runs'}", "--wandb=off", *more])
    return check_comparison(default_settings(options, cli_checked), cli_checked)


def test_the_documented_yaml_of_few_pictures_reaches_all_arms_and_no_generator(tmp_path, data):
    few = write(tmp_path / "few.yaml", FEW)
    found = checked(tmp_path, data, f"--config={few}", "--full")
    wanted = FEW["data"]["init_args"]["test"]
    assert f"--config={few}" not in options_of_generator(found.settings, "redrawer", [])
    plan = plan_in(tmp_path, {"redrawer": "001"}, found, "runs", "off")
    tested = {}
    for (_, arm, _), run in plan.tests.items():
        (given,) = [json.loads(a.partition("=")[2]) for a in run.args if a.startswith("--data.test=")]
        tested[arm] = given
    trained = ["mixed", "real_only", "elastic_quarter", "elastic"]
    for arm in [*trained, "from_scratch", "pixels"]:
        assert [{k: e[k] for k in wanted[0]} for e in tested.pop(arm)] == wanted, arm
    assert tested.keys() == {f"{arm}_{how}" for arm in trained for how in ("redrawn", "elastic")}
    for arm, episodes in tested.items():
        assert [{k: e[k] for k in wanted[0]} for e in episodes] == wanted[:1], arm
    assert found.names["mixed_redrawn"] == {"5w1s+30redrawn": "5w1s"}


def test_sizes_in_the_learners_yaml_are_those_of_all_arms(tmp_path, data):
    content = yaml.safe_load((ROOT / "configs" / "learner" / "protonet.yaml").read_text())
    content |= FEW
    found = checked(tmp_path, data, f"--learner={write(tmp_path / 'mine.yaml', content)}")
    assert [e["n_query"] for e in found.settings.tests] == [5, 5]
    plan = plan_in(tmp_path, {"redrawer": "001"}, found, "runs", "off")
    assert "\ndata         pictures: 360 used, 0 passed over\n" in _told(found, plan, tmp_path)


TOO_MUCH = {
    "more images than a class has": ({}, "1 \\+ 15 = 16, but the smallest class has 12"),
    "no validation": ({"trainer": {"limit_val_batches": 0}}, "there is no 'val|no best checkpoint"),
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_what_an_arm_cannot_do_is_told_before_the_first_step(what, tmp_path, data):
    content, told = TOO_MUCH[what]
    few = [] if not content else [f"--config={write(tmp_path / 'few.yaml', FEW)}"]
    over = write(tmp_path / "over.yaml", content or {"trainer": {"max_epochs": 1}})
    with pytest.raises(UserError, match=told):
        checked(tmp_path, data, *few, f"--config={over}")
    assert not (tmp_path / "runs").exists()


def test_episodes_and_what_generators_share_are_not_in_one_yaml(tmp_path, data):
    both = write(tmp_path / "both.yaml", {**FEW, "trainer": {"max_epochs": 1}})
    with pytest.raises(UserError, match=r"both.yaml sets episodes \(data.test\).*and trainer, which all runs share"):
        checked(tmp_path, data, f"--config={both}")


def maml(n_way: int) -> dict:
    backbone = {**CONV4, "init_args": {**CONV4["init_args"], "norm": "batch"}}
    return part("genmeta.learners.maml.MAML", backbone=backbone, n_way=n_way)


def test_a_comparison_knows_what_was_used_of_the_files(tmp_path, data):
    """Its runs print that, too, but nobody sees it."""
    content = {
        "data": str(data),
        "learner": "protonet",
        "seeds": [0],
        "control": "one",
        "arms": {name: {"policy": ["rotations"]} for name in ("one", "two")},
    }
    content["tests"] = FEW["data"]["init_args"]["test"]
    settings = read_settings(write(tmp_path / "comparison.yaml", content))
    assert check_comparison(settings, cli_checked).account == "pictures: 360 used, 0 passed over"


ARMS = {
    "trained alone": {"options": {"model.learner": maml(5)}},
    "with a redrawer": {"options": {"model.learner": maml(5)}, "policy": ["redrawn_quarter"]},
}


@pytest.mark.parametrize("arm", ARMS)
def test_each_arm_of_a_comparison_is_checked_with_its_test(arm, tmp_path, data):
    """The arm is trained on 5-way episodes, and would be tested on 3-way ones."""
    learner = config("learner", Path("unused"))
    learner["data"]["init_args"] |= {"train": {"n_way": 5, "n_shot": 1, "n_query": 2}}
    learner["data"]["init_args"]["val"] = {"n_way": 5, "n_shot": 1, "n_query": 5, "n_episodes": 6}
    content = {
        "data": str(data),
        "learner": str(write(tmp_path / "learner.yaml", learner)),
        "seeds": [0],
        "control": "control",
        "tests": [{"n_way": 3, "n_shot": 1, "n_query": 5, "n_episodes": 6}],
        "arms": {"control": {}, "other": ARMS[arm]},
    }
    settings = read_settings(write(tmp_path / "comparison.yaml", content))
    with pytest.raises(UserError, match=r"arms.other: .*MAML with n_way=5, but the episodes have n_way=3"):
        check_comparison(settings, cli_checked)
    assert not (tmp_path / "runs").exists()


def test_classes_that_are_too_small_are_left_out_and_named(tmp_path):
    from genmeta.data.image_folder import list_folder

    for name, n in (("many", 5), ("few", 2), ("other", 5)):
        for i in range(n):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{i}.png").write_bytes(encoded(pixels(4, i, 1)[0]))
    listing = list_folder(tmp_path, min_images=3)
    assert [found.name for found in listing.classes] == ["many", "other"]
    assert str(listing.account) == "pictures: 10 used, 2 passed over: 2 in a class of fewer than 3 (few)"
    with pytest.raises(UserError, match="no class has min_images = 6 pictures; the largest, 'many', has 5"):
        list_folder(tmp_path, min_images=6)
