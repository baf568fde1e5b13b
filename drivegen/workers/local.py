"""Local processes: each has a lease of its job, which its signs of life renew; who dies or falls silent is replaced."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from drivegen.support.errors import CannotGoOn
from drivegen.support.signals import TERMINATED
from drivegen.workers.crew import TRIES, Crew, Outcome
from drivegen.workers.failure import cannot_begin, raise_for_all

LEASE_S = 900.0
"""A worker that says nothing for so long (it does at every denoising step) is ended, and its job tried again."""

BEGINNING = 4
"""So many times longer may it take to open dataset and model."""

_BEGIN = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from drivegen.workers.process import main; main()"


_early: list[_Process] = []
"""Processes that no crew has taken yet."""


@contextmanager
def early(count: int, prepare: str) -> Iterator[None]:
    """Start processes that the next crew takes, and that import in the meantime what takes long; those left over end.

    Args:
        count: how many.
        prepare: ``package.module:function``, called without anything in each.
    """
    for _ in range(count):
        process = _Process()
        process.send(json.dumps({"prepare": prepare}))
        _early.append(process)
    try:
        yield
    finally:
        _end_early()


def _end_early() -> None:
    while _early:
        _early.pop().end(kill=True)


class LocalCrew(Crew):
    """Processes of this machine, which end with this one."""

    def __init__(self, target: str, setups: Sequence[Any], lease_s: float = LEASE_S) -> None:
        """Choose what is done; nothing starts yet.

        Args:
            target: ``package.module:function``, called once in each process; it returns `process.Work`.
            setups: what it is called with, JSON values: one process for each.
            lease_s: seconds after which a silent process is taken for dead.
        """
        self.target, self.setups, self.lease_s = target, setups, lease_s
        self._processes: list[_Process] = []
        self._selector = selectors.DefaultSelector()
        self._failed_to_begin = 0
        self._warned: set[str] = set()

    def __enter__(self) -> LocalCrew:
        self._processes = [self._start(place) for place in range(len(self.setups))]
        _end_early()
        return self

    def __exit__(self, kind: object = None, *error: object) -> None:
        for process in self._processes:
            process.end(kill=kind is not None or not process.began)
        self._selector.close()

    def idle(self) -> Sequence[int]:
        """List the places whose process has no job; one that is just beginning may have one."""
        return [place for place, process in enumerate(self._processes) if not process.busy]

    def beginning(self) -> Sequence[int]:
        """List the places whose process has not said that it is ready."""
        return [place for place, process in enumerate(self._processes) if not process.began]

    def give(self, place: int, job: Any) -> None:
        """Send a job to a process."""
        self._processes[place].busy = True
        self._processes[place].send(json.dumps(job))

    def wait(self) -> Sequence[tuple[int, Outcome]]:
        """Read what processes say, for a second at most, and replace those that died or were silent for too long."""
        before = time.monotonic()
        ready = {key.data for key, _ in self._selector.select(1.0)}
        took = min(time.monotonic() - before, 2.0)  # one that was stopped with all its workers blames none of them
        done: list[tuple[int, Outcome]] = []
        for place, process in enumerate(list(self._processes)):
            if process in ready:
                process.silent_s = 0.0
                ended = process.read()
                done += [(place, outcome) for line in process.lines() if (outcome := self._told(process, line))]
                if ended:
                    done += self._replace(place, "")
            else:
                process.silent_s += took
                if process.silent_s > self.lease_s * (1 if process.began else BEGINNING) and process.busy:
                    process.popen.kill()
                    done += self._replace(place, f"said nothing for {self.lease_s:g} s, and was ended")
        return done

    def _told(self, process: _Process, said: dict[str, Any]) -> Outcome | None:
        if "ready" in said:
            process.began, self._failed_to_begin = True, 0
        elif "warning" in said and said["warning"] not in self._warned:
            self._warned.add(said["warning"])
            warnings.warn(said["warning"], UserWarning, stacklevel=2)
        elif "error" in said:
            if not process.began:
                raise cannot_begin(said)
            raise_for_all(said)
            process.busy = False
            return Outcome(error=said["error"], trace=said["trace"])
        elif "result" in said:
            process.busy = False
            return Outcome(said["result"])
        return None

    def _replace(self, place: int, why: str) -> list[tuple[int, Outcome]]:
        """Start another process in the place of one that is dead."""
        process = self._processes[place]
        self._selector.unregister(process.answers)
        status = process.end(kill=True)
        if not process.began:
            self._failed_to_begin += 1
            if self._failed_to_begin >= TRIES:
                raise CannotGoOn(f"workers end before they begin ({_ended(status)}; out of memory?); use fewer of them")
        self._processes[place] = self._start(place)
        if not process.busy:
            return []
        counts = process.began and status != TERMINATED
        return [(place, Outcome(error=f"its process {why or _ended(status)}", counts=counts))]

    def _start(self, place: int) -> _Process:
        process = _early.pop(0) if _early else _Process()
        self._selector.register(process.answers, selectors.EVENT_READ, process)
        process.send(json.dumps({"target": self.target, "given": self.setups[place]}))
        return process


def _ended(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


class _Process:
    """A process, with what it has said so far."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _BEGIN, json.dumps([path or os.getcwd() for path in sys.path]), str(os.getpid())]
        self.popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.jobs, self.answers = self.popen.stdin, self.popen.stdout
        self.began = self.busy = False
        self.silent_s = 0.0
        self._said = b""

    def send(self, line: str) -> None:
        """Write a line; where the process is dead, reading from it says so."""
        with suppress(OSError, ValueError):
            self.jobs.write(line.encode() + b"\n")
            self.jobs.flush()

    def read(self) -> bool:
        """Read what is there; returns whether that was the last."""
        data = os.read(self.answers.fileno(), 1 << 20)
        self._said += data
        return not data

    def lines(self) -> list[dict[str, Any]]:
        """Return the whole lines that were read."""
        *whole, self._said = self._said.split(b"\n")
        return [json.loads(line) for line in whole]

    def end(self, kill: bool) -> int:
        """End the process, at once or when it has done its job; returns its status."""
        if kill:
            self.popen.kill()
        self.send("")
        try:
            status = self.popen.wait(timeout=30)
        except subprocess.TimeoutExpired:  # with nothing to do, and still it does not go
            self.popen.kill()
            status = self.popen.wait()
        for pipe in (self.jobs, self.answers):
            with suppress(OSError):
                pipe.close()
        return status
