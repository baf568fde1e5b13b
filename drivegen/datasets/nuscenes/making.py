"""Files and folders that are all created, or none of them."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from drivegen.datasets.nuscenes.schema import writable
from drivegen.support.errors import InputError
from drivegen.support.files import sync_folder, unforeseen
from drivegen.support.signals import ignoring_signals, raised_by_sigterm


class Making:
    """The files and folders created below root so far; staging is a hidden folder, renamed in the last step.

    The work is done when staging no longer exists, so no signal can come between the last step and recording it.
    """

    def __init__(self, root: Path, staging: str) -> None:
        self.root, self.staging = root, root / staging
        self._files: list[Path] = []
        self._folders: list[Path] = []
        self._known: set[Path] = set()
        self._lock: int | None = None

    def folder(self, path: Path) -> None:
        """Create a folder and its missing parents."""
        if path in self._known:
            return
        for part in (*reversed(path.parents), path):
            if not part.exists():
                self._folders.append(part)  # before it is made: to remove what never was is no harm
                part.mkdir(exist_ok=True)
        self._known.add(path)

    def file(self, name: str, data: bytes, sync: bool = False) -> None:
        """Write a new file completely or not at all.

        Args:
            name: relative to root.
            data: its content.
            sync: wait until the data is on the disk.

        Raises InputError where the name leads out of root.
        """
        path = writable(self.root, name, f"dataset {self.root}")
        self.folder(path.parent)
        temporary = unforeseen(path)
        self._files += [temporary, path]
        write_bytes(temporary, data, sync)
        os.replace(temporary, path)
        if sync:
            sync_folder(path.parent)

    def hold(self) -> None:
        """Lock root against other processes, which could come to rely on a file that is removed again."""
        self._lock = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{self.root}: another process is writing a dataset there; wait, or name another") from error
        except OSError:
            pass  # a network file system without locks

    def release(self) -> None:
        """Unlock root."""
        if self._lock is not None:
            os.close(self._lock)

    def undo(self) -> None:
        """Remove what was created, unless the work is done; folders that now hold other files stay."""
        if self.staging.exists():
            for path in reversed(self._files):
                with suppress(OSError):
                    path.unlink()
            shutil.rmtree(self.staging, ignore_errors=True)
        for path in reversed(self._folders):
            with suppress(OSError):
                path.rmdir()


@contextmanager
def making(root: Path, staging: str) -> Iterator[Making]:
    """Create root and, in it, staging; if the block ends before staging is renamed, root is restored.

    Raises InputError when another process is writing there.
    """
    made = Making(root, staging)
    with raised_by_sigterm():
        try:
            made.folder(root)
            made.hold()
            made.folder(made.staging)
            yield made
        except BaseException:
            with ignoring_signals():
                made.undo()
            raise
        finally:
            made.release()


def write_bytes(path: Path, data: bytes, sync: bool = True) -> None:
    """Write a new file, never through a symbolic link.

    Args:
        path: the file, which must not exist.
        data: its content.
        sync: wait until the data is on the disk.
    """
    with path.open("xb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
