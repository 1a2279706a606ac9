"""`genmeta compare`: what is checked first, the grid of runs, killed and resumed, and what it writes."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import yaml
from conftest import PATIENCE, ROOT, ToySource, make_table, slow_but
from test_training import protonet, trainer_for, weights

from genmeta.cli.main import main
from genmeta.cli.training import checked
from genmeta.data.table import ImageTable
from genmeta.errors import UserError
from genmeta.experiments import execute
from genmeta.experiments.checks import check_comparison
from genmeta.experiments.plan import Layout, Plan, make_plan
from genmeta.experiments.settings import read_settings

# stands in for genmeta: accuracies follow from a test's options but for checkpoints, so that equal arms are equal; the
# fifth and later wait for the file GO, if there is such a variable
PROGRAM = """
import json, os, pathlib, random, sys, time
from genmeta.experiments.run_folder import write_run_file
command, *given = sys.argv[1:]
args = dict(a.removeprefix("--").split("=", 1) for a in given)
folder = pathlib.Path(args["run.folder"], args["run.name"], args["run.version"])
log = pathlib.Path(args["run.folder"], "log")
with log.open("a") as file:
    file.write(args["run.name"] + "\\n")
folder.mkdir(parents=True)
go = pathlib.Path(os.environ.get("GO", sys.argv[0]))
while not go.exists() and log.read_text().count("\\n") >= 5:
    time.sleep(0.02)
content = {"seconds": 2.0, "commit": "c0ffee", "split": {"name": "toy", "hash": "0123"}, "episodes": {"val": "v"}}
if command == "test":
    names = [f"{t['n_way']}w{t['n_shot']}s" for t in json.loads(args["data.test"])]
    content["episodes"] = {f"test/{name}": name * 2 for name in names}
    rng = random.Random("".join(a for a in given if ".ckpt" not in a and not a.startswith("--run.")))
    content["episode_accuracies"] = {name: [rng.randrange(76) / 75 for _ in range(40)] for name in names}
write_run_file(folder, content)
"""

DRIVER = """
import sys
from genmeta.experiments import execute
from genmeta.cli.main import main
execute.GENMETA = (sys.executable, sys.argv[1])
sys.exit(main(["compare", *sys.argv[2:]]))
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """The path of the program; run in this process, it stands for genmeta."""
    monkeypatch.chdir(ROOT)
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    monkeypatch.setattr(execute, "GENMETA", (sys.executable, str(path)))
    return path


def written(folder: Path, **changes) -> Path:
    """Write the YAML of a comparison of three arms, two of them the same."""
    content = {
        "data": "glyphs",
        "learner": "protonet",
        "seeds": [0, 1],
        "control": "plain",
        "tests": [{"n_way": 5, "n_shot": 1, "n_query": 15, "n_episodes": 40}],
        "arms": {
            "plain": {"title": "rotations & 100 % real", "policy": ["rotations"]},
            "again": {"policy": ["rotations"]},
            "redrawn": {"policy": ["redrawn_quarter"], "options": {"data.train_tasks.share": 0.5}},
        },
    }
    path = folder / "three.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
    return path


def plan_of(path: Path, folder: Path) -> Plan:
    return make_plan(check_comparison(read_settings(path), checked), Layout(folder))


def test_the_grid_of_arms_and_seeds(tmp_path, monkeypatch):
    """Each seed has its own generator, which only the arm that needs it waits for; no training knows of a test."""
    monkeypatch.chdir(ROOT)
    found = plan_of(written(tmp_path), tmp_path)
    assert list(found.fits) == [(None, arm, seed) for seed in (0, 1) for arm in ("plain", "again", "redrawn")]
    assert len({run.folder for run in found.runs}) == len(found.runs) == 14
    for (_, arm, seed), fit in found.fits.items():
        assert [run.name for run in fit.after] == ([f"redrawer-seed{seed}"] if arm == "redrawn" else [])
        assert not [option for run in (fit, *fit.after) for option in run.args if "data.test" in option]
        test = found.tests[None, arm, seed]
        assert test.args[-1] == f"--ckpt_path={fit.checkpoint}"
        assert test.args[1 : len(fit.args)] == fit.args[1:]
    assert "--data.train_tasks.share=0.5" in found.fits[None, "redrawn", 0].args
    one = plan_of(written(tmp_path, generator_seed=7), tmp_path)
    assert {run.name for fit in one.fits.values() for run in fit.after} == {"redrawer-seed7"}


