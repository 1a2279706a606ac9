"""Reads pickle files that hold arrays and plain values, and refuses all others.

A pickle can run any code when it is loaded, and some published data sets are pickles. Here nothing that a file names is
called: arrays are noted down while it is read and built afterwards, from checked sizes and plain types of numbers.
(Numpy's own way takes a file's word for the layout of a type, and a damaged one makes it fail inside.)
"""

import pickle
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from types import ModuleType, SimpleNamespace
from typing import IO, Any

import numpy as np

_KINDS = "biufcSU"  # numbers and texts; an array of objects is read as well, item by item


class _Noted:
    """What is built when all is read."""

    def build(self, done: dict[int, Any]) -> Any:
        """Return the value; `done` as in `_built`."""
        raise NotImplementedError


class _Type:
    """A numpy type as it stands in a pickle."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name, self.big_endian = str(name), False

    def __setstate__(self, state: Any) -> None:
        self.big_endian = state[1] == ">"

    def build(self) -> np.dtype:
        made = np.dtype(self.name)
        if made.kind not in _KINDS + "O" or made.names or made.subdtype:
            raise pickle.UnpicklingError(f"holds an array of {made}; only numbers, texts and lists of them are read")
        return made.newbyteorder(">") if self.big_endian else made


class _Array(_Noted):
    """A numpy array as it stands in a pickle."""

    state: Any = None

    def __init__(self, *_: Any) -> None:
        """Take no notice of what the array is before its state is set."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def build(self, done: dict[int, Any]) -> np.ndarray:
        _, shape, its_type, fortran, content = self.state
        return _array(content, its_type, shape, "F" if fortran else "C", done)


class _Scalar(_Noted):
    """A single number of a numpy type."""

    def __init__(self, its_type: Any, content: Any) -> None:
        self.its_type, self.content = its_type, content

    def build(self, done: dict[int, Any]) -> Any:
        return _array(self.content, self.its_type, (), "C", done)[()]


class _FromBuffer(_Noted):
    """An array in the newest protocol's form."""

    def __init__(self, content: Any, its_type: Any, shape: Any, order: Any) -> None:
        self.content, self.its_type, self.shape, self.order = content, its_type, shape, order

    def build(self, done: dict[int, Any]) -> np.ndarray:
        return _array(self.content, self.its_type, self.shape, "F" if self.order == "F" else "C", done)


def _array(content: Any, its_type: Any, shape: Any, order: Any, done: dict[int, Any]) -> np.ndarray:
    if not isinstance(its_type, _Type) or not isinstance(shape, tuple) or not all(isinstance(n, int) for n in shape):
        raise pickle.UnpicklingError("holds a damaged array")
    dtype = its_type.build()
    if dtype.kind == "O":
        items = np.empty(len(content), object)
        items[:] = [_built(item, done) for item in content]
        return items.reshape(shape, order=order)
    if isinstance(content, str):  # bytes of a Python 2 pickle
        content = content.encode("latin1")
    if prod(shape) * dtype.itemsize != len(content):
        raise pickle.UnpicklingError("holds an array that is longer or shorter than it says")
    return np.frombuffer(content, dtype).copy().reshape(shape, order=order)  # a copy, or it could not be written


def _bytes(text: Any, encoding: Any) -> bytes:
    """Return what protocol 2 writes as text. Other encodings than its own would let a small file grow at will."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("holds bytes that are not written as pickles do")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _bytes,  # in pickles of protocol 2
}
for _core in ("core", "_core"):  # numpy 1, numpy 2
    _ALLOWED[f"numpy.{_core}.multiarray", "_reconstruct"] = _Array
    _ALLOWED[f"numpy.{_core}.multiarray", "scalar"] = _Scalar
    _ALLOWED[f"numpy.{_core}.numeric", "_frombuffer"] = _FromBuffer


def _built(value: Any, done: dict[int, Any]) -> Any:
    """Return a value with what was noted down in its place built.

    Args:
        done: by identity, what is built already: what stands in many places is built once, or a file of a few hundred
            bytes could fill the memory.
    """
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, _Noted):
        built = value.build(done)
    elif isinstance(value, dict):
        built = {_built(k, done): _built(v, done) for k, v in value.items()}
    elif isinstance(value, list | tuple):
        built = type(value)(_built(item, done) for item in value)
    else:
        return value
    done[id(value)] = built
    return built


class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """Finds the allowed names only.

    Python's own unpickler in Python, not the one in C, which reserves as much memory as a damaged file says.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"holds {module}.{name}; only arrays and plain values are read")
        return _ALLOWED[module, name]

    def load(self) -> Any:
        return _built(super().load(), {})


def load(file: IO[bytes]) -> Any:
    """Return the content of a pickle file.

    Raises:
        pickle.UnpicklingError: it holds anything but arrays and plain values; nothing of it was run. A damaged file may
            raise other exceptions too.
    """
    return _Unpickler(file).load()


@contextmanager
def plain_pickles_only(module: ModuleType) -> Iterator[None]:
    """Let a module that says `import pickle` read with `load` while this lasts."""
    module.pickle = SimpleNamespace(  # type: ignore[attr-defined]
        load=load, _Unpickler=_Unpickler, UnpicklingError=pickle.UnpicklingError, dump=pickle.dump
    )
    try:
        yield
    finally:
        module.pickle = pickle  # type: ignore[attr-defined]
