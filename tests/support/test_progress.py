"""Progress: one port, which a caller may listen to or silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drivegen.support.errors import InputError
from drivegen.support.progress import VARIABLE, Progress, is_shown, progress, report_to, track

HOUSE = Path(__file__).parents[2]


def test_a_caller_hears_of_every_step() -> None:
    heard: list[Progress] = []
    with report_to(heard.append):
        assert list(track([1, 2], "reading", unit="frames")) == [1, 2]
        with progress("training", 10, "steps", done=4) as advance:
            advance(note="loss 0.5")
            advance(to=10)
    assert [(p.task, p.done, p.total, p.unit, p.note) for p in heard] == [
        ("reading", 0, 2, "frames", ""), ("reading", 1, 2, "frames", ""), ("reading", 2, 2, "frames", ""),
        ("training", 4, 10, "steps", ""), ("training", 5, 10, "steps", "loss 0.5"), ("training", 10, 10, "steps", "loss 0.5"),
    ]  # fmt: skip


def test_what_a_listener_raises_ends_the_work() -> None:
    def enough(state: Progress) -> None:
        if state.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), report_to(enough):
        list(track(range(5), "reading"))


def test_without_a_terminal_there_is_nothing_and_json_where_asked(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_shown()
    list(track(range(3), "reading"))
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv(VARIABLE, "json")
    assert is_shown()
    with progress("rendering", 2, "frames") as advance:
        advance(2)
    with report_to(None):
        list(track(range(3), "silent"))
    out, err = capfd.readouterr()
    assert out == ""
    assert [json.loads(line)["done"] for line in err.splitlines()] == [0, 2]
    monkeypatch.setenv(VARIABLE, "loud")
    with pytest.raises(InputError, match="DRIVEGEN_PROGRESS is 'loud'"):
        list(track(range(3), "reading"))


def test_tasks_within_tasks_share_one_bar(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for _ in track(range(2), "outer [red]"):
        for _ in track(range(2), "inner \x1b]0;title\x07"):
            pass
    assert "title\x07" not in "".join(capfd.readouterr())


def test_no_other_file_draws_bars() -> None:
    folders = [HOUSE / name for name in ("drivegen", "plugins", "bench", "scripts")]
    users = [path for folder in folders for path in folder.rglob("*.py") if "rich.progress" in path.read_text(encoding="utf-8")]
    assert [path.name for path in users] == ["progress.py"], "report through drivegen.support.progress"
    assert not [path for folder in folders for path in folder.rglob("*.py") if "tqdm(" in path.read_text(encoding="utf-8")]
