"""Writing: whole or not at all, whatever ends it, and never through a link."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from drivegen.support import files
from drivegen.support.errors import InputError


def killed(work: Callable[[], None]) -> None:
    """Run work in a process of its own, which must end by a kill."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


def die(*args: object, **more: object) -> None:
    os.kill(os.getpid(), 9)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.json").symlink_to(victim)
    files.write_json(tmp_path / "out" / "a.json", {"a": 1})
    assert victim.read_text() == "mine"
    assert not (tmp_path / "out" / "a.json").is_symlink()
    (tmp_path / "out" / "previews").symlink_to(tmp_path)
    with pytest.raises(InputError, match="previews is a symbolic link to"):
        files.make_subfolder(tmp_path / "out", "previews")
    (tmp_path / "mine").symlink_to(tmp_path / "out")  # the user's own way to another disk
    assert files.make_subfolder(tmp_path / "mine", "a", "b").is_dir()


def test_a_full_disk_is_said_with_the_path_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    files.write_atomically(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*/a: No space left on device"):
        files.write_atomically(tmp_path / "a", b"new")
    assert ((tmp_path / "a").read_bytes(), names(tmp_path)) == (b"old", ["a"])
    with pytest.raises(InputError, match=r"cannot write .*/none/a: No such file"):
        files.write_atomically(tmp_path / "none" / "a", b"new")


def test_what_a_kill_leaves_goes_with_the_next_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half_a_folder() -> None:
        with files.replacing(tmp_path / "model") as new:
            (new / "is").touch()
            die()

    killed(half_a_folder)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", die)
        killed(lambda: files.write_atomically(tmp_path / "a", b"new"))
    assert [files.is_temporary(name) for name in names(tmp_path)] == [True]  # the second has removed what the first left
    # One that another process is still writing stays.
    held = tmp_path / ".b.0123456789abcdef.tmp"
    held.write_text("half")
    with held.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        files.write_atomically(tmp_path / "a", b"new")
        assert names(tmp_path) == [held.name, "a"]
    files.sweep(tmp_path, again=True)
    assert names(tmp_path) == ["a"]


@pytest.mark.slow
@pytest.mark.parametrize("one_step", [True, False])
@pytest.mark.parametrize("at", range(4))
def test_a_folder_is_old_or_new_whenever_the_kill_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_step: bool, at: int
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "is").write_text("old")
    if not one_step:
        monkeypatch.setattr(ctypes, "CDLL", lambda *args, **more: object())
    real = {name: getattr(os, name) for name in ("replace", "fsync")}
    steps = iter(range(10))

    def step(name: str) -> Callable[..., None]:
        return lambda *args, **more: die() if next(steps) == at else real[name](*args, **more)

    def work() -> None:
        for name in real:
            monkeypatch.setattr(os, name, step(name))
        with files.replacing(folder) as new:
            (new / "is").write_text("new")
            files.write_atomically(new / "more", b"")
        die()

    killed(work)
    files.recover(folder)
    assert (folder / "is").read_text() in ("old", "new")
    with files.replacing(folder) as new:
        (new / "is").write_text("newest")
    assert (folder / "is").read_text() == "newest"
    assert (names(folder), names(tmp_path)) == (["is"], ["model"])


def test_replacing_through_the_users_link_and_after_an_error(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    with files.replacing(tmp_path / "run") as new:
        (new / "is").write_text("new")
    assert (tmp_path / "run").is_symlink()
    assert (tmp_path / "disk" / "is").read_text() == "new"
    with pytest.raises(RuntimeError), files.replacing(tmp_path / "run") as new:
        raise RuntimeError
    assert (names(tmp_path), names(tmp_path / "disk")) == (["disk", "run"], ["is"])
