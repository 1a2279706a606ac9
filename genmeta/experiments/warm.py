"""Begins runs of `genmeta` in a process that has loaded the libraries, since loading takes longer than a short run.

`python -m genmeta.experiments.warm` loads them once, then forks for each run. Before a fork it has one thread, uses no
GPU and has drawn no random number, so a fork is like a new process. It ends with the process that started it; its runs
go on.
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

_LOADED = "genmeta.cli.training"  # a name, not an import: this package may not import cli


class Warm:
    """Begins runs in a process that has loaded their libraries; use it with `with`."""

    def __init__(self) -> None:
        self._connection, its = socket.socketpair()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # libraries read it when they are loaded
        with its:
            command = [sys.executable, "-m", "genmeta.experiments.warm", str(its.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[its.fileno()], env=environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._connection.close()

    def stop(self) -> None:
        """Begin no more runs; those that have begun go on."""
        self._process.terminate()
        self._process.wait()

    def begin(self, args: Sequence[str], environment: Mapping[str, str], held: int) -> "WarmRun":
        """Begin a run. Its standard output is lost.

        Args:
            args: of `genmeta`.
            environment: of the run, whole.
            held: descriptor of a file that the run keeps open until it ends.
        """
        (state, its_state), (error, its_error) = os.pipe(), os.pipe()
        with tempfile.TemporaryFile("w+") as asked:
            json.dump({"args": list(args), "environment": dict(environment), "folder": os.getcwd()}, asked)
            asked.flush()
            with suppress(OSError):  # the process has ended: `communicate` says so
                socket.send_fds(self._connection, [b"!"], [asked.fileno(), its_state, its_error, held])
        os.close(its_state)
        os.close(its_error)
        return WarmRun(os.fdopen(state), os.fdopen(error, errors="replace"))


class WarmRun:
    """A run, with the methods of `subprocess.Popen` that are used."""

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
        """Return the number of the process once it has begun; 0 if it never begins."""
        with self._lock:
            if self._number is None:
                self._number = int(self._state.readline() or 0)
            return self._number

    def communicate(self) -> tuple[str, str]:
        """Wait for the end; return "" for standard output, and standard error."""
        if not self._pid():
            return "", "genmeta: error: the process that begins the runs has ended\n"
        output = self._error.read()
        self._state.read()  # until the run ends: it may have closed its standard error earlier
        self._ended = True
        return "", output

    def terminate(self) -> None:
        """Stop the run."""
        if self._pid() and not self._ended:
            with suppress(ProcessLookupError):
                os.kill(self._pid(), signal.SIGTERM)


def serve(connection: socket.socket) -> None:
    """Fork for each run that is asked for, until the connection is closed."""
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the runs, which have to save
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
    """Become the run; its open files stay open until it ends."""
    with os.fdopen(asked) as file:
        file.seek(0)
        run: dict[str, Any] = json.load(file)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor, replaced in ((nothing, 0), (nothing, 1), (error, 2)):
        os.dup2(descriptor, replaced)
    os.close(nothing)
    os.close(error)
    for descriptor in (state, held):
        os.set_inheritable(descriptor, False)  # processes that the run starts do not hold them
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
