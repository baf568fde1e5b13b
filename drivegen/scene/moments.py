"""Neighbouring moments: the state of a frame's scene shortly before and after it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from drivegen.scene.boxes import Box3D
from drivegen.scene.cameras import Camera, ring_order
from drivegen.scene.geometry import SE3, items_of, timestamp
from drivegen.support import values
from drivegen.support.errors import InputError

MAX_GAP_S = 1.0
"""Between moments further apart than this no pose is interpolated: what happened there is unknown."""


@dataclass(frozen=True, eq=False)
class Moment:
    """A moment of a frame's scene, before or after it: the ego pose, and what else is known.

    timestamp_us is the time at which the vehicle was at global_SE3_ego; boxes are the objects at that time; cameras are those
    with a picture of that time, each read only when `scene.pictures.load_image` is called. Raises InputError for values of
    another type and for two cameras of one name.
    """

    timestamp_us: int
    global_SE3_ego: SE3
    boxes: tuple[Box3D, ...] = ()
    cameras: tuple[Camera, ...] = ()
    token: str = ""

    def __post_init__(self) -> None:
        where = f"moment {self.token or self.timestamp_us!r}"
        object.__setattr__(self, "timestamp_us", timestamp(self.timestamp_us, where))
        SE3.check(self.global_SE3_ego, f"{where}: global_SE3_ego")
        object.__setattr__(self, "boxes", items_of(self.boxes, Box3D, f"{where}: boxes"))
        cameras = items_of(self.cameras, Camera, f"{where}: cameras")
        channels = [camera.channel for camera in cameras]
        if len(set(channels)) != len(channels):
            raise InputError(f"{where} has two cameras of one name: {sorted(channels)}")
        object.__setattr__(self, "cameras", ring_order(cameras))

    def box(self, instance: str) -> Box3D | None:
        """Return the box of an instance, None where the object is not annotated at this moment."""
        return next((box for box in self.boxes if box.instance == instance and instance), None)

    def camera(self, channel: str) -> Camera | None:
        """Return the camera of that name, None where it has no picture at this moment."""
        return next((camera for camera in self.cameras if camera.channel == channel), None)

    def resized(self, width_px: int, height_px: int) -> Moment:
        """Return this moment with every camera set to generate width_px x height_px images."""
        return replace(self, cameras=tuple(camera.resized(width_px, height_px) for camera in self.cameras))


def ordered(moments: Sequence[Moment], own_us: int, where: str) -> tuple[Moment, ...]:
    """Return moments in time order; raises InputError for two at the same time.

    Args:
        moments: the neighbours of one frame.
        own_us: the frame's own time in microseconds, at which no neighbour may be.
        where: names the frame in the error.
    """
    found = sorted(items_of(moments, Moment, f"{where}: neighbours"), key=lambda moment: moment.timestamp_us)
    times = [moment.timestamp_us for moment in found]
    for time in times:
        if time == own_us:
            raise InputError(f"{where} has a neighbour at its own time, {time} µs; leave it out, or correct timestamp_us")
    for one, other in pairwise(times):
        if one == other:
            raise InputError(f"{where} has two neighbours at one time, {one} µs; leave one out")
    return tuple(found)


def seconds(value: float, what: str) -> float:
    """Return a span of time that is 0 or above, infinity too; InputError for anything else."""
    return math.inf if value == math.inf else values.number(value, what, 0.0)


def around(moments: Sequence[Moment], time_us: int, past_s: float, future_s: float) -> list[Moment]:
    """Return the moments around a time, without the one at the time itself.

    One moment beyond each end is included, so that the state at the very end can be interpolated: recordings rarely have a
    moment exactly there.

    Args:
        moments: in any order.
        time_us: microseconds, on the moments' clock.
        past_s: seconds before it; 0 for none.
        future_s: seconds after it; 0 for none.
    """
    past_s, future_s = seconds(past_s, "past_s"), seconds(future_s, "future_s")
    moments = sorted(moments, key=lambda moment: moment.timestamp_us)
    before = [moment for moment in moments if past_s > 0 and moment.timestamp_us < time_us]
    after = [moment for moment in moments if future_s > 0 and moment.timestamp_us > time_us]
    return [*_reaching(before[::-1], time_us, past_s)[::-1], *_reaching(after, time_us, future_s)]


def _reaching(moments: Sequence[Moment], time_us: int, seconds: float) -> list[Moment]:
    """Return moments, nearest first, up to the first at or beyond a distance in time."""
    out: list[Moment] = []
    for moment in moments:
        out.append(moment)
        if abs(moment.timestamp_us - time_us) >= seconds * 1e6:
            break
    return out


def pose_at(moments: Sequence[Moment], time_us: float, max_gap_s: float = MAX_GAP_S) -> SE3 | None:
    """Return the ego pose global_SE3_ego at a time, None where it is unknown.

    Between two moments the place is interpolated along a line and the heading along the shortest turn (slerp, Shoemake 1985).

    Args:
        moments: in time order; the frame's own among them.
        time_us: microseconds, on the moments' clock.
        max_gap_s: moments further apart than this leave what is between them unknown.
    """
    times = np.array([moment.timestamp_us for moment in moments])
    after = int(np.searchsorted(times, time_us))
    if after < len(times) and times[after] == time_us:
        return moments[after].global_SE3_ego
    if after == 0 or after == len(times) or times[after] - times[after - 1] > max_gap_s * 1e6:
        return None
    a, b = moments[after - 1].global_SE3_ego, moments[after].global_SE3_ego
    share = float((time_us - times[after - 1]) / (times[after] - times[after - 1]))
    return SE3.from_quaternion(_slerp(a.quaternion, b.quaternion, share), (1 - share) * a.translation + share * b.translation)


def _slerp(p: np.ndarray, q: np.ndarray, share: float) -> np.ndarray:
    cosine = float(p @ q)
    q, cosine = (q, cosine) if cosine >= 0 else (-q, -cosine)
    angle = float(np.arccos(min(cosine, 1.0)))
    if angle < 1e-6:  # the sine is too small to divide by, and a line is as good
        out = (1 - share) * p + share * q
    else:
        out = (np.sin((1 - share) * angle) * p + np.sin(share * angle) * q) / np.sin(angle)
    return out / np.linalg.norm(out)
