"""Runs of `genmeta` that begin with its libraries loaded, which takes longer than a short run itself.

`python -m genmeta.experiments.warm` loads them once, then forks itself for each run. Nothing has run in it by then: it
has one thread, no GPU, and has drawn no number, so that a fork is like a new process. It ends with the process that
began it; runs that are going on then do not.
"""

import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, NoReturn, Self

_LOADED = "genmeta.cli.training"  # what takes long; by its name, as the program is: they come after this package


class Warm:
    """Begins runs by a process that has loaded what they need; close it by `with`."""

    def __init__(self) -> None:
        self._connection, its = socket.socketpair()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # read when the libraries are loaded
        with its:
            command = [sys.executable, "-m", "genmeta.experiments.warm", str(its.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[its.fileno()], env=environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._connection.close()

    def stop(self) -> None:
        """Begin nothing more; runs that have begun go on."""
        self._process.terminate()
        self._process.wait()

    def begin(self, args: Sequence[str], environment: Mapping[str, str], held: int) -> "WarmRun":
        """Begin a run. What it says to standard output is lost.

        Args:
            args: of `genmeta`.
            environment: of the run, whole.
            held: descriptor of a file that the run keeps open to its end.
        """
        (state, its_state), (error, its_error) = os.pipe(), os.pipe()
        with tempfile.TemporaryFile("w+") as asked:
            json.dump({"args": list(args), "environment": dict(environment), "folder": os.getcwd()}, asked)
            asked.flush()
            with suppress(OSError):  # it has ended: then the run has too, as `communicate` says
                socket.send_fds(self._connection, [b"!"], [asked.fileno(), its_state, its_error, held])
        os.close(its_state)
        os.close(its_error)
        return WarmRun(os.fdopen(state), os.fdopen(error, errors="replace"))


class WarmRun:
    """A run that goes on; what `subprocess.Popen` has of it."""

    def __init__(self, state: IO[str], error: IO[str]) -> None:
        self._state, self._error = state, error
        self._lock = threading.Lock()
        self._number: int | None = None
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._state.close()
        self._error.close()

    def _pid(self) -> int:
        """Return the number of the process once it has begun; 0 if it never does."""
        with self._lock:
            if self._number is None:
                self._number = int(self._state.readline() or 0)
            return self._number

    def communicate(self) -> tuple[str, str]:
        """Wait for the end; return what was said to standard output, which is nothing, and to standard error."""
        if not self._pid():
            return "", "genmeta: error: the process that begins the runs has ended\n"
        output = self._error.read()
        self._state.read()  # ends with the run, which may have closed its standard error before
        self._ended = True
        return "", output

    def terminate(self) -> None:
        """Tell it to stop."""
        if self._pid() and not self._ended:
            with suppress(ProcessLookupError):
                os.kill(self._pid(), signal.SIGTERM)


def serve(connection: socket.socket) -> None:
    """Fork for each run that is asked for; return where the connection is closed, and in the fork."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the runs too: they have to save
    ended = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the runs here
    while True:
        word, descriptors, _, _ = socket.recv_fds(connection, 1, 4)
        if not word:
            return
        if os.fork() == 0:
            connection.close()
            signal.signal(signal.SIGINT, interrupt)
            signal.signal(signal.SIGCHLD, ended)
            _run(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _run(asked: int, state: int, error: int, held: int) -> NoReturn:
    """Become the run: what was opened for it stays so until it ends."""
    with os.fdopen(asked) as file:
        file.seek(0)
        run: dict[str, Any] = json.load(file)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor, replaced in ((nothing, 0), (nothing, 1), (error, 2)):
        os.dup2(descriptor, replaced)
    os.close(nothing)
    os.close(error)
    for descriptor in (state, held):
        os.set_inheritable(descriptor, False)  # only this process holds them, not what it starts
    os.chdir(run["folder"])
    os.environ.clear()
    os.environ.update(run["environment"])
    os.write(state, f"{os.getpid()}\n".encode())
    sys.argv = ["genmeta", *run["args"]]
    runpy.run_module("genmeta", run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    importlib.import_module(_LOADED)
    serve(socket.socket(fileno=int(sys.argv[1])))
