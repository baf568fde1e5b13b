"""The lock of an output folder: one run at a time, and nothing but the lock is touched by it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from drivegen.support.errors import InputError
from drivegen.support.locks import LOCK, claimed, locked_folder


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with locked_folder(tmp_path / "a" / "run") as folder:
        with pytest.raises(InputError, match=f"another run \\(process {os.getpid()}\\)"), locked_folder(folder):
            pass
        assert (folder / LOCK).is_file()
    assert not (tmp_path / "a").exists(), "nothing was written, so nothing is left"
    with locked_folder(tmp_path / "run") as folder:
        (folder / "picture").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["picture"]


def test_the_lock_of_a_killed_run_is_taken(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with locked_folder(tmp_path):
            os._exit(9)
    os.waitpid(child, 0)
    assert (tmp_path / LOCK).read_text() == str(child)
    with locked_folder(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())


def test_a_claim_is_one_processs_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "frame"
    with claimed(path) as mine, claimed(path) as other:
        assert (mine, other) == (True, False)
    assert not path.exists()
    child = os.fork()
    if child == 0:
        with claimed(path):
            os._exit(9)
    os.waitpid(child, 0)
    with claimed(path) as mine:
        assert mine, "the one that held it was killed"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda lock, victim: lock.symlink_to(victim), "symbolic link to"),
        (lambda lock, victim: lock.symlink_to(victim.with_name("not there")), "symbolic link to"),
        (lambda lock, victim: os.link(victim, lock), "a hard link to another file"),
        (lambda lock, victim: os.mkfifo(lock), "no plain file"),
        (lambda lock, victim: lock.mkdir(), "cannot write to the output folder"),
    ],
    ids=["link", "dangling link", "hard link", "pipe", "folder"],
)
def test_a_lock_that_leads_elsewhere_is_refused(tmp_path: Path, make: Callable[[Path, Path], None], said: str) -> None:
    victim, folder = tmp_path / "victim.txt", tmp_path / "run"
    victim.write_text("mine")
    folder.mkdir()
    make(folder / LOCK, victim)
    with pytest.raises(InputError, match=said), locked_folder(folder):
        pass
    assert victim.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "victim.txt"]


def test_through_a_link_that_the_user_made(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    with locked_folder(tmp_path / "run"):
        assert (tmp_path / "disk" / LOCK).is_file()


def test_a_lock_of_a_process_that_was_killed_is_waited_for(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    handle = os.open(tmp_path / LOCK, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.write(handle, str(gone.pid).encode())
    later = threading.Timer(0.2, os.close, (handle,))  # as the system closes a killed process's files
    later.start()
    with locked_folder(tmp_path):
        pass
    later.join()
