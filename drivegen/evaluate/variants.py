"""What is generated for a measurement: which frames, with which conditions, from which seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import radians

from drivegen.scene import Box3D, Frame

TURNED = "CAM_FRONT"
TURN_RAD = radians(20.0)

ALL = "all"
"""The column of the table in which every condition is there."""

KINDS = ("plain", "boxes", "second", "turned")
"""plain; with another frame's boxes; from another seed; with the front camera turned."""


@dataclass(frozen=True)
class Variant:
    """One set of generated images: a column, what is changed, and whether it needs the city or PandaSet."""

    name: str
    column: str
    kind: str = "plain"
    dataset: str = "city"


def columns(nulled: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Name the columns of the table and the plugins that are null in each: none, then each of `nulled` by itself."""
    return {ALL: (), **{f"no_{name}": (name,) for name in nulled}}


def variants(nulled: Sequence[str] = ()) -> tuple[Variant, ...]:
    """List every variant, the most important first; each plugin in `nulled` has a column in which it is null."""
    names = columns(nulled)
    plain = [Variant(column, column) for column in names]
    others = [Variant(f"{column}-{kind}", column, kind) for column in names for kind in KINDS[1:]]
    real = [Variant(f"pandaset-{column}", column, "plain", "pandaset") for column in names]
    return (*plain, *others, *real, Variant("null", "null"))


@dataclass(frozen=True, order=True)
class Key:
    """A frame of the measurement: scene number and frame number within it."""

    scene: int
    frame: int

    @property
    def name(self) -> str:
        """Folder name: `0003-07`."""
        return f"{self.scene:04d}-{self.frame:02d}"


def noise_seed(base: int, key: Key, second: bool = False) -> int:
    """Return the seed of a frame's noise.

    Args:
        base: the measurement's seed.
        key: the frame.
        second: return the seed of the second drawing.
    """
    return base * 1_000_000 + key.scene * 1_000 + key.frame * 2 + int(second)


def with_boxes_of(frame: Frame, other: Frame) -> Frame:
    """Replace a frame's boxes by another frame's, at the same places relative to the ego."""
    here_SE3_there = frame.global_SE3_ego @ other.global_SE3_ego.inverse()

    def moved(box: Box3D) -> Box3D:
        pose = here_SE3_there @ box.global_SE3_object
        return replace(box, global_SE3_object=pose, velocity_mps=here_SE3_there.rotation @ box.velocity_mps)

    return replace(frame, boxes=tuple(moved(box) for box in other.boxes))


def turned(frame: Frame, key: Key) -> Frame:
    """Turn the front camera by 20°: to the left in even frames, to the right in odd ones."""
    return frame.move_camera(TURNED, yaw_rad=TURN_RAD if key.frame % 2 == 0 else -TURN_RAD)


def donor(key: Key, scenes: int) -> Key:
    """Choose the frame whose boxes replace a frame's own: the same moment of the next scene."""
    return Key((key.scene + 1) % scenes, key.frame)