def test_an_arm_has_its_own_learner_and_uses_checkpoints_of_earlier_arms(tmp_path, monkeypatch):
    """A fusion waits for the trainings of its members of the same seed, and names their checkpoints."""
    monkeypatch.chdir(ROOT)
    member = {"class_path": "genmeta.learners.fused.Trained", "init_args": {"checkpoint": "{plain}"}}
    latent = {"class_path": "genmeta.learners.latent_likelihood.LatentLikelihood"}
    latent["init_args"] = {"checkpoint": "{redrawer}"}
    learner = {"class_path": "genmeta.learners.fused.Fused", "init_args": {"members": [member, latent]}}
    arms = {"plain": {"policy": ["rotations"]}, "fused": {"learner": "fused", "options": {"model.learner": learner}}}
    grid = plan_of(written(tmp_path, arms=arms), tmp_path)
    for seed in (0, 1):
        fused, plain = grid.fits[None, "fused", seed], grid.fits[None, "plain", seed]
        assert [run.name for run in fused.after] == [f"plain-seed{seed}", f"redrawer-seed{seed}"]
        (given,) = [a for a in fused.args if a.startswith("--model.learner=")]
        found = json.loads(given.removeprefix("--model.learner="))["init_args"]["members"]
        assert [m["init_args"]["checkpoint"] for m in found] == [str(run.checkpoint) for run in fused.after]
        assert "--config=configs/learner/fused.yaml" in fused.args
        assert plain.after == ()
    assert len(grid.runs) == 2 + 4 + 4  # redrawers, trainings, tests: each once
    arms["fused"]["options"] = {"model.learner": {"class_path": "X", "init_args": {"checkpoint": "{plian}"}}}
    with pytest.raises(UserError, match=r"arms\.fused\.options: found '\{plian\}'.*did you mean 'plain'"):
        read_settings(written(tmp_path, arms=arms))


def test_an_ensemble_of_seeds_is_tested_without_a_training_of_its_own(tmp_path, monkeypatch):
    """It waits for the trainings of all seeds, also for the later ones, and no run is made for a fit that is none."""
    monkeypatch.chdir(ROOT)
    trained = "genmeta.learners.fused.Trained"
    members = [{"class_path": trained, "init_args": {"checkpoint": f"{{plain@{seed}}}"}} for seed in (0, 1)]
    learner = {"class_path": "genmeta.learners.fused.Fused", "init_args": {"members": members}}
    arms = {
        "plain": {"policy": ["rotations"]},
        "both": {"learner": "fused", "train": False, "options": {"model.learner": learner}},
    }
    path = written(tmp_path, arms=arms)
    grid = plan_of(path, tmp_path)
    assert list(grid.fits) == [(None, "plain", 0), (None, "plain", 1)]
    assert list(grid.tests) == [(None, arm, seed) for seed in (0, 1) for arm in ("plain", "both")]
    for seed in (0, 1):
        test = grid.tests[None, "both", seed]
        assert [run.name for run in test.after] == ["plain-seed0", "plain-seed1"]
        assert not [option for option in test.args if "ckpt_path" in option]
        (given,) = [a for a in test.args if a.startswith("--model.learner=")]
        found = json.loads(given.removeprefix("--model.learner="))["init_args"]["members"]
        assert [m["init_args"]["checkpoint"] for m in found] == [str(run.checkpoint) for run in test.after]
    assert len(grid.runs) == 2 + 3, "the ensemble is the same for all seeds, and is tested once"
    members[1]["init_args"]["checkpoint"] = "{plain}"
    assert len(plan_of(written(tmp_path, arms=arms), tmp_path).runs) == 2 + 4, "this one is not"
    members[1]["init_args"]["checkpoint"] = "{plain@7}"
    with pytest.raises(UserError, match=r"found '\{plain@7\}', but the seeds are 0, 1"):
        read_settings(written(tmp_path, arms=arms))
    members[1]["init_args"]["checkpoint"] = "{plain}"
    arms["plain"]["train"] = False
    with pytest.raises(UserError, match="no earlier trained arm"):
        read_settings(written(tmp_path, arms=arms))


