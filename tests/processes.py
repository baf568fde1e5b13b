"""The processes of a run, found on this machine: for tests that kill them."""

from __future__ import annotations

from pathlib import Path


def below(process: int) -> list[int]:
    """List the processes that one has started, theirs too."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [process]
    while todo:
        more = children.get(todo.pop(), [])
        found += more
        todo += more
    return found


def workers_of(process: int) -> list[int]:
    """List the processes below one that do drivegen's work: local workers and Ray's."""
    found = []
    for number in below(process):
        try:
            command = Path(f"/proc/{number}/cmdline").read_bytes()
        except OSError:
            continue
        if b"drivegen.workers." in command or command.startswith(b"ray::"):
            found.append(number)
    return found
