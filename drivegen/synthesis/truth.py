"""What is true of an edited frame: its sweep, and of each box how much is seen of it and how many points it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from drivegen.datasets.nuscenes.files import points_per_box
from drivegen.scene import Box3D, Frame
from drivegen.synthesis.lidar import derived, read_sweep, touched
from drivegen.synthesis.sensor import cast
from drivegen.synthesis.variants import Edited
from drivegen.synthesis.visibility import Seen, level, seen
from drivegen.synthesis.walls import Walls


@dataclass(frozen=True)
class Truth:
    """A frame's sweep and what follows from it.

    sweep is the file's content; lidar says where it comes from: "recorded" (the source's own), "edited", or "cast" on boxes and
    level ground, where the source has none. boxes are (visibility, number of points), box by box, None for one that is left out
    because no camera sees it.
    """

    sweep: bytes
    lidar: str
    boxes: tuple[tuple[int, int] | None, ...]


def truth(frame: Frame, edited: Edited, only_seen: bool = False) -> Truth:
    """Return what is true of an edited frame; an object that a camera sees has at least one point.

    Args:
        frame: with the source's sweep, where there is one.
        edited: what was changed in it.
        only_seen: leave out boxes that no camera sees.

    Raises InputError for a sweep that cannot be read.
    """
    boxes, pose = frame.boxes, frame.global_SE3_ego @ frame.ego_SE3_lidar
    path = frame.lidar_path
    there = path is not None and path.is_file() and path.stat().st_size > 0  # without a lidar an empty file is written
    if path is not None and there:
        before = read_sweep(path)
        points = derived(before, pose, edited.changes, boxes) if edited.changes else before
        kind = "edited" if edited.changes else "recorded"
        walls = Walls(pose.transform(before[:, :3]), edited.before, frame.global_SE3_ego, pose.translation)
    else:
        points, kind, walls = cast(boxes, frame.global_SE3_ego, pose), "cast", None
    views = seen(frame, boxes)
    counts = points_per_box(frame, points)
    bare = [i for i, (view, count) in enumerate(zip(views, counts, strict=True)) if not count and len(view.places)]
    if bare:
        more = touched(bare, boxes, pose, [view.places for view in views])
        points, kind = np.concatenate([points, more]), "cast" if kind == "cast" else "edited"
        counts = points_per_box(frame, points)
    levels = [_level(box, view, edited, walls) for box, view in zip(boxes, views, strict=True)]
    kept = [not only_seen or len(view.places) > 0 for view in views]
    found = tuple((seen_level, count) if keep else None for seen_level, count, keep in zip(levels, counts, kept, strict=True))
    return Truth(points.astype("<f4").tobytes(), kind, found)


def _level(box: Box3D, view: Seen, edited: Edited, walls: Walls | None) -> int:
    """Return a box's level of visibility.

    Of what stands where it stood, and is seen by the same cameras, no more is seen than in the source, where walls hide, too.
    """
    moved = any(after is box for _, after in edited.changes)
    share = view.share
    if share and walls is not None and (moved or edited.other_rig):
        share *= 1 - walls.share_hidden(view.places)
    found = level(share)
    return found if moved or edited.other_rig or box.visibility is None else min(found, box.visibility)


def annotated(frame: Frame, found: Sequence[Sequence[int] | None]) -> Frame:
    """Return a frame with the boxes of its truth.

    Args:
        frame: the frame that it is of.
        found: `Truth.boxes`, also as JSON holds them.
    """
    boxes = tuple(
        replace(box, visibility=about[0], num_lidar_pts=about[1])
        for box, about in zip(frame.boxes, found, strict=True)
        if about is not None
    )
    return replace(frame, boxes=boxes)
