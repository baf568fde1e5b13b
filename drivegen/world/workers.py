"""Rendering processes, which end with the process that started them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TypeVar

from drivegen.support.errors import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")


def start_method() -> str:
    """Choose how workers start, before a progress bar adds its thread.

    A forked worker has the compiled renderer already and does not import the caller's script a second time; but a fork of a
    process with threads (torch's, a test runner's) can hang on a lock that one of them held.
    """
    threads = threading.active_count() > 1 or "torch" in sys.modules
    return "fork" if "fork" in multiprocessing.get_all_start_methods() and not threads else "spawn"


def in_processes(work: Callable[[Job], Result], jobs: Sequence[Job], count: int, method: str) -> Iterator[Result]:
    """Yield the results of jobs as they are done, in `count` processes, or in this one for 1.

    Whatever ends this process, SIGKILL too, ends the others: they wait on a pipe that only it holds open.

    Args:
        work: what is done with a job; a function of a module.
        jobs: what it is done with.
        count: number of processes.
        method: how they start (`start_method`).
    """
    if count == 1:
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context(method)
    reader, writer = context.Pipe(duplex=False)
    held = writer if method == "fork" else None  # a forked process has both ends, a spawned one what it is given
    pool = ProcessPoolExecutor(count, context, initializer=_begin, initargs=(reader, held, os.getpid()))
    try:
        for future in as_completed([pool.submit(work, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise InputError("a rendering process was ended from outside (out of memory?); use fewer workers") from error
    except BaseException:
        writer.close()  # at once, in the middle of a job
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        writer.close()
        reader.close()


def _begin(reader: Connection, writer: Connection | None, parent: int) -> None:
    """Prepare a worker: it leaves signals to the parent, and ends when that one does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if writer is not None:
        writer.close()
    threading.Thread(target=_end_with, args=(reader,), daemon=True).start()
    with suppress(AttributeError):  # on Linux the kernel sees to it too, without waiting for compiled code to return
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
    import cv2

    cv2.setNumThreads(1)


def _end_with(reader: Connection) -> None:
    with suppress(EOFError, OSError):
        reader.recv_bytes()
    os._exit(1)
