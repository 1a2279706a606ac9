"""`python held.py fit …`: a training that waits in its last epoch until it is told to stop, or killed.

Whoever is to stop it cannot come too late, however busy the machine is.
"""

import sys
import time

from lightning.pytorch import Callback

from genmeta.cli.main import main
from genmeta.cli.training import TrainingCLI


class Held(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        while trainer.current_epoch == trainer.max_epochs - 1 and batch_idx == 1 and not trainer.received_sigterm:
            time.sleep(0.01)


if __name__ == "__main__":
    callbacks = TrainingCLI.callbacks
    # not by an option, which would be in the configuration of the run that is taken up again
    TrainingCLI.callbacks = lambda cli: [*callbacks(cli), Held()]
    sys.exit(main(sys.argv[1:]))
