"""Meta-batches that do not fit into memory: halved until they do, with the gradient of the whole."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import PATIENCE, ROOT, slow_but
from test_processes import YAMLS, parts
from test_training import trainer_for, weights

from genmeta.modules.memory import HalvingLoss, loss_in_parts

EXACT = ("protonet", "maml", "transformer")


@pytest.mark.parametrize("path", slow_but(["maml"], [p for p in YAMLS if p.stem in EXACT]), ids=lambda path: path.stem)
def test_parts_give_the_gradient_of_the_whole(tmp_path, path):
    """In float64 to 1e-10, also where three do not halve; draws are those of the whole."""
    found = []
    for at_once in (3, 2):
        module, data = parts(path, n_tasks=3, more=["--model.halve_if_out_of_memory=true"])
        module.halving.at_once = at_once
        trainer_for(tmp_path, max_steps=5, limit_val_batches=0).fit(module, data)
        found.append(weights(module))
    module, data = parts(path, n_tasks=3)
    trainer_for(tmp_path, max_steps=5, limit_val_batches=0).fit(module, data)
    for weights_ in found:
        torch.testing.assert_close(weights_, weights(module), atol=1e-10, rtol=1e-10)


def test_only_the_gradients_of_a_part_are_kept():
    (path,) = (path for path in YAMLS if path.stem == "protonet")
    module, data = parts(path, n_tasks=4)
    batch = data.on_after_batch_transfer(data.train_plan(0), 0)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.nbytes) or x, lambda x: x):
        sizes = []
        module.learner.loss(batch)
        whole, sizes = sum(sizes), []
        loss_in_parts(module.learner, batch[:1], 1)
        assert sum(sizes) < whole / 2


def test_other_errors_are_no_reason_to_try_again():
    class Broken(torch.nn.Module):
        calls = 0

        def loss(self, batch):
            self.calls += 1
            raise RuntimeError("a bug")

    (path,) = (path for path in YAMLS if path.stem == "protonet")
    _, data = parts(path, n_tasks=4)
    broken = Broken()
    with pytest.raises(RuntimeError, match="a bug"):
        HalvingLoss()(broken, data.on_after_batch_transfer(data.train_plan(0), 0))
    assert broken.calls == 1


def test_tasks_are_halved_until_memory_suffices(tmp_path, monkeypatch, capsys):
    """The allocator refuses; what a failed try has changed is undone, and the smaller number is kept."""
    path = next(path for path in YAMLS if path.stem == "leo")  # with draws, which count steps
    module, data = parts(path, n_tasks=5, more=["--model.halve_if_out_of_memory=true"])
    sizes, loss = [], module.learner.loss

    def scarce(batch):
        sizes.append(len(batch))
        found = loss(batch)
        if len(batch) > 2:
            torch.empty(2**50)
        return found

    monkeypatch.setattr(module.learner, "loss", scarce)
    trainer_for(tmp_path, max_steps=2, limit_val_batches=0).fit(module, data)
    assert sizes == [5, 3, 2, 2, 1, 2, 2, 1]
    assert "out of memory with 3 tasks at a time; going on with 2" in capsys.readouterr().err
    whole, data = parts(path, n_tasks=5)
    trainer_for(tmp_path, max_steps=2, limit_val_batches=0).fit(whole, data)
    torch.testing.assert_close(weights(module), weights(whole), atol=1e-10, rtol=1e-10)


# in a process of its own, which may take 300 megabytes more than it has when it begins to train
SCRIPT = """
import resource, sys
import torch
from genmeta.cli.main import main
from genmeta.modules.episodic_data import EpisodicDataModule
torch.set_num_threads(1)
torch.backends.mkldnn.set_flags(False)  # it goes on with very slow kernels where memory is short
setup = EpisodicDataModule.train_dataloader
def limited(self):
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 300 * 2**20, -1))
    return setup(self)
EpisodicDataModule.train_dataloader = limited
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
def test_memory_that_the_kernel_refuses_is_told(tmp_path):
    args = [
        *("fit", "--config=configs/learner/protonet.yaml", "--config=configs/policy/real_only.yaml"),
        *("--config=configs/trainer/debug.yaml", "--run.wandb=off", "--data.tasks_per_step=64"),
        f"--run.folder={tmp_path / 'runs'}",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, env=env)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "genmeta: error: out of memory; lower one of data.tasks_per_step" in done.stderr
