"""Reads pickle files that hold arrays and plain values, and refuses all others.

A pickle can run any code when it is loaded, and some published data sets are pickles. Here only what numpy needs to
build an array can be called.
"""

import codecs
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import IO, Any

import numpy as np

# numpy.core became numpy._core in numpy 2; asking numpy itself works with both, and with the files of both
_NUMPY = {
    ("multiarray", "_reconstruct"): np.zeros(1).__reduce__()[0],
    ("multiarray", "scalar"): np.float64(0).__reduce__()[0],
    ("numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0],
}
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(f"numpy.{core}.{module}", n): f for (module, n), f in _NUMPY.items() for core in ("core", "_core")},
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): codecs.encode,  # bytes in pickles of protocol 2
}


class _Refusing:
    """Finds the allowed names only, in both of Python's unpicklers."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"holds {module}.{name}; only arrays and plain values are read")
        return _ALLOWED[module, name]


class _Unpickler(_Refusing, pickle.Unpickler):
    pass


class _SlowUnpickler(_Refusing, pickle._Unpickler):  # type: ignore[name-defined,misc]
    pass


def load(file: IO[bytes]) -> Any:
    """Return the content of a pickle file.

    Raises:
        pickle.UnpicklingError: it holds anything but arrays and plain values; nothing of it was run.
    """
    return _Unpickler(file).load()


@contextmanager
def plain_pickles_only(module: ModuleType) -> Iterator[None]:
    """Let a module that says `import pickle` read with `load` while this lasts."""
    module.pickle = SimpleNamespace(  # type: ignore[attr-defined]
        load=load, _Unpickler=_SlowUnpickler, UnpicklingError=pickle.UnpicklingError, dump=pickle.dump
    )
    try:
        yield
    finally:
        module.pickle = pickle  # type: ignore[attr-defined]