REDRAW = {"support": {"redraw": {"learned": 1.0}}}


def test_generated_support_images_are_an_arm_that_tests_the_learners_of_another(tmp_path, monkeypatch):
    """Its one-shot tests alone, with the checkpoints of the same seed, and the redrawer that they need."""
    monkeypatch.chdir(ROOT)
    arms = {"plain": {"policy": ["rotations"]}, "more": {"of": "plain", **REDRAW}, "upright": {"policy": ["real"]}}
    path = written(tmp_path, arms=arms, subject="plain", tests=[])
    found = check_comparison(read_settings(path), checked)
    assert [(one["n_way"], one["n_shot"]) for one in found.settings.tests] == [(5, 1), (5, 5)], "those of the learner"
    assert found.names == {"more": {"5w1s+30redrawn": "5w1s"}}
    grid = make_plan(found, Layout(tmp_path))
    assert {arm for _, arm, _ in grid.fits} == {"plain", "upright"}
    for seed in (0, 1):
        test, fit = grid.tests[None, "more", seed], grid.fits[None, "plain", seed]
        assert [run.name for run in test.after] == [f"redrawer-seed{seed}", f"plain-seed{seed}"]
        assert test.args[-1] == f"--ckpt_path={fit.checkpoint}"
        assert f"--data.redrawer={test.after[0].checkpoint}" in test.args
        assert set(fit.args[1:]) < set(test.args)
        (tests,) = [json.loads(a.partition("=")[2]) for a in test.args if a.startswith("--data.test=")]
        assert [(one["n_way"], one["n_shot"], one["support"]) for one in tests] == [(5, 1, REDRAW["support"])]
    arms["more"]["support"] = {"redraw": {"learned": -1.0}}
    with pytest.raises(UserError, match=r"arms\.more: .*learned must be at least 0"):
        check_comparison(read_settings(written(tmp_path, arms=arms, subject="plain", tests=[])), checked)
    tests = [{"n_way": 5, "n_shot": 5}]
    with pytest.raises(UserError, match=r"arms\.more: support: there are no one-shot tests"):
        check_comparison(read_settings(written(tmp_path, arms=arms, subject="plain", tests=tests)), checked)


def test_a_comparison_with_an_ensemble_has_its_results(tmp_path, program):
    """Bug: results that look for a fit of each arm."""
    member = {"class_path": "genmeta.learners.metric.PixelNearestNeighbour"}
    learner = {"class_path": "genmeta.learners.fused.Fused", "init_args": {"members": [member]}}
    arms = {
        "plain": {"policy": ["rotations"]},
        "pixels": {"learner": "fused", "train": False, "options": {"model.learner": learner}},
    }
    assert main(["compare", "--config", str(written(tmp_path, arms=arms)), "--runs", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "three" / "results.json").read_text())["arms"]
    assert (len(results["plain"]["fits"]), len(results["plain"]["tests"])) == (2, 2)
    assert (results["pixels"]["fits"], len(results["pixels"]["tests"])) == ({}, 2)
    assert (results["plain"]["training_seconds"], results["pixels"]["training_seconds"]) == (2, 0)
    table = (tmp_path / "three" / "results.md").read_text()
    (row,) = [line for line in table.splitlines() if line.startswith("| pixels ")][:1]
    assert " ± – ± " in row, "one test for all seeds says nothing of a spread over seeds"
    assert main(["report", str(tmp_path / "three"), "--out", str(tmp_path / "report.html")]) == 0


def test_another_data_set_is_another_comparison(tmp_path, program, capsys):
    """Bug: the same folder, so that runs of two data sets stand in one table."""
    path = written(tmp_path, tests=[{"n_way": 2, "n_shot": 1, "n_query": 1, "n_episodes": 5}])
    options = ["--config", str(path), "--runs", str(tmp_path)]
    assert main(["compare", *options, "--data", "digts"]) == 2
    assert "--data: 'digts' is no file and none of" in capsys.readouterr().err
    assert main(["compare", *options, "--data", "glyphs_full"]) == 0
    results = json.loads((tmp_path / "three-glyphs_full" / "results.json").read_text())
    assert (results["name"], results["data"]) == ("three-glyphs_full", "glyphs_full")
    assert not (tmp_path / "three").exists()


