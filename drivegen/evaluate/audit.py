"""The label audit: boxes that are not in the pictures (omitted), vehicles in the pictures that have no box (invented)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from drivegen.evaluate.evaluation import Looked
from drivegen.evaluate.metrics.control import BoxEvidence, Invented

LISTED = 50
"""As many of the worst are in the report; all of them are in the audit's own file."""


@dataclass(frozen=True, eq=False)
class Audit:
    """What was found wrong with a dataset's labels, the worst first; a box with less evidence than found_at is omitted."""

    looked: Sequence[Looked]
    found_at: float
    omitted: tuple[tuple[Looked, BoxEvidence], ...]
    invented: tuple[tuple[Looked, Invented], ...]

    @property
    def worst_frames(self) -> list[Looked]:
        """The frames with something wrong, the worst first."""
        faults: dict[int, float] = {}
        for each, box in self.omitted:
            faults[id(each)] = faults.get(id(each), 0.0) + badness(box, self.found_at)
        for each, found in self.invented:
            faults[id(each)] = faults.get(id(each), 0.0) + found.share_of_picture**0.5
        return sorted((each for each in self.looked if id(each) in faults), key=lambda each: -faults[id(each)])

    def facts(self) -> dict[str, Any]:
        """Return counts and the worst, as JSON values."""
        boxes = sum(len(each.generated.boxes) for each in self.looked)
        edited = [(each, box) for each in self.looked for box in each.generated.boxes if box.number in each.edited]
        missing = [box for each, box in self.omitted if box.number in each.edited]
        return {
            "found at": self.found_at, "boxes": boxes, "omitted": len(self.omitted), "inserted or moved boxes": len(edited),
            "inserted or moved boxes omitted": len(missing), "invented": len(self.invented),
            "invented in real pictures": sum(len(each.real.invented) for each in self.looked),
            "frames with invented objects": len({id(each) for each, _ in self.invented}),
            "worst boxes": [_box(each, box) for each, box in self.omitted[:LISTED]],
            "largest invented": [_invented(each, found) for each, found in self.invented[:LISTED]],
            "worst frames": [each.pair.generated for each in self.worst_frames[:LISTED]],
        }  # fmt: skip

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield every box with its evidence and every invented object, frame by frame, as JSON values."""
        for each in self.looked:
            for box in each.generated.boxes:
                yield {"kind": "box", **_box(each, box), "found": box.evidence >= self.found_at}
            for found in each.generated.invented:
                yield {"kind": "invented", **_invented(each, found)}


def audit(looked: Sequence[Looked], found_at: float) -> Audit:
    """Sort what is omitted and invented, the worst first.

    Args:
        looked: what was seen.
        found_at: the evidence at which a box is found.
    """
    omitted = [(each, box) for each in looked for box in each.generated.boxes if box.evidence < found_at]
    invented = [(each, found) for each in looked for found in each.generated.invented]
    omitted.sort(key=lambda item: -badness(item[1], found_at))
    invented.sort(key=lambda item: -item[1].share_of_picture)
    return Audit(looked, found_at, tuple(omitted), tuple(invented))


def badness(box: BoxEvidence, found_at: float) -> float:
    """Return how bad it is that a box is not found: more for less evidence and for a larger box."""
    return float((found_at - box.evidence) * box.share_of_picture**0.5)


def _box(each: Looked, box: BoxEvidence) -> dict[str, Any]:
    return {
        "sample": each.pair.generated, "annotation": box.token, "class": box.category, "evidence": round(box.evidence, 4),
        "distance_m": round(box.distance_m, 2), "pixels": box.pixels, "camera": box.channel, "rectangle": list(box.rectangle),
        "edited": box.number in each.edited,
    }  # fmt: skip


def _invented(each: Looked, found: Invented) -> dict[str, Any]:
    return {"sample": each.pair.generated, "camera": found.channel, "rectangle": list(found.rectangle), "pixels": found.pixels}
