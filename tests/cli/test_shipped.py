"""YAMLs of tasks, which YAMLs of learners are laid over."""

import pytest
import yaml
from conftest import ROOT

from genmeta.cli.main import main
from genmeta.cli.training import TrainingCLI
from genmeta.errors import UserError
from genmeta.experiments.run import Run
from genmeta.shipped import tasks_of, with_config_files

MAML = "configs/learner/maml.yaml"


def test_what_a_yaml_is_laid_over_comes_before_it():
    laid_over, more = "--config=configs/tasks/random_other.yaml", "--config=configs/trainer/debug.yaml"
    assert with_config_files(["--config", MAML, more]) == [laid_over, f"--config={MAML}", more]
    assert with_config_files([laid_over, more]) == [laid_over, more]
    in_place = [f"--config={MAML}", "--tasks", "within", "--run.name=a"]
    assert with_config_files(in_place) == [
        *("--config=configs/tasks/within.yaml", f"--config={MAML}", "--tasks=within", "--run.name=a")
    ]


@pytest.mark.parametrize("text", ["[1", "tasks: [a]", "tasks: null", "tasks: 3", "- tasks", "", "a: {tasks: b}"])
def test_what_names_no_tasks_is_laid_over_none(tmp_path, text):
    """Bug: a YAML that is wrong, told twice or not at all."""
    (tmp_path / "a.yaml").write_text(text)
    assert tasks_of(tmp_path / "a.yaml") == ""
    assert tasks_of(tmp_path / "no such") == ""


def test_tasks_can_be_exchanged_and_stand_in_what_is_resolved(tmp_path):
    """Bug: a run's own config.yaml that is laid over tasks once more, maybe others by then."""
    options = ["fit", f"--config={MAML}", "--tasks=real", "--data.steps_per_epoch=3", "--data.tasks_per_step=2"]
    resolved = yaml.safe_load(TrainingCLI(options, check_only=True, set_up=False).resolved())
    assert "tasks" not in resolved
    assert resolved["data"]["init_args"]["train_tasks"]["class_path"] == "genmeta.tasks.real.RealTasks"
    assert resolved["data"]["init_args"]["tasks_per_step"] == 2
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(resolved))
    again = TrainingCLI(["fit", f"--config={tmp_path / 'config.yaml'}"], check_only=True, set_up=False)
    assert yaml.safe_load(again.resolved()) == resolved


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([f"--config={MAML}", "--tasks=within_"], "--tasks: 'within_' is no file and none of .*did you mean 'within'"),
        (["--config=configs/generator/gan.yaml", "--tasks=within"], "--tasks: within: no YAML of this command"),
    ],
)
def test_tasks_that_are_not_there_or_do_nothing_are_refused(options, message, capsys):
    with pytest.raises(UserError, match=message):
        with_config_files(options)
    assert main(["fit", *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_run_is_another_one_when_its_tasks_change(tmp_path, monkeypatch):
    """Bug: finished runs of other tasks, taken for those of the comparison."""
    monkeypatch.chdir(tmp_path)
    for name in ("tasks", "learner"):
        (tmp_path / "configs" / name).mkdir(parents=True)
    (tmp_path / "configs/learner/mine.yaml").write_text("tasks: ours\nrun: {name: a}\n")
    folders = set()
    for share in (0.25, 0.5):
        (tmp_path / "configs/tasks/ours.yaml").write_text(f"data: {{init_args: {{train_tasks: {{share: {share}}}}}}}\n")
        folders.add(Run("a", ("fit", "--config=configs/learner/mine.yaml"), "runs").folder)
    assert len(folders) == 2


def test_learners_yamls_hold_the_learner():
    """Bug: tasks copied into each YAML, to be changed in twenty places."""
    for path in (ROOT / "configs" / "learner").glob("*.yaml"):
        body = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert len(body) <= 25, path
        assert tasks_of(path), path
