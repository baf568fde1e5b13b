"""Writing files and folders: atomically, never through a symbolic link, under temporary names that cannot be guessed."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from drivegen.support.errors import CannotWrite, InputError

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.(?P<end>tmp|new|old)")
_swept: set[tuple[int, Path]] = set()
"""Folders (by process) in which leftovers of killed processes were looked for."""


def is_temporary(name: str) -> bool:
    """Tell whether a file name is a temporary one of `write_atomically` or `replacing`."""
    return _TEMPORARY.fullmatch(name) is not None


def write_atomically(path: Path, data: bytes | memoryview, sync: bool = True) -> None:
    """Write a file so that a crash leaves the old or the new content, never a part; a symbolic link is replaced, not followed.

    Args:
        path: the file; its folder must exist.
        data: its new content.
        sync: wait until the data is on the disk, so that it survives a loss of power.

    Raises CannotWrite, an InputError, naming the path where the disk is full or the folder cannot be written to.
    """
    with streamed(path, sync) as file:
        file.write(data)


@contextmanager
def streamed(path: Path, sync: bool = True) -> Iterator[BinaryIO]:
    """Give a file to write into piece by piece, which is at its path, as with `write_atomically`, after the block.

    Args:
        path: the file; its folder must exist.
        sync: wait until the data is on the disk.
    """
    try:
        sweep(path.parent)
        temporary, handle = _new_file(path)
        try:
            with open(handle, "wb") as file:
                yield file
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if sync:
            sync_folder(path.parent)
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_in(source: str | Path, names: Sequence[str], what: str) -> Path:
    """Return a file: the source itself, or where that is a folder the first of some names in it.

    Args:
        source: file or folder.
        names: in the order in which they are looked for.
        what: the file holds, for the InputError where the folder has none.
    """
    path = Path(source).expanduser()
    if not path.is_dir():
        return path
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        raise InputError(f"{path} holds no {what}: none of {', '.join(names)}; name the file itself")
    return found


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically."""
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refuse_link(path: Path) -> Path:
    """Return a path; raises InputError where a symbolic link is there."""
    if path.is_symlink():
        raise InputError(f"{path} is a symbolic link to {os.readlink(path)}; remove it, or choose another output")
    return path


def make_subfolder(root: Path, *names: str) -> Path:
    """Make and return a folder below root.

    Raises InputError where one of the names is a symbolic link. The root itself may be one, since the user chose it; its
    content may come from elsewhere, and a link in it would redirect what is written.
    """
    folder = root
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            folder = refuse_link(folder / name)
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise CannotWrite(f"cannot make the folder {folder}: {error.strerror or error}") from error
    return folder


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write into, which replaces `folder` at the end of the block; an exception leaves the old one as
    it was.

    The two are exchanged in one step, so that a killed process leaves either the old or the new one. Where the file system has
    no such step (some network ones) there are two, and `recover` completes them. A symbolic link to a folder stays one.
    """
    folder = folder.resolve() if folder.is_symlink() else folder
    if folder.parent.exists() and not folder.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder.parent))
    folder.parent.mkdir(parents=True, exist_ok=True)
    recover(folder)
    sweep(folder.parent)
    around, lock = _new_folder(folder)
    new = around / folder.name  # the lock is around it, so that who writes into it may lock it too
    try:
        new.mkdir()
        yield new
        if folder.exists():
            _change_places(new, folder)
        else:
            os.replace(new, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(around, ignore_errors=True)  # with the old folder in it, after the change of places
        os.close(lock)


def recover(folder: Path) -> None:
    """Put back a folder that a process was about to replace when it was killed between its two steps."""
    if folder.exists() or not folder.parent.is_dir():
        return
    for path in folder.parent.glob(f".{folder.name}.*.old"):
        if _TEMPORARY.fullmatch(path.name) and not _is_held(path) and not folder.exists():
            os.replace(path, folder)


def sweep(folder: Path, again: bool = False) -> None:
    """Remove what killed processes left half-written in a folder; once per folder and process, unless `again`."""
    key = (os.getpid(), folder)
    if key in _swept and not again:
        return
    _swept.add(key)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in list(entries):
            found = _TEMPORARY.fullmatch(entry.name)
            if found is None or _is_held(path := Path(entry.path)):
                continue
            if found["end"] == "old":
                recover(path.with_name(found["name"]))
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _new_file(path: Path) -> tuple[Path, int]:
    """Make a new file beside path, and hold it as long as it is open, so that no other process takes it for a leftover."""
    while True:
        temporary = unforeseen(path)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        if _hold(temporary, handle):
            return temporary, handle


def _new_folder(path: Path) -> tuple[Path, int]:
    while True:
        new = unforeseen(path, "new")
        new.mkdir()
        handle = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if _hold(new, handle):
            return new, handle


def unforeseen(path: Path, end: str = "tmp") -> Path:
    """Return a temporary name beside path that cannot be guessed; `end` tells files, new folders and old folders apart."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.{end}")


def _hold(path: Path, handle: int) -> bool:
    """Lock what was just made; False (and closed) where another process took it for a leftover in that moment."""
    with suppress(OSError):  # a network file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if is_same(path, handle):
        return True
    os.close(handle)
    return False


def is_same(path: Path, handle: int) -> bool:
    """Tell whether an open file is still the one at a path."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    opened = os.fstat(handle)
    return (there.st_dev, there.st_ino) == (opened.st_dev, opened.st_ino)


def _is_held(path: Path) -> bool:
    """Tell whether a process holds a file or folder; what cannot be opened counts as held, a link never does."""
    if path.is_symlink():
        return False
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return path.exists()
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _change_places(new: Path, folder: Path) -> None:
    """Let two folders change names, in one step where the system can."""
    with suppress(AttributeError):  # not Linux
        exchange = ctypes.CDLL(None, use_errno=True).renameat2
        here, in_one_step = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if exchange(here, os.fsencode(new), here, os.fsencode(folder), in_one_step) == 0:
            return
    old = unforeseen(folder, "old")
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.replace(folder, old)
        os.replace(new, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(handle)
