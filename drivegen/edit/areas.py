"""Which part of each recorded picture an edit draws anew: where a changed object and its shadow were, and will be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from drivegen.edit.changes import Change
from drivegen.raster import box_numbers
from drivegen.raster.object_masks import MOST_SHADOW_M, ground_about, margin_px
from drivegen.scene import Box3D, Camera, Frame

Mask = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Area:
    """What is drawn anew of one recorded picture.

    alpha (H, W) float32 from 0, recorded, to 1, drawn; seen is the number of pixels in which a changed object itself is seen.
    """

    alpha: Mask
    seen: int

    @property
    def bounds(self) -> tuple[int, int, int, int] | None:
        """Left, top, right, bottom of what is drawn anew, in pixels; None where nothing is."""
        rows, columns = np.flatnonzero(self.alpha.any(1)), np.flatnonzero(self.alpha.any(0))
        return None if not len(rows) else (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def areas(before: Frame, after: Frame, changes: Sequence[Change]) -> dict[str, Area]:
    """Return what an edit draws anew in each camera's recorded picture.

    A changed object counts where it is in front: boxes that do not change and are nearer hide it, there the recorded picture
    stays. Its shadow is taken to fall around it, since a dataset does not say where the light comes from.

    Args:
        before: the recorded frame.
        after: the edited one.
        changes: of `Edits.apply`.
    """
    changed = [change for change in changes if not change.is_none]
    return {camera.channel: _area(replace(camera, resize=None), before, after, changed) for camera in before.cameras}


def _area(camera: Camera, before: Frame, after: Frame, changes: Sequence[Change]) -> Area:
    width, height = camera.image_size
    core, seen = np.zeros((height, width), bool), np.zeros((height, width), bool)
    ends = [(before, [c.before for c in changes]), (after, [c.after for c in changes])]
    gone = {id(box) for _, boxes in ends for box in boxes if box is not None}
    for frame, boxes in ends:
        own = [box for box in boxes if box is not None and _may_be_seen(camera, box)]
        if not own:
            continue
        numbers, _ = box_numbers(frame, camera)
        index = {id(box): i for i, box in enumerate(frame.boxes)}
        for box in own:
            seen |= numbers == index[id(box)]
            core |= seen | (ground_about(camera, box) & (numbers < 0))
    if not core.any():
        return Area(np.zeros((height, width), np.float32), 0)
    margin = margin_px(width)
    kept = _in_front(camera, before, after, gone, changes)
    # A box reaches further than the object in it, so the area fades within those in front.
    return Area(feathered(core, margin) * feathered(~kept, margin), int(seen.sum()))


def feathered(core: NDArray[np.bool_], margin: int) -> Mask:
    """Return 1 within an area, falling to 0 over `margin` pixels around it."""
    distance = cv2.distanceTransform((~core).astype(np.uint8), cv2.DIST_L2, 5)
    return np.clip(1 - distance / margin, 0, 1).astype(np.float32)


def _may_be_seen(camera: Camera, box: Box3D) -> bool:
    """Tell whether something of a box and its shadow is before the camera and may be in its picture."""
    reach = float(np.linalg.norm(box.size_wlh_m)) / 2 + MOST_SHADOW_M
    place = camera.global_SE3_camera.inverse().transform(box.global_SE3_object.translation)
    return bool(place[2] > -reach)


def _in_front(
    camera: Camera, before: Frame, after: Frame, gone: set[int], changes: Sequence[Change]
) -> NDArray[np.bool_]:  # fmt: skip
    """Return where boxes that do not change are in front of all that does, (H, W)."""
    width, height = camera.image_size
    here = camera.global_SE3_camera.translation
    boxes = [box for c in changes for box in (c.before, c.after) if box is not None and _may_be_seen(camera, box)]
    nearest = min((float(np.linalg.norm(box.global_SE3_object.translation - here)) for box in boxes), default=0.0)
    still = tuple(box for box in before.boxes if id(box) not in gone)
    nearer = tuple(b for b in still if float(np.linalg.norm(b.global_SE3_object.translation - here)) < nearest)
    if not nearer:
        return np.zeros((height, width), bool)
    return box_numbers(replace(before, boxes=nearer), camera)[0] >= 0
