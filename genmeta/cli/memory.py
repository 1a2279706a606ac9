"""How this process handles memory."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Tell glibc's allocator to keep freed memory for the next tensor instead of handing it back to the system.

    It hands back every block over 32 MiB at once, and each new one is then brought in page by page: training on the CPU
    with activations of that size takes up to twice as long (`benchmarks/protonet_step.py`). A process then holds
    what it once needed until it ends. Elsewhere than on Linux with glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
