"""manifest.jsonl: a line an image, enough to make it again and to know that it is the same."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drivegen.pipeline.views import Views
from drivegen.saved.model import Model, library_versions
from drivegen.support.errors import InputError
from drivegen.support.files import sha256, write_atomically

NAME = "manifest.jsonl"
_EVERY_S = 5.0


class Manifest:
    """The manifest of an output folder; frames that are generated again replace their old lines.

    It is rewritten atomically, at most every few seconds and when closed (it is a context manager).
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._lines: dict[str, list[dict[str, Any]]] = {}
        if self.path.exists():
            for number, text in enumerate(self.path.read_text(encoding="utf-8").splitlines(), 1):
                try:
                    line = json.loads(text)
                    self._lines.setdefault(line["sample_token"], []).append(line)
                except (ValueError, KeyError, TypeError) as error:
                    raise InputError(f"{self.path}, line {number} is not a manifest's; move the file away") from error
        self._written = time.monotonic()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *error: object) -> None:
        self.write()

    def add(self, lines: list[dict[str, Any]]) -> None:
        """Take the lines of one frame."""
        self._lines[lines[0]["sample_token"]] = lines
        if time.monotonic() - self._written > _EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the file."""
        lines = [json.dumps(line, ensure_ascii=False) for group in self._lines.values() for line in group]
        if lines:
            write_atomically(self.path, ("\n".join(lines) + "\n").encode())
        self._written = time.monotonic()


def describe(views: Views, model: Model, folder: Path, root: Path) -> list[dict[str, Any]]:
    """Return a line for each image of a frame that was saved in folder, with paths relative to root."""
    s = views.settings
    common = {
        "model": str(model.folder or ""), "model_sha256": model.digest, "plugins": dict(s.scales), "without": list(s.without),
        "prompt": s.prompt, "negative_prompt": s.negative_prompt, "sampler": s.sampler, "steps": s.steps,
        "guidance": dict(s.guidance) if isinstance(s.guidance, Mapping) else s.guidance,
        "ranges": {name: list(ends) for name, ends in s.ranges.items()}, "regions": list(s.regions), "classifier": s.classifier,
        "loras": dict(s.loras), "guidance_rescale": s.guidance_rescale, "noise": s.noise,
        "agreement": s.agreement, "strength": s.strength, "seed": s.seed, "size": list(s.size), "dtype": s.dtype,
        "device": s.device, "threads": s.threads, "versions": library_versions(),
    }  # fmt: skip
    lines = []
    for channel in views:
        path = folder / f"{channel}.png"
        name = path.relative_to(root).as_posix()
        lines.append({"sample_token": views.frame.token, "camera": channel, "file": name, "sha256": sha256(path), **common})
    return lines
