"""Prompts of a training: a frame's description within words of one's own."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from drivegen.scene import Frame
from drivegen.support.errors import InputError

_NAME = re.compile(r"\{(.*?)\}")


@dataclass(frozen=True)
class Prompt:
    """Replaces each frame's description; raises InputError for a template that names anything else.

    Args:
        template: text that may name {description} and {location}.
    """

    template: str

    def __post_init__(self) -> None:
        for name in _NAME.findall(self.template):
            if name not in ("description", "location"):
                may = "may name {description} and {location}"
                raise InputError(f"data.prompt = {self.template!r:.100} {may}, not {{{name}}}")

    def __call__(self, frame: Frame) -> Frame:
        values = {"description": frame.description, "location": frame.location}
        return replace(frame, description=_NAME.sub(lambda found: values[found[1]], self.template))
