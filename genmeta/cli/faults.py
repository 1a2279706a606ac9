"""Faults of the machine in words, from the exceptions that libraries raise for them."""

import errno
import re
import traceback

from lightning.fabric.utilities.exceptions import MisconfigurationException

from genmeta.modules.memory import is_out_of_memory

_MEMORY = ("data.tasks_per_step", "data.train.n_query", "data.batch_size", "data.tasks_per_eval_batch")


def what_happened(error: BaseException) -> str | None:
    """Return a message for an exception, or None if it is none of these: then it is a bug.

    Knows a full disk, exhausted memory (of the machine or of a GPU), dead loader processes, and early stopping on a
    metric that is never logged. Also looks at the exceptions that caused it.
    """
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen)
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"no space left on the disk{f' for {seen.filename}' if seen.filename else ''}"
        if "unexpected pos" in text:  # from torch.save, for any write that failed
            return "a file could not be written to its end, most often for want of space on the disk"
        if isinstance(seen, OSError) and seen.errno in (errno.EROFS, errno.EACCES) and seen.filename:
            return f"{seen.filename} cannot be written ({seen.strerror})"
        if is_out_of_memory(seen):
            return f"out of memory; lower one of {', '.join(_MEMORY)}, or set model.halve_if_out_of_memory to true"
        if type(seen).__module__.startswith(("torch._dynamo", "torch._inductor")):
            return f"model.compile: torch.compile failed ({text.strip().splitlines()[0]}); set it to false"
        if text.startswith("Early stopping conditioned on metric"):
            metric, _, known = text.partition(" which is not available")
            return f"trainer.callbacks: {metric}, which is not logged; there are {known.partition('following: ')[2]}"
        if match := re.search(r"DataLoader worker \(pid.*?(?:killed by signal: (\w+)|exited unexpectedly)", text):
            by = f" ({match[1]})" if match[1] else ""
            return f"a loader process died{by}, often for want of memory; lower data.n_workers"
        seen = seen.__cause__ or seen.__context__
    return None


def refused_by_lightning(error: BaseException) -> bool:
    """Whether Lightning itself raised this, for example for options that contradict each other."""
    if isinstance(error, MisconfigurationException):
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    where = frames[-1][0].f_globals.get("__name__", "") if frames else ""
    return isinstance(error, ValueError | TypeError | RuntimeError) and where.startswith("lightning.")
