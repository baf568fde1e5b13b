"""What is changed of a frame: objects, by name and by place, and free parts of the pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from drivegen.scene import DETECTION_CLASSES, Box3D, Frame
from drivegen.scene.box_changes import placed, shifted, swapped, usual_size
from drivegen.scene.room import collisions, ego_box
from drivegen.support.errors import InputError, nearest
from drivegen.support.values import number, text

FURTHEST_M = 200.0
"""Nothing is put further from the vehicle than this, as no ground is drawn there."""


@dataclass(frozen=True)
class Insert:
    """An object that is put on the ground, of its class's usual size: metres ahead and to the left, degrees from ahead."""

    category: str
    x_m: float
    y_m: float
    yaw_deg: float = 0.0

    def __post_init__(self) -> None:
        _check_class(self.category)
        _check_numbers(self, x_m=FURTHEST_M, y_m=FURTHEST_M, yaw_deg=3600.0)


@dataclass(frozen=True)
class Move:
    """An object that is moved along the vehicle's axes, ahead and to the left, and turned where it stands."""

    instance: str
    dx_m: float
    dy_m: float
    dyaw_deg: float = 0.0

    def __post_init__(self) -> None:
        text(self.instance, "the instance that is moved")
        _check_numbers(self, dx_m=FURTHEST_M, dy_m=FURTHEST_M, dyaw_deg=3600.0)


@dataclass(frozen=True)
class Replace:
    """An object in whose place one of another class is put, of that class's usual size."""

    instance: str
    category: str

    def __post_init__(self) -> None:
        text(self.instance, "the instance that is replaced")
        _check_class(self.category)


@dataclass(frozen=True)
class Change:
    """An object before and after: None where there is none, and equal where nothing changed."""

    what: str
    before: Box3D | None
    after: Box3D | None

    @property
    def is_none(self) -> bool:
        """Whether nothing changed."""
        a, b = self.before, self.after
        if a is None or b is None:
            return a is b
        same = np.allclose(a.global_SE3_object.matrix, b.global_SE3_object.matrix, rtol=0, atol=1e-9)
        return same and a.category == b.category and np.array_equal(a.size_wlh_m, b.size_wlh_m)


@dataclass(frozen=True, kw_only=True)
class Edits:
    """All changes of one frame; they are made in this order: remove, replace, move, insert.

    Args:
        remove: instances.
        replace: instances, and the class of what is put in their place.
        move: instances, and how far they are moved.
        insert: new objects.
        masks: parts of the pictures that are drawn anew besides, by camera: white, True, 1 (a file, PIL image or array).
        keep: parts of the pictures that stay as recorded whatever changes, such as the vehicle's own body, likewise.
        prompt: a description in place of the frame's.
    """

    remove: tuple[str, ...] = ()
    replace: tuple[Replace, ...] = ()
    move: tuple[Move, ...] = ()
    insert: tuple[Insert, ...] = ()
    masks: Mapping[str, Any] = field(default_factory=dict)
    keep: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = None

    @property
    def of_objects(self) -> bool:
        """Whether objects change."""
        return bool(self.remove or self.replace or self.move or self.insert)

    def apply(self, frame: Frame) -> tuple[Frame, tuple[Change, ...]]:
        """Return the edited frame, and each object that an edit names; raises InputError for a name that it does not have."""
        touched: dict[str, tuple[str, Box3D | None]] = {}
        edited = frame

        def first(instance: str, word: str) -> None:
            box = edited.box(instance)  # refuses what is removed already, too
            touched.setdefault(instance, (f"{box.category} {instance!r}, which is {word},", box))

        for instance in self.remove:
            first(instance, "removed")
            edited = edited.remove_box(instance)
        for swap in self.replace:
            first(swap.instance, "replaced")
            size = usual_size(swap.category)
            assert size is not None  # checked
            edited = _with(edited, swap.instance, swapped(edited.box(swap.instance), swap.category, size))
        for move in self.move:
            first(move.instance, "moved")
            old, turn = edited.box(move.instance), math.radians(move.dyaw_deg)
            edited = _with(edited, move.instance, shifted(old, frame.global_SE3_ego, (move.dx_m, move.dy_m), turn))
        for new in self.insert:
            name = next(n for i in range(len(edited.boxes) + 1) if not _has(edited, n := f"inserted-{i + 1}"))
            yaw = math.radians(new.yaw_deg)
            box = placed(new.category, frame.global_SE3_ego, (new.x_m, new.y_m), yaw, name, frame.boxes)
            assert box is not None  # checked
            touched[name] = (f"{new.category} at {new.x_m:g},{new.y_m:g}, which is inserted,", None)
            edited = edited.add_box(box)
        changes = tuple(
            Change(what, before, edited.box(name) if _has(edited, name) else None) for name, (what, before) in touched.items()
        )
        return edited, changes


def check_room(frame: Frame, changes: Sequence[Change]) -> None:
    """Raise InputError where a changed object would stand in another one, or in the vehicle itself.

    Args:
        frame: the edited one.
        changes: of `Edits.apply`.
    """
    ego = ego_box(frame.global_SE3_ego)
    for change in changes:
        if change.after is None or change.is_none:
            continue
        found = collisions(change.after, change.before, [*(box for box in frame.boxes if box is not change.after), ego])
        for other in found[:1]:
            where = "the vehicle that carries the cameras" if other is ego else f"{other.category} {other.instance!r}"
            raise InputError(f"frame {frame.token!r}: {change.what} would stand in {where}; choose a free place")


def _has(frame: Frame, instance: str) -> bool:
    return any(box.instance == instance for box in frame.boxes)


def _with(frame: Frame, instance: str, box: Box3D) -> Frame:
    """Return a frame with the box of an instance replaced."""
    names = ("category", "global_SE3_object", "size_wlh_m", "attribute", "joints_m")
    return frame.edit_box(instance, **{name: getattr(box, name) for name in names})


def _check_class(name: str) -> None:
    text(name, "the class of an object")
    if usual_size(name) is None:
        hint = nearest(name, DETECTION_CLASSES)
        raise InputError(f"{name!r:.80} is no class{hint}; there are {', '.join(DETECTION_CLASSES)}")


def _check_numbers(given: Any, **furthest: float) -> None:
    for name, most in furthest.items():
        object.__setattr__(given, name, number(getattr(given, name), name, -most, most))
