"""`drivegen generate` on several devices: what each of its processes does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from drivegen.cli import options
from drivegen.cli.generate import Selection, Where, Work, prepared
from drivegen.cli.screen import Screen
from drivegen.pipeline.manifest import Manifest


class _Lines(Manifest):
    """The manifest as it was at the start; new lines go to the process that writes it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.new: list[list[dict[str, Any]]] = []

    def add(self, lines: list[dict[str, Any]]) -> None:
        """Keep the lines of one generation."""
        self.new.append(lines)


def begin(told: Mapping[str, Any]) -> Callable[[str, Callable[[], None]], dict[str, Any]]:
    """Open the data and the model; returns what generates a frame by its token.

    Args:
        told: ``selection``, ``where`` and ``settings`` as on the command line, ``out``, ``device`` and ``threads``.
    """
    torch.set_num_threads(told["threads"])
    selection = Selection(**{**told["selection"], "data": _path(told["selection"]["data"])})
    paths = {name: _path(told["where"][name]) for name in ("config_folder", "vae")}
    lists = {name: tuple(told["where"][name]) for name in ("plugins", "loras", "tuners", "embeddings")}
    where = Where(**{**told["where"], **paths, **lists, "device": told["device"]})
    frames, lines = selection.frames(), _Lines(Path(told["out"]))
    work = prepared(lines.folder, lines, frames, where, options.read(told["settings"]), Screen())
    numbers = {token: number for number, token in enumerate(frames.tokens)}
    return partial(_frame, work, lines, frames, numbers)


def _frame(
    work: Work, lines: _Lines, frames: Any, numbers: Mapping[str, int], token: str, beat: Callable[[], None]
) -> dict[str, Any]:
    kept = work.kept
    lines.new.clear()
    work.frame(frames[numbers[token]], lambda step: beat())
    work.background.wait()
    if token in work.failed:
        raise work.failed.pop(token)
    return {"groups": list(lines.new), "kept": work.kept - kept}


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)
