"""Several processes are one: every shipped learner takes the same steps however many processes share the meta-batch."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from test_training import trainer_for, weights
from torch import Tensor

from genmeta.cli.training import TrainingCLI

YAMLS = sorted((ROOT / "configs" / "learner").glob("*.yaml"))
STEPS = 20
NOT_EXACT = {
    "relation": "its own batch norm sees the tasks of its process",
}


def parts(path: Path, n_tasks: int, double: bool = True, more: Sequence[str] = ()):
    """The module and the data of a YAML, with a small backbone that normalises each image by itself."""
    options = [
        f"--data.tasks_per_step={n_tasks}",
        f"--data.steps_per_epoch={STEPS}",
        f"--data.val.n_episodes={n_tasks}",
    ]
    options += ["--data.train.n_query=2", "--data.val.n_query=2"]
    fused = path.stem == "fused"  # has no backbone of its own, and real tasks as it is
    options += [] if fused else ["--model.learner.backbone.hidden=4", "--model.learner.backbone.norm=group"]
    # Adam makes steps of rounding errors where a gradient is 0
    options += ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.05"]
    settings = yaml.safe_load(path.read_text())["model"]["init_args"]["learner"]["init_args"]
    options += [f"--model.learner.{name}=2" for name in ("inner_steps", "adaptation_steps") if name in settings]
    torch.manual_seed(0)
    configs = [f"--config={path}", *([] if fused else [f"--config={ROOT}/configs/policy/real_only.yaml"])]
    cli = TrainingCLI(["fit", *configs, *options, *more, "--run.wandb=off", "--trainer.devices=1"], check_only=True)
    render = cli.datamodule.on_after_batch_transfer

    def in_double(batch, dataloader_idx):
        rendered = render(batch, dataloader_idx)
        return replace(
            rendered,
            **{n: v.double() for n, v in vars(rendered).items() if isinstance(v, Tensor) and v.is_floating_point()},
        )

    if not double:
        return cli.model, cli.datamodule
    cli.datamodule.on_after_batch_transfer = in_double
    return cli.model.double(), cli.datamodule


QUICK = ("protonet", "maml", "leo")  # a plain one, one that adapts, one that draws noise


@pytest.mark.parametrize(
    ("path", "n"),
    [
        *(pytest.param(path, 2, marks=[] if path.stem in QUICK else pytest.mark.slow) for path in YAMLS),
        *(pytest.param(path, 4, marks=pytest.mark.slow) for path in YAMLS),
    ],
    ids=lambda value: getattr(value, "stem", value),
)
def test_several_processes_take_the_steps_of_one(tmp_path, path, n):
    """In float64 to 1e-10: no task is left out or counted twice, also where they divide unevenly; no mean of means."""
    found = []
    for devices in (1, n):
        module, data = parts(path, n + 1)
        options = {"devices": n, "strategy": "ddp_fork"} if devices > 1 else {}
        trainer = trainer_for(tmp_path, max_epochs=1, **options)
        with warnings.catch_warnings():  # of forking with threads (Python 3.12), of parameters that are all used
            warnings.simplefilter("ignore")
            trainer.fit(module, data)
        assert devices > 1 or trainer.global_step == STEPS
        found.append((weights(module), trainer.callback_metrics))
    before = weights(parts(path, n + 1)[0])
    assert (found[0][0] - before).abs().max() > 1e-6
    if path.stem in NOT_EXACT:
        assert found[1][0].isfinite().all()
        return
    # of five tasks, conjugate gradients enlarge rounding errors over the steps
    tolerance = 1e-6 if path.stem == "imaml" and n == 4 else 1e-10
    torch.testing.assert_close(found[1][0], found[0][0], atol=tolerance, rtol=tolerance)
    for name in ("val/acc", "val/loss", "train/acc_real"):
        assert float(found[1][1][name]) == pytest.approx(float(found[0][1][name]), rel=1e-6), name
