"""What is seen in one frame's pictures: all counts that the figures are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from drivegen.evaluate.judges import Judge
from drivegen.evaluate.metrics.consistency import colour_error, correspondences, follow
from drivegen.evaluate.metrics.control import BoxEvidence, Invented, box_evidence, invented, overlaps
from drivegen.evaluate.metrics.expected import Expected, expected
from drivegen.features.embedding import Embedding
from drivegen.scene import Frame
from drivegen.scene.geometry import Array

Images = Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class Seen:
    """One frame: pixel overlaps by group, evidence of boxes, invented objects, features (V, D), colour errors [sum, count].

    errors has "views" and "tracks", and "views_other" and "tracks_other": the same points read in pictures of another frame.
    """

    overlaps: Mapping[str, Array] = field(default_factory=dict)
    boxes: tuple[BoxEvidence, ...] = ()
    invented: tuple[Invented, ...] = ()
    features: NDArray[np.float32] | None = None
    errors: Mapping[str, Array] = field(default_factory=dict)


def see(frame: Frame, images: Images, judge: Judge, embedding: Embedding | None) -> tuple[Seen, list[Expected]]:
    """Look at a frame's pictures; returns what is seen and what is expected in each view.

    Args:
        frame: at the pictures' size.
        images: (H, W, 3) by channel.
        judge: the referee.
        embedding: of the realism figures; None leaves them out.
    """
    views = [expected(frame, channel) for channel in images]
    labels = dict(zip(images, judge(images.values()), strict=True))
    features = None if embedding is None else embedding(images.values())
    boxes = tuple(box_evidence(frame, labels, views, judge.groups))
    return Seen(overlaps(labels, views), boxes, tuple(invented(labels, views)), features), views


@dataclass(frozen=True, eq=False)
class Moment:
    """A frame with its pictures and what is expected in them, while its neighbours in time are compared with it."""

    frame: Frame
    images: Images
    views: list[Expected]


def compare_views(seen: Seen, here: Moment, before: Moment | None, other: Images | None) -> Seen:
    """Add the errors between overlapping views, and between the frame before and this one along tracks.

    Args:
        seen: what is seen here.
        here: the frame.
        before: the frame before it in the same scene; None where there is none.
        other: pictures of another frame, by channel, for how large the error is by chance; None leaves that out.
    """
    frame, images = here.frame, here.images
    errors: dict[str, Array] = {}
    cameras = replace(frame, cameras=tuple(camera for camera in frame.cameras if camera.channel in images))
    for pair in correspondences(cameras, {view.channel: view.depth_m for view in here.views}):
        _add(errors, "views", colour_error(pair, images[pair.a], images[pair.b]))
        if other is not None and pair.b in other:
            _add(errors, "views_other", colour_error(pair, images[pair.a], other[pair.b]))
    if before is not None:
        for was in before.views:
            for now in here.views:
                cameras_of = before.frame.camera(was.channel), frame.camera(now.channel)
                pair = follow(*cameras_of, was, now, before.frame, frame)
                if not len(pair.rows):
                    continue
                _add(errors, "tracks", colour_error(pair, before.images[pair.a], images[pair.b]))
                if other is not None and pair.b in other:
                    _add(errors, "tracks_other", colour_error(pair, before.images[pair.a], other[pair.b]))
    return replace(seen, errors=errors)


def _add(errors: dict[str, Array], name: str, row: Array) -> None:
    errors[name] = errors.get(name, np.zeros(2)) + row
