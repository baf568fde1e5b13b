"""One scene of the procedural city: streets, traffic, rig and weather from a seed and a number."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import shapely

from drivegen.scene import Box3D, Camera, Frame, MapLine, MapPolygon, Scene, VectorMap
from drivegen.scene.geometry import SE3, Array
from drivegen.support.errors import InputError, nearest
from drivegen.world.blocks import Blocks, draw_blocks
from drivegen.world.conditions import Conditions
from drivegen.world.describe import facts, plain
from drivegen.world.phrasing import varied
from drivegen.world.rig import Mount, draw_rig
from drivegen.world.shapes import joints_of
from drivegen.world.streets import Plan, Road, draw_plan
from drivegen.world.tracks import KINDS, Track, box_pose, keep_apart
from drivegen.world.traffic import SHORT_S, draw_tracks

if TYPE_CHECKING:
    from drivegen.world.render import Prepared
    from drivegen.world.view import View

LOCATIONS = ("singapore-onenorth", "singapore-hollandvillage", "singapore-queenstown", "boston-seaport")
TILE_M = 400.0
COLUMNS = 16
SEEN_M = 80.0
"""Objects further than this from the ego are neither annotated nor drawn."""

FRAME_S = 0.5
EGO_SIZE = np.array([1.9, 4.7, 1.7])
EGO_AHEAD_M = 1.4
"""From the ego's origin (rear axle) to the middle of the car."""

AWAY_M, END_M = 60.0, 10.0
"""How far the ego stays from the main road's ends: where the scene is short enough, and at least."""
BRAKE_MPS2 = 3.0


@dataclass(eq=False)
class CityScene:
    """A scene with the city around it; `render` draws any frame of it, edited or not."""

    scene: Scene
    conditions: Conditions
    plan: Plan
    blocks: Blocks
    offset: Array
    seed: int
    index: int
    _prepared: Prepared | None = field(default=None, repr=False)

    @property
    def time_of_day(self) -> str:
        """`day`, `dusk` or `night`."""
        return self.conditions.time_of_day

    @property
    def weather(self) -> str:
        """`clear`, `overcast`, `rain` or `fog`."""
        return self.conditions.weather

    def render(self, frame: Frame, channel: str) -> View:
        """Draw what that camera of the frame sees: rgb, classes, instances and depth.

        The frame may be edited: boxes are drawn where and as they are, cameras from where they are, at K_image and image_size.
        """
        from drivegen.world.render import render

        return render(self.prepared(frame), frame.camera(channel))

    def prepared(self, frame: Frame) -> Prepared:
        """Return what the renderer needs of a frame; the last one is kept."""
        from drivegen.world.render import prepare

        if self._prepared is None or self._prepared.frame is not frame:
            self._prepared = prepare(self, frame, self._prepared)
        return self._prepared


def with_joints(frame: Frame, offset: Array) -> Frame:
    """Give the boxes of people and of riders the joints of the figures that are drawn for them, and other boxes none.

    Args:
        frame: of the city, edited or not.
        offset: (2,) metres, from the plan's coordinates to the global ones.
    """
    local = SE3(np.eye(3), np.array([-offset[0], -offset[1], 0.0]))
    joints = [joints_of(box, i, local @ box.global_SE3_object) for i, box in enumerate(frame.boxes)]
    boxes = (
        box if box.joints_m is None and found is None else replace(box, joints_m=found)
        for box, found in zip(frame.boxes, joints, strict=True)
    )
    return replace(frame, boxes=tuple(boxes))


def token(*parts: object) -> str:
    """Return a 32-digit hexadecimal name that depends on the parts alone."""
    return hashlib.md5("/".join(str(p) for p in parts).encode(), usedforsecurity=False).hexdigest()


def _polygons(shape: shapely.Geometry, offset: Array, *name: object) -> list[MapPolygon]:
    parts = [g for g in getattr(shape, "geoms", [shape]) if g.geom_type == "Polygon" and g.area > 0.05]
    out = []
    for i, part in enumerate(parts):
        rings = [np.array(ring.coords)[:-1] + offset for ring in (part.exterior, *part.interiors)]
        out.append(MapPolygon(rings[0], tuple(rings[1:]), token(*name, i)))
    return out


