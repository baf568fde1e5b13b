"""The label audit of a dataset in the making: what a referee does not find in the pictures, and what it finds without a box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import cv2
import numpy as np
from PIL import Image

from drivegen.datasets.nuscenes.parts import Part
from drivegen.evaluate import judges
from drivegen.evaluate.judges import Judge
from drivegen.evaluate.metrics.control import BoxEvidence, Invented, box_evidence, invented
from drivegen.evaluate.metrics.expected import expected
from drivegen.scene import Frame
from drivegen.synthesis.recipe import LabelAudit
from drivegen.synthesis.variants import Edited

_MARGIN_PX = 2
_NEAR_PX = 5
"""What is painted over: a rectangle and this much around it; and from how near its colours come."""

Pictures = Mapping[str, Image.Image]


@cache
def referee() -> Judge:
    """Load the referee once; it computes on the CPU, so that its verdicts depend on pictures alone."""
    return judges.committed()


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the referee says of a frame: the boxes that were looked for, and the vehicles without a box."""

    rules: LabelAudit
    boxes: tuple[BoxEvidence, ...]
    invented: tuple[Invented, ...]

    @property
    def omitted(self) -> frozenset[str]:
        """Instances of the boxes that are not in the pictures."""
        return frozenset(box.instance for box in self.boxes if box.evidence < self.rules.found_at)

    @property
    def drops_frame(self) -> bool:
        """Whether the frame is left out of the dataset."""
        return self.rules.invented == "drop" and bool(self.invented)

    def line(self, token: str, images: int) -> dict[str, Any]:
        """Return the frame's line of the dataset's audit.

        Args:
            token: its sample's.
            images: how many pictures it has.
        """
        return {
            "sample_token": token, "images": images, "looked_for": len(self.boxes), "frame_dropped": self.drops_frame,
            "omitted": [
                {"instance_token": box.instance, "class": box.category, "evidence": round(box.evidence, 4),
                 "camera": box.channel, "rectangle": list(box.rectangle)}
                for box in self.boxes if box.instance in self.omitted
            ],
            "invented": [
                {"camera": each.channel, "rectangle": list(each.rectangle), "pixels": each.pixels} for each in self.invented
            ],
        }  # fmt: skip


def judged(rules: LabelAudit, frame: Frame, pictures: Pictures) -> Verdict:
    """Hold a frame's boxes against its generated pictures.

    Args:
        rules: of the recipe.
        frame: at the pictures' size.
        pictures: by camera channel.
    """
    judge = referee()
    views = [expected(frame, channel) for channel in pictures]
    labels = dict(zip(pictures, judge(np.asarray(picture) for picture in pictures.values()), strict=True))
    return Verdict(rules, tuple(box_evidence(frame, labels, views, judge.groups)), tuple(invented(labels, views)))


def masked(pictures: Pictures, verdict: Verdict) -> dict[str, Image.Image]:
    """Paint over the vehicles without a box, where the rules say so, with what is around them (Bertalmio et al. 2001).

    An even patch would not do: with its edges it looks like a vehicle itself.
    """
    out = dict(pictures)
    if verdict.rules.invented != "mask":
        return out
    for channel in {each.channel for each in verdict.invented}:
        pixels = np.array(out[channel])
        hole = np.zeros(pixels.shape[:2], np.uint8)
        for left, top, right, bottom in (each.rectangle for each in verdict.invented if each.channel == channel):
            hole[max(top - _MARGIN_PX, 0) : bottom + _MARGIN_PX, max(left - _MARGIN_PX, 0) : right + _MARGIN_PX] = 1
        pixels[hole > 0] = pixels[hole == 0].mean(0).round() if (hole == 0).any() else 0  # inpaint starts from what is there
        out[channel] = Image.fromarray(cv2.inpaint(pixels, hole, _NEAR_PX, cv2.INPAINT_NS))
    return out


def without(frame: Frame, edited: Edited, gone: frozenset[str]) -> tuple[Frame, Edited]:
    """Take boxes out of a frame as if the recipe had dropped them, so that their lidar points go too.

    Args:
        frame: the edited frame.
        edited: what was changed in it.
        gone: instances.
    """
    ids = {id(box) for box in frame.boxes if box.instance in gone}
    changes = [(old, None if id(new) in ids else new) for old, new in edited.changes]
    changed = {id(new) for _, new in edited.changes if new is not None}
    changes += [(box, None) for box in frame.boxes if id(box) in ids - changed]
    kept = tuple((old, new) for old, new in changes if old is not None or new is not None)
    return replace(frame, boxes=tuple(box for box in frame.boxes if id(box) not in ids)), replace(edited, changes=kept)


def marked(rows: Part, verdict: Verdict) -> Part:
    """Add to each annotation that was looked for its evidence, and what the rules say: `weight`, or `omitted`."""
    found = {box.instance: box.evidence for box in verdict.boxes}
    for row in rows.get("sample_annotation", ()):
        evidence = found.get(row["instance_token"])
        row["evidence"] = None if evidence is None else round(evidence, 4)
        missing = evidence is not None and evidence < verdict.rules.found_at
        if verdict.rules.omitted == "weight":
            row["weight"] = round((evidence or 0.0) / verdict.rules.found_at, 4) if missing else 1.0
        elif verdict.rules.omitted == "flag":
            row["omitted"] = missing
    return rows


def summary(rules: LabelAudit, lines: Sequence[Mapping[str, Any]]) -> str:
    """Say in one sentence what an audit found and what was done.

    Args:
        rules: of the recipe.
        lines: of the dataset's audit.
    """
    omitted, looked = sum(len(line["omitted"]) for line in lines), sum(line["looked_for"] for line in lines)
    strange, frames = sum(len(line["invented"]) for line in lines), sum(bool(line["invented"]) for line in lines)
    done = {"flag": "flagged", "weight": "given a smaller weight", "drop": "dropped"}[rules.omitted]
    then = {"keep": "left as they are", "mask": "painted over", "drop": "dropped with their frames"}[rules.invented]
    return (
        f"{omitted} of {looked} boxes that were looked for are not in the pictures: {done}; "
        f"{strange} vehicles without a box in {frames} of {len(lines)} frames: {then}"
    )
