"""The output folder of a run: writable, held by one process, and never begun twice by mistake."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from drivegen.support.errors import InputError


@contextmanager
def locked_folder(folder: Path) -> Iterator[Path]:
    """Make and lock an output folder; raises InputError when it cannot be written to or another run is in it.

    One into which nothing was written is taken away again.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
        lock = open(folder / ".lock", "a+")  # noqa: SIM115  # closed below, and by the system when the process dies
    except OSError as error:
        raise InputError(f"cannot write to the output folder {folder}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise InputError(f"another run (process {owner}) is writing to {folder}; choose another output") from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield folder
        finally:
            _leave_no_trace(folder, made)
            fcntl.flock(lock, fcntl.LOCK_UN)  # data workers have it open too, and may outlive this
    finally:
        lock.close()


def _leave_no_trace(folder: Path, made: list[Path]) -> None:
    """Remove the lock from a folder that holds nothing else, and the folders that were made for it, if they are empty."""
    with suppress(OSError):
        if [path.name for path in folder.iterdir()] != [".lock"]:
            return
        (folder / ".lock").unlink()
        for path in made:
            path.rmdir()


def resume_from(folder: Path, resume: str | None) -> Path | None:
    """Return the checkpoint to go on from, or None for a new run.

    Raises InputError when the named one is missing, and when a new run would write over an old one.
    """
    last = folder / "last.ckpt"
    if resume == "auto":
        return last if last.is_file() else None
    if resume is not None:
        if not Path(resume).is_file():
            raise InputError(f"there is no checkpoint {resume} to resume from")
        return Path(resume)
    if last.exists():
        raise InputError(f"{folder} holds a run already ({last.name}); go on with --resume auto, or choose another output")
    return None
