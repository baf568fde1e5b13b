"""Neighbouring moments: in order, found by time, interpolated between, unknown beyond."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from drivegen.scene import Moment, Scene
from drivegen.scene.geometry import SE3
from drivegen.support.errors import InputError
from tests.street import street_frame, street_scene


def test_a_scene_gives_its_frames_their_neighbours() -> None:
    scene = street_scene(6).with_neighbours(1.0, 0.6)  # half a second from frame to frame
    assert [[m.token for m in f.neighbours] for f in scene.frames][0::2] == [
        ["street-1", "street-2"],
        ["street-0", "street-1", "street-3", "street-4"],  # the first beyond 0.6 s too, to interpolate from
        ["street-2", "street-3", "street-5"],
    ]
    frame, plain = scene.frames[2], street_scene(6).frames
    assert all(not f.neighbours for f in street_scene(6).with_neighbours(0, 0).frames)
    later = frame.neighbour(0.52)
    assert later is not None
    assert later.token == "street-3"
    assert frame.neighbour(0.75) is None
    assert frame.neighbour(-5) is None
    person = later.box("person-a")
    assert person is not None
    assert np.array_equal(person.global_SE3_object.translation, plain[3].box("person-a").global_SE3_object.translation)
    assert later.box("nobody") is None
    assert later.camera("CAM_FRONT") is not None
    assert later.camera("CAM_TOP") is None
    sizes = {camera.image_size for moment in frame.resized(56, 32).neighbours for camera in moment.cameras}
    assert sizes == {(56, 32)}


def test_poses_are_those_of_moments_and_lie_between_them() -> None:
    a, b = SE3.from_yaw(3.0, (0, 0, 0)), SE3.from_yaw(-3.0, (4, 2, 1))  # the short way round leads through π
    frame = replace(street_frame(), timestamp_us=10_000_000, global_SE3_ego=a)
    frame = replace(frame, neighbours=(Moment(10_500_000, b), Moment(9_000_000, a), Moment(13_000_000, b)))
    assert [m.timestamp_us for m in frame.neighbours] == [9_000_000, 10_500_000, 13_000_000]
    for seconds, pose in ((0.0, a), (0.5, b), (-1.0, a)):
        found = frame.ego_at(seconds)
        assert found is not None
        assert np.allclose(found.rotation, pose.rotation)
        assert np.allclose(found.translation, pose.translation)
    half = frame.ego_at(0.25)
    assert half is not None
    assert np.allclose(half.translation, (2, 1, 0.5))
    assert np.isclose(abs(half.yaw_rad), np.pi)
    for unknown in (-1.1, 3.1, 1.0):  # before all, after all, and in a gap of 2.5 s
        assert frame.ego_at(unknown) is None
    assert frame.ego_at(1.0, max_gap_s=3.0) is not None
    assert street_frame().ego_at(0.5) is None  # no neighbours
    assert street_frame().ego_at(0.0) is not None


def test_frames_without_time_have_no_neighbours() -> None:
    scene = street_scene(3)
    still = Scene("still", tuple(replace(f, timestamp_us=0) for f in scene.frames))
    assert all(not f.neighbours for f in still.with_neighbours(1.0, 1.0).frames)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"neighbours": (Moment(7, SE3.identity()),), "timestamp_us": 7}, "a neighbour at its own time, 7"),
        ({"neighbours": (Moment(7, SE3.identity()), Moment(7, SE3.identity()))}, "two neighbours at one time, 7"),
        ({"neighbours": street_scene(1).frames}, r"neighbours\[0\]"),
        ({"neighbours": 3}, "neighbours is int"),
        ({"extras": [1]}, "extras is of type list"),
    ],
)
def test_what_is_no_neighbour_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(street_frame(), **changes)
    with pytest.raises(InputError, match="two cameras of one name"):
        Moment(1, SE3.identity(), cameras=street_frame().cameras[:1] * 2)
    with pytest.raises(InputError, match="global_SE3_ego"):
        Moment(1, np.eye(4))  # type: ignore[arg-type]
