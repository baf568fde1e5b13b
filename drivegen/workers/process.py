"""The other end of a local worker: a process that reads jobs, a line of JSON each, and answers in the same way.

The first line says what to begin with; one before it may say what to prepare while that is not known yet.

It leaves Ctrl-C to the process that started it, finishes its job when SIGTERM comes, and ends when that process ends.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import queue
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from drivegen.support.errors import InputError
from drivegen.support.progress import report_to
from drivegen.support.signals import TERMINATED, noted_sigterm
from drivegen.workers.failure import described
from drivegen.workers.later import finished

Work = Callable[[Any, Callable[[], None]], Any]
"""Does a job, and returns its result, or `Later`; what it is given beside it is called now and then, as a sign of life."""


def find(name: str) -> Any:
    """Return what ``package.module:name`` names."""
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InputError(f"a worker cannot find {name}: {error}; use one worker, or put it into a module of its own") from error
    return found


def main() -> None:
    """Begin as the first line says, then do a job for every further one; prepare before, where a line says so."""
    _end_with_parent(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()

    def say(**what: Any) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    def warn(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, UserWarning):
            say(warning=str(message))

    warnings.showwarning = warn
    with noted_sigterm() as ended, report_to(None), suppress(BrokenPipeError):
        setup = json.loads(lines.get())
        if "prepare" in setup:
            with suppress(Exception):  # what it is comes up again when work begins, and is said then
                find(setup["prepare"])()
            setup = json.loads(lines.get())
        try:
            work: Work = find(setup["target"])(setup["given"])
        except Exception as error:
            say(**described(error))
            return
        say(ready=True)
        while not ended():
            with suppress(queue.Empty):
                text = lines.get(timeout=0.2)
                if not text:
                    return
                try:
                    say(result=finished(work(json.loads(text), lambda: say(alive=True))))
                except Exception as error:
                    say(**described(error))
    sys.exit(TERMINATED)


def _read(lines: queue.SimpleQueue[str]) -> None:
    """Pass the lines on; an empty one ends the work, and their end, when the other process is gone, ends all at once."""
    for line in sys.stdin:
        lines.put(line.strip())
    os._exit(1)


def _end_with_parent(parent: int) -> None:
    """Ask the kernel to end this process with its parent, which needs no Python code to run."""
    with suppress(AttributeError, OSError):  # not Linux: the end of the lines is noticed all the same
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