def vector_map(plan: Plan, location: str, offset: Array, seed: int, index: int) -> VectorMap:
    """Return the plan as nuScenes map layers in global coordinates.

    Args:
        plan: the streets.
        location: name of the map.
        offset: (2,) metres, from the plan's coordinates to the global ones.
        seed: which city; the polygons' tokens depend on it.
        index: which of its scenes; likewise.
    """
    lots = [lot.area for lot in plan.carparks]
    layers: dict[str, list[shapely.Geometry]] = {
        "drivable_area": [shapely.union_all([plan.surface, *lots])],
        "road_segment": list(plan.segments),
        "road_block": list(plan.blocks),
        "lane": list(plan.lanes),
        "ped_crossing": [c.area for c in plan.crossings],
        "walkway": [plan.walkway],
        "stop_line": list(plan.stop_lines),
        "carpark_area": lots,
    }
    polygons = {
        name: tuple(p for i, shape in enumerate(shapes) for p in _polygons(shape, offset, seed, index, name, i))
        for name, shapes in layers.items()
    }
    lines = {
        name: tuple(
            MapLine(line.points + offset, token(seed, index, name, i))
            for i, line in enumerate(plan.lines)
            if line.layer == name
        )
        for name in ("road_divider", "lane_divider")
    }
    return VectorMap(location, polygons, lines)


@dataclass(frozen=True, eq=False)
class _Drive:
    """The ego's way along lane 0 of the main road: from s0 at a constant speed, and to a stand before the road's end."""

    road: Road
    s0_m: float
    speed_mps: float

    @classmethod
    def of(cls, road: Road, s0_m: float, speed_mps: float, time_s: float) -> _Drive:
        """Start at s0, or further back where a drive of time_s would come too near to the road's end."""
        way = speed_mps * time_s
        margin = min(AWAY_M, max(END_M, (road.stop_m - road.start_m - way) / 2))
        return cls(road, max(min(s0_m, road.stop_m - margin - way), road.start_m + margin), speed_mps)

    def along(self, t_s: float) -> float:
        """Arc length at a time."""
        s = self.s0_m + self.speed_mps * t_s
        brakes_m = self.road.stop_m - END_M - self.speed_mps**2 / (2 * BRAKE_MPS2)
        if self.speed_mps == 0 or s <= brakes_m:
            return s
        braked_s = min(t_s - (brakes_m - self.s0_m) / self.speed_mps, self.speed_mps / BRAKE_MPS2)
        return brakes_m + self.speed_mps * braked_s - BRAKE_MPS2 * braked_s**2 / 2

    def pose(self, t_s: float, offset: Array) -> SE3:
        """The rear axle."""
        point, heading = self.road.curve.at(self.along(t_s), self.road.lane_left_m(0))
        return SE3.from_yaw(heading, (*(point + offset), 0.0))


WORDINGS = ("plain", "varied")
"""How scenes are described: always in one form, or in many."""


def check_wording(word: str) -> None:
    """Raise InputError for a wording that there is not."""
    if word not in WORDINGS:
        raise InputError(f"wording is {word!r}; there are {' and '.join(WORDINGS)}{nearest(word, WORDINGS)}")


