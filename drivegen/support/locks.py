"""The output folder of a run: writable, and held by one process."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from drivegen.support import files
from drivegen.support.errors import InputError

LOCK = ".lock"


@contextmanager
def locked_folder(folder: Path) -> Iterator[Path]:
    """Make and lock an output folder; raises InputError when it cannot be written to or another run is in it.

    The lock is a file, gone in the end; one into which nothing was written is taken away again.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{secrets.token_hex(8)}"  # a full disk may still take a name: so a byte is written
        handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        try:
            os.write(handle, b"x")
        finally:
            os.close(handle)
            probe.unlink()
        lock = _take(folder)
    except OSError as error:
        raise InputError(f"cannot write to the output folder {folder}: {error.strerror or error}") from error
    try:
        files.sweep(folder, again=True)
        yield folder
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink()
            for path in made:
                path.rmdir()  # those that are empty
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)  # data workers have it open too, and may outlive this
        os.close(lock)


@contextmanager
def waited_for(path: Path) -> Iterator[None]:
    """Hold a lock file, which stays, within the block; where another process holds it, wait for that one.

    Raises InputError where the file cannot be opened. On a file system without locks there is no waiting.
    """
    try:
        handle = _open(path)
    except OSError as error:
        raise InputError(f"cannot write to {path.parent}: {error.strerror or error}") from error
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold a lock file within the block, or tell (False) that another process does; it is gone in the end where it was held.

    What is claimed is done or not when the block ends, so who claims it next looks before doing it again. Raises InputError
    where the file cannot be opened. On a file system without locks everything can be claimed.
    """
    try:
        handle = _open(path)
    except OSError as error:
        raise InputError(f"cannot write to {path.parent}: {error.strerror or error}") from error
    try:
        mine = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            mine = False
        except OSError:
            pass  # a network file system without locks
        yield mine
        if mine:
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _take(folder: Path) -> int:
    """Open and lock a folder's lock file, and write this process's number into it."""
    path, patience = folder / LOCK, time.monotonic() + 1.0
    while True:
        handle = _open(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(handle, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(handle)
            if _ended(owner) and time.monotonic() < patience:
                time.sleep(0.02)
                continue
            raise InputError(f"another run (process {owner}) is writing to {folder}; choose another output") from error
        except OSError:
            pass  # a network file system without locks
        if files.is_same(path, handle):  # else the run before has just removed it
            break
        os.close(handle)
    os.ftruncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    return handle


def _ended(owner: str) -> bool:
    """Tell whether the process that wrote its number is gone: the system lets go of a killed one's lock a moment later."""
    try:
        os.kill(int(owner), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, OverflowError):
        pass
    return False


def _open(path: Path) -> int:
    """Open a lock file, or make it; raises InputError for anything but a plain file with this one name."""
    handle = os.open(files.refuse_link(path), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
        return handle
    os.close(handle)
    what = "a hard link to another file" if stat.S_ISREG(found.st_mode) else "no plain file"
    raise InputError(f"{path} is {what}; remove it, or choose another output")