def test_an_axis_reaches_learners_and_generators(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    over = {"option": "data.low_data.classes", "values": [30, 60]}
    found = plan_of(written(tmp_path, over=over, seeds=[0]), tmp_path)
    for (value, arm, _), fit in found.fits.items():
        for run in (fit, *fit.after, found.tests[value, arm, 0]):
            assert f"--data.low_data.classes={value:g}" in run.args
    assert len({run.folder for run in found.runs}) == len(found.runs) == 2 * 7
    over = {"option": "data.tasks_per_step", "values": [1, 2]}  # no option of generators: they are shared
    found = plan_of(written(tmp_path, over=over, seeds=[0]), tmp_path)
    assert len(found.runs) == 1 + 2 * 6


def test_what_is_left_empty_takes_its_default(tmp_path):
    """Bug: `policy:` without a value in a YAML gave a traceback."""
    empty = {"arms": {"plain": {"policy": None, "title": None}, "again": None}, "budget": None}
    settings = read_settings(written(tmp_path, **empty))
    assert (settings.budget, settings.arms["plain"].policy, settings.arms["plain"].title) == ([], [], "plain")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": None}, "'seeds' is not given"),
        ({"sedes": [0]}, "unknown key 'sedes'; did you mean 'seeds'?"),
        ({"arms": {"plain": {"polcy": []}, "b": {}}}, "unknown key 'arms.plain.polcy'; did you mean 'policy'?"),
        ({"seeds": ["x"]}, "seeds: expected int, found 'x'"),
        ({"seeds": [1, 1]}, "expected different seeds"),
        ({"subject": "plian"}, "subject: 'plian' is none of the arms plain, again, redrawn; did you mean 'plain'?"),
        ({"arms": {"plain": {}, "b": {"of": "plian"}}}, "arms.b.of: 'plian' is no earlier trained arm"),
        ({"arms": {"plain": {}, "b": {"of": "plain", "learner": "maml"}}}, "its learners are those of 'plain'"),
        ({"arms": {"plain": {}, "b": {"support": {"n": 3}}}}, "arms.b.support: these tests lack episodes"),
        ({"control": "plian"}, "'plian' is none of the arms plain, again, redrawn; did you mean 'plain'?"),
        ({"data": "glyfs"}, "data: 'glyfs' is no file and none of"),
        ({"budget": ["nothing.yaml"]}, "budget: nothing.yaml: no such file"),
        ({"arms": {"plain": {"policy": ["real"]}, "b": {"policy": ["raal"]}}}, "arms.b.policy: 'raal' is no file"),
        (
            {"arms": {"plain": {"policy": ["real"]}, "b": {"policy": ["real"], "options": {"data.sed": 1}}}},
            "arms.b: unknown option 'data.sed'",
        ),
        ({"tests": [{"n_way": 5, "n_shoot": 1}]}, "n_shoot"),
        ({"tests": [{"n_way": 5000}]}, "arms.plain: data.test.0"),
        ({"redrawer": "vae"}, "choose a model that draws given images again"),
        ({"over": {"option": "data.low_data.classes", "values": [5000]}}, "data.low_data.classes is 5000"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(tmp_path, program, capsys, changes, message):
    path = written(tmp_path, **changes)
    assert main(["compare", "--config", str(path), "--runs", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def without_versions(path: Path) -> str:
    """Return a file without the hashes in run folders, which follow from where a comparison's checkpoints are."""
    return re.sub(r"(-seed\d(?:-test)?)/[0-9a-f]{10}", r"\1", path.read_text())


def test_killed_and_resumed_equals_uninterrupted(tmp_path, program, capsys):
    """SIGKILL in the middle: what was running is waited for or run again, what is finished is not."""
    path = written(tmp_path)
    options = ["--config", str(path), "--workers", "2", "--runs"]
    driver = [sys.executable, "-c", DRIVER, str(program), *options, str(tmp_path / "killed")]
    log = tmp_path / "killed" / "three" / "log"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "GO": str(tmp_path / "go")}
    with subprocess.Popen(driver, env=env, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + PATIENCE
        while not log.is_file() or log.read_text().count("\n") < 5:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    (tmp_path / "go").touch()  # to those that the killed one has left
    assert not (tmp_path / "killed" / "three" / "results.json").exists()
    assert main(["compare", *options, str(tmp_path / "killed")]) == 0
    told = capsys.readouterr().out
    assert "14 runs, 0 finished before" not in told
    assert main(["compare", *options, str(tmp_path / "whole")]) == 0
    for name in ("results.md", "results.csv", "results.tex", "results.json"):
        killed, whole = (tmp_path / which / "three" / name for which in ("killed", "whole"))
        assert without_versions(killed) == without_versions(whole), name
    runs = log.read_text().split()
    assert len(runs) <= 14 + 2, "only what was running may be run again"

    results = json.loads((tmp_path / "whole" / "three" / "results.json").read_text())
    same = next(c for c in results["comparisons"] if c["arm"] == "again")
    assert (same["difference"], same["p"], same["p_holm"], same["effect_size"]) == (0, 1, 1, 0)
    assert results["kind"] == "comparison"
    assert results["arms"]["again"]["accuracies"] == results["arms"]["plain"]["accuracies"]
    assert list(results["arms"]["plain"]["accuracies"]["5w1s"]) == ["0", "1"]
    assert results["seconds"] == 28
    fit = tmp_path / "whole" / "three" / results["arms"]["plain"]["fits"]["0"]
    assert (fit / "run.json").is_file()
    with (tmp_path / "whole" / "three" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["arm"] for row in rows] == ["plain", "again", "redrawn"]
    assert r"rotations \& 100 \% real" in (tmp_path / "whole" / "three" / "results.tex").read_text()
    assert (tmp_path / "whole" / "three" / "results.png").stat().st_size > 5000


def test_a_curve(tmp_path, program):
    arms = {"plain": {"policy": ["rotations"]}, "upright": {"policy": ["real"]}}
    over = {"option": "data.low_data.classes", "values": [30, 100], "title": "real classes"}
    path = written(tmp_path, arms=arms, over=over)
    assert main(["compare", "--config", str(path), "--runs", str(tmp_path), "--workers", "4"]) == 0
    results = json.loads((tmp_path / "three" / "results.json").read_text())
    assert results["kind"] == "curves"
    assert [point["value"] for point in results["points"]] == [30, 100]
    assert [c["value"] for c in results["comparisons"]] == [30, 100]
    assert "| real classes | arm " in (tmp_path / "three" / "results.md").read_text()


@pytest.mark.slow
def test_runs_as_jobs(tmp_path, program):
    """Submitit's local executor: jobs that are ready together are one array; results are those of processes here."""
    pytest.importorskip("submitit")
    arms = {"plain": {"policy": ["rotations"]}, "upright": {"policy": ["real"]}}
    options = ["compare", "--config", str(written(tmp_path, arms=arms, seeds=[0]))]
    assert main([*options, "--runs", str(tmp_path / "here")]) == 0
    assert main([*options, "--runs", str(tmp_path / "jobs"), "--cluster", "configs/cluster/local.yaml"]) == 0
    here, jobs = (without_versions(tmp_path / which / "three" / "results.json") for which in ("here", "jobs"))
    assert here == jobs
    assert list((tmp_path / "jobs" / "three" / "jobs").glob("*_submitted.pkl"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"executor": "slrum", "at_once": 2, "minutes": 5}, "executor"),
        ({"executor": "local", "at_once": 0, "minutes": 5}, "at_once must be at least 1, found 0"),
        ({"executor": "local", "at_once": 1, "minuts": 5}, "unknown key 'minuts'; did you mean 'minutes'?"),
        ({"executor": "slurm", "at_once": 1, "minutes": 5}, "--cluster: "),  # no SLURM here
        ({"executor": "local", "at_once": 1, "minutes": 5, "options": {"gpus": 1}}, "--cluster: "),
    ],
)
def test_a_cluster_that_cannot_be_is_told(tmp_path, program, capsys, content, message):
    pytest.importorskip("submitit")
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(yaml.safe_dump(content))
    options = ["--config", str(written(tmp_path)), "--runs", str(tmp_path / "runs"), "--cluster", str(cluster)]
    assert main(["compare", *options]) == 2
    assert message in capsys.readouterr().err


@dataclass(frozen=True)
class OtherTestImages(ToySource):
    """The same images but for those of the test classes."""

    def load(self) -> ImageTable:
        table = make_table(size=self.size)
        images = table.images.clone()
        images[table.class_ids >= 18] = 255 - images[table.class_ids >= 18]
        return replace(table, images=images)


def test_training_never_sees_a_test_image(tmp_path, toy_data):
    """With other images of the test classes, training ends with the same weights and the same validation accuracy."""
    found = []
    for source in (ToySource(), OtherTestImages()):
        toy_data.table, toy_data.source = None, source
        module = protonet()
        trainer = trainer_for(tmp_path, max_epochs=2)
        trainer.fit(module, toy_data)
        found.append((weights(module), trainer.callback_metrics["val/acc"]))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize(
    "path",
    slow_but(
        ["all_policies", "low_data_classes", "record_quick"], sorted((ROOT / "configs" / "compare").glob("*.yaml"))
    ),
    ids=lambda path: path.stem,
)
def test_shipped_comparisons_can_be_read(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = read_settings(path)
    assert f"configs/compare/{path.name}" in path.read_text().split("data:")[0], "the command that runs it"
    if path.stem == "all_policies":
        policies = {policy.stem for policy in (ROOT / "configs" / "policy").glob("*.yaml")}
        others = {
            "generator_classes",
            "real_only",
        }  # it needs a generator of classes; it is a part of the learner's own
        assert others | set(settings.arms) == policies
    assert len(settings.seeds) >= {
        "record": 5,
        **dict.fromkeys(["record_quick", "record_unaligned", "record_56"], 1),
        **dict.fromkeys(["default", "default_full"], 2),  # what a first try takes minutes for
    }.get(path.stem, 3)


def test_steps_are_trained_for_arms_and_are_in_no_table(tmp_path, monkeypatch):
    """Bug: a step that only another step needs is not run, or one is tested and counted among the arms."""
    monkeypatch.chdir(ROOT)
    steps = {
        "embedding": {"learner": "contrastive", "options": {"data.labels": "none"}},
        "deformations": {"generator": "vae_deformation", "options": {"data.labels": {"embedding": "{embedding}"}}},
    }
    arms = {
        "plain": {"policy": ["rotations"]},
        "tested": {"of": "embedding"},
        "redrawn": {"policy": ["redrawn"], "options": {"data.redrawer": "{deformations}"}},
    }
    path = written(tmp_path, steps=steps, arms=arms)
    plan = plan_of(path, tmp_path)
    assert [run.name for run in plan.runs[:4]] == [f"{name}-seed{seed}" for seed in (0, 1) for name in steps]
    assert {arm for _, arm, _ in plan.tests} == set(arms)
    assert {arm for _, arm, _ in plan.fits} == {"plain", "redrawn"}
    (deformations,) = plan.fits[None, "redrawn", 1].after
    (embedding,) = deformations.after
    assert (deformations.name, embedding.name) == ("deformations-seed1", "embedding-seed1")
    assert f'--data.labels={{"embedding": "{embedding.checkpoint}"}}' in deformations.args
    assert not plan.generators, "the arm's redrawer is a step"
    test = plan.tests[None, "tested", 1]
    assert test.after == (embedding,)
    assert test.args[-1] == f"--ckpt_path={embedding.checkpoint}"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"plain": {}}, "steps.plain: an arm or a generator has that name"),
        ({"redrawer": {}}, "steps.redrawer: an arm or a generator has that name"),
        ({"a": {"generator": "vae", "learner": "maml"}}, "steps.a: a learner and a generator are given, 'maml', 'vae'"),
        ({"a": {"options": {"data.labels": {"embedding": "{b}"}}}, "b": {}}, r"steps.a.options: found '{b}'"),
        ({"a": {"generator": "vea"}}, "steps.a.generator: 'vea' is no file"),
        ({"a": {"lerner": "maml"}}, "steps.a.lerner"),
        ({"a": {"options": {"data.lables": "none"}}}, "steps.a: "),
    ],
)
def test_a_step_that_cannot_be_is_told_before_anything_runs(tmp_path, monkeypatch, steps, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        plan_of(written(tmp_path, steps=steps), tmp_path)
    assert message in str(error.value)