def build(seed: int, index: int, frames: int = 1, size: tuple[int, int] = (128, 224), wording: str = "plain") -> CityScene:
    """Build a scene of the city; it depends on nothing but the arguments.

    Args:
        seed: which city.
        index: which of its scenes.
        frames: number of samples, at 2 Hz.
        size: (height, width) of each picture in pixels.
        wording: of the description: always the plain sentence, or one of many that say the same. Nothing else changes.

    Raises InputError for a negative seed or index, no frames, or a size below 16 pixels.
    """
    check_wording(wording)
    if seed < 0 or index < 0 or frames < 1 or min(size) < 16:
        raise InputError(
            f"cannot build a city scene from seed {seed}, index {index}, {frames} frames, size {size[0]}x{size[1]}; "
            "seed and index must be 0 or more, frames 1 or more, sizes 16 pixels or more"
        )
    streams = [np.random.default_rng([seed, index, i]) for i in range(6)]
    plan = draw_plan(streams[0])
    blocks = draw_blocks(streams[1], plan)
    conditions = Conditions.draw(streams[2])
    rig = draw_rig(streams[3], size)
    number = index // len(LOCATIONS)
    location = LOCATIONS[index % len(LOCATIONS)]
    offset = TILE_M * (np.array([number % COLUMNS, number // COLUMNS]) + 0.5)

    rng = streams[4]
    main = plan.roads[0]
    times = [i * FRAME_S for i in range(frames)]
    tracks, speed = draw_tracks(rng, plan, streams[5], times[-1])
    s0 = float(rng.uniform(-25, 15))
    if plan.main_red:
        s0 = plan.gaps[0][0].start_m - float(rng.choice([4.2, 10.5, 17.0])) - float(rng.uniform(0, 0.6))
    drive = _Drive.of(main, s0, speed, times[-1])
    egos = []
    for t in times:
        ego = drive.pose(t, np.zeros(2))
        egos.append((ego.transform((EGO_AHEAD_M, 0, 0))[:2], ego.yaw_rad, EGO_SIZE))
    solid = [(b.centre, b.heading_rad, np.array([b.width_m, b.length_m, b.height_m])) for b in blocks.buildings]
    solid += [(p.centre, 0.0, np.array([0.3, 0.3, 5.0])) for p in blocks.poles]
    solid += [(t.centre, 0.0, np.array([0.5, 0.5, 5.0])) for t in blocks.trees]
    reach = SEEN_M + speed * times[-1] + 5
    moments = times if times[-1] > SHORT_S else (times[0], times[-1])
    near = [t for t in tracks if any((p := t.pose(s)) is not None and math.dist(p[0], egos[0][0]) < reach for s in moments)]
    near = keep_apart(near, egos, times, solid)
    world_map = vector_map(plan, location, offset, seed, index)
    made = [_frame(seed, index, i, near, rig, drive, offset, world_map, location) for i in range(frames)]
    first = made[len(made) // 2]
    said = facts(conditions, plan, blocks.style, first.boxes, first.global_SE3_ego.translation[:2], offset)
    text = varied(said, np.random.default_rng([seed, index, 6])) if wording == "varied" else plain(said)
    name = f"scene-{index:04d}"
    done = tuple(replace(f, description=text, scene_name=name) for f in made)
    scene = Scene(name, done, text, location, token(seed, index, "scene"))
    return CityScene(scene, conditions, plan, blocks, offset, seed, index)


def _frame(
    seed: int, index: int, i: int, tracks: list[Track], rig: tuple[Mount, ...], drive: _Drive, offset: Array,
    world_map: VectorMap, location: str,
) -> Frame:  # fmt: skip
    """The sample at i · 0.5 s."""
    t = i * FRAME_S
    stamp = 1_700_000_000_000_000 + index * 1_000_000_000 + int(t * 1e6)
    ego = drive.pose(t, offset)
    cameras = []
    for mount in rig:
        pose = drive.pose(t + mount.delay_s, offset)
        height, width = mount.size
        cameras.append(
            Camera(mount.channel, mount.K, width, height, mount.ego_SE3_camera, pose, stamp + round(mount.delay_s * 1e6))
        )
    boxes = []
    shift = SE3(np.eye(3), np.array([*offset, 0.0]))
    for k, track in enumerate(tracks):
        found = box_pose(track, t)
        if found is None:
            continue
        pose = shift @ found[0]
        if math.dist(pose.translation[:2], ego.translation[:2]) > SEEN_M:
            continue
        boxes.append(
            Box3D(
                KINDS[track.kind][0], pose, track.size_wlh_m, token(seed, index, "instance", k),
                token(seed, index, "box", k, i), found[1], attribute=track.attribute,
            )
        )  # fmt: skip
    frame = Frame(
        token(seed, index, "sample", i), tuple(cameras), tuple(boxes), world_map, location=location, timestamp_us=stamp,
        global_SE3_ego=ego,
    )  # fmt: skip
    return with_joints(frame, offset)
