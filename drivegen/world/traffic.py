"""Road users drawn for a scene: tracks along lanes, pavements and crossings."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from drivegen.scene.geometry import Array
from drivegen.world.curve import Curve
from drivegen.world.streets import PARKING_M, Plan, Road
from drivegen.world.tracks import Track, draw_size

SHORT_S = 5.0
"""In a scene no longer than this no visible road user enters or leaves. Longer ones have continuous traffic; shorter
ones keep the bytes that the embedded model was trained and measured on."""


class Crowd:
    """Draws the tracks of one scene; times are seconds from its first frame."""

    def __init__(self, rng: np.random.Generator, plan: Plan) -> None:
        self.rng, self.plan = rng, plan
        self.tracks: list[Track] = []
        self.flows: list[tuple[Road, int, float, float]] = []
        self.busy = float(rng.uniform(0.25, 1.0))
        self.speed = float(rng.uniform(5, 13))
        self.special = rng.dirichlet([0.7, 0.7, 0.6, 0.6, 0.4, 0.5])

    def add(self, kind: str, curve: Curve, left_m: float, s0_m: float, speed: float, direction: int, attribute: str,
            turn: float = 0.0, rank: int = 5, size: Array | None = None) -> None:  # fmt: skip
        """Add one track.

        Args:
            kind: its detection class.
            curve: the line that it follows.
            left_m: lateral offset from it, positive to the left.
            s0_m: arc length at the first frame.
            speed: in m/s.
            direction: 1 along the curve, -1 against it.
            attribute: nuScenes' attribute of its boxes.
            turn: angle in radians to its direction of motion.
            rank: which of two tracks that would touch goes: the one with the higher rank.
            size: (width, length, height) in metres; None draws one.
        """
        size = draw_size(self.rng, kind) if size is None else size
        self.tracks.append(Track(kind, size, curve, left_m, s0_m, speed, direction, turn, attribute, rank))

    def vehicle(self) -> str:
        """Draw the class of the next vehicle: two in three are cars, the rest are of the scene's own distribution."""
        others = ("truck", "bus", "motorcycle", "bicycle", "trailer", "construction_vehicle")
        return "car" if self.rng.uniform() < 0.66 else str(self.rng.choice(others, p=self.special))

    def lane(self, road: Road, lane: int, start: float, stop: float, speed: float, queue: bool) -> None:
        """Fill a lane: a queue stands behind `stop`; moving vehicles follow each other from `start`.

        Args:
            road: the road.
            lane: of the road, as in `Road.lane_left_m`.
            start: arc length where it begins, in the driving direction.
            stop: arc length where it ends.
            speed: in m/s.
            queue: whether the vehicles stand and wait.
        """
        direction = 1 if lane >= 0 else -1
        s = start
        length = abs(stop - start)
        gone = self.rng.uniform(0.5, 1.5) if queue else self.rng.uniform(3, 25)
        while gone < length - 6:
            kind = self.vehicle()
            size = draw_size(self.rng, kind)
            gone += size[1] / 2
            attribute = (
                ("vehicle.stopped" if queue else "vehicle.moving")
                if kind not in ("bicycle", "motorcycle")
                else "cycle.with_rider"
            )
            # a queue is filled from the stop line backwards, a moving row from its beginning onwards
            place = stop - direction * gone if queue else s + direction * gone
            self.add(kind, road.curve, road.lane_left_m(lane), place, 0.0 if queue else speed, direction, attribute, size=size)
            if kind == "trailer":  # the trailer's tractor drives ahead of it
                cab = draw_size(self.rng, "truck") * (1, 0.85, 1)
                ahead = place + direction * (size[1] / 2 + 0.8 + cab[1] / 2)
                self.add(
                    "truck",
                    road.curve,
                    road.lane_left_m(lane),
                    ahead,
                    0.0 if queue else speed,
                    direction,
                    attribute,
                    size=cab,
                    rank=4,
                )
            gone += size[1] / 2 + (self.rng.uniform(1.6, 3) if queue else self.rng.exponential(26 / self.busy) + 6)
            if queue and self.rng.uniform() < 0.3 / self.busy:
                break

    def flow(self, road: Road, lane: int, speed: float) -> None:
        """Fill a lane whose light is green, over the whole length of its road.

        Args:
            road: the road.
            lane: of the road, as in `Road.lane_left_m`.
            speed: in m/s.
        """
        start, stop = (road.start_m, road.stop_m) if lane >= 0 else (road.stop_m, road.start_m)
        self.lane(road, lane, start, stop, speed, queue=False)
        if start in (road.curve.s_m[0], road.curve.s_m[-1]):  # a street that begins in a junction is entered by no one unseen
            self.flows.append((road, lane, start, speed))

    def go_on(self, rng: np.random.Generator, time_s: float) -> None:
        """Let traffic enter and leave for a scene of time_s: more enters the roads, and a vehicle at the end of its road
        disappears.

        What enters gives way to everything that was there before, and is drawn from `rng`.
        """
        self.rng, there = rng, len(self.tracks)
        for road, lane, start, speed in self.flows:
            before = start - math.copysign(speed * time_s, lane + 0.5)
            self.lane(road, lane, before, start, speed, queue=False)
        ends = {id(road.curve): (road.start_m, road.stop_m) for road in self.plan.roads}
        for i, track in enumerate(self.tracks):
            if i >= there:
                track = replace(track, rank=track.rank + 10)
            if track.speed_mps and id(track.curve) in ends:
                low, high = ends[id(track.curve)]
                track = replace(track, ends_m=(low + track.size_wlh_m[1] / 2, high - track.size_wlh_m[1] / 2))
            self.tracks[i] = track

    def parked(self, road: Road, sections: list[tuple[float, float]]) -> None:
        """Cars along the kerb, and perhaps works fenced by barriers and cones."""
        for side, present in ((1, road.parking_left), (-1, road.parking_right)):
            if not present:
                continue
            left = road.left_m - PARKING_M / 2 if side > 0 else road.right_m + PARKING_M / 2
            direction = 1 if side < 0 or not road.backward else -1
            share = self.rng.uniform(0.4, 0.95)
            for a, b in sections:
                works = self.rng.uniform(a, b) if b - a > 30 and self.rng.uniform() < 0.35 else math.inf
                if works < b - 16:
                    self.works(road.curve, left, works)
                s = a + self.rng.uniform(1, 5)
                while s < b - 6:
                    kind = "car" if self.rng.uniform() < 0.92 else str(self.rng.choice(["truck", "motorcycle", "trailer"]))
                    size = draw_size(self.rng, kind)
                    size[0] = min(size[0], 2.2)
                    size[1] = min(size[1], 8.0)
                    clear = s + size[1] < works - 2 or s > works + 17
                    if self.rng.uniform() < share and clear:
                        attribute = "vehicle.parked" if kind != "motorcycle" else "cycle.without_rider"
                        self.add(kind, road.curve, left + self.rng.uniform(-0.12, 0.12), s + size[1] / 2, 0.0, direction,
                                 attribute, turn=self.rng.normal(0, 0.015), size=size)  # fmt: skip
                    s += size[1] + self.rng.uniform(0.7, 1.6)

    def works(self, curve: Curve, left: float, s: float) -> None:
        """Add a building site of 14 m to the parking strip.

        Args:
            curve: the road's.
            left: lateral offset of the strip in metres, positive to the left.
            s: arc length in metres where it begins.
        """
        for ds in (0.0, 14.5):
            self.add("barrier", curve, left, s + ds, 0.0, 1, "", rank=2)
        if self.rng.uniform() < 0.8:
            self.add(
                "construction_vehicle", curve, left, s + 5.5, 0.0, int(self.rng.choice([-1, 1])), "vehicle.stopped", rank=2
            )
        toward = -math.copysign(1.0, left) * (PARKING_M / 2 - 0.05)
        for ds in np.arange(1.6, 14, 2.4):
            self.add("traffic_cone", curve, left + toward, s + float(ds), 0.0, 1, "", rank=2)

    def pavement(self, road: Road, sections: list[tuple[float, float]], density: float) -> None:
        """Add people who walk or stand on the pavement and, seldom, barriers and cones.

        Args:
            road: the road.
            sections: arc lengths (from, to) of the road between junctions.
            density: people per 10 m.
        """
        wide = self.plan.walkway_m
        for side in (1, -1):
            edge = road.left_m if side > 0 else road.right_m
            for a, b in sections:
                for _ in range(self.rng.poisson(density * (b - a) / 10)):
                    left = edge + side * self.rng.uniform(1.15, wide - 0.45)
                    still = self.rng.uniform() < 0.2
                    place, speed = self.rng.uniform(a, b), 0.0 if still else self.rng.uniform(0.8, 1.7)
                    self.add("pedestrian", road.curve, left, place, speed,
                             int(self.rng.choice([-1, 1])), "pedestrian.standing" if still else "pedestrian.moving",
                             turn=self.rng.uniform(-3, 3) if still else 0.0)  # fmt: skip
                if self.rng.uniform() < 0.15:
                    start = self.rng.uniform(a, b)
                    kind = str(self.rng.choice(["barrier", "traffic_cone"]))
                    for i in range(int(self.rng.integers(2, 5))):
                        turn = math.pi / 2 if kind == "barrier" else 0.0
                        self.add(kind, road.curve, edge + side * 0.6, start + 2.6 * i, 0.0, 1, "", turn=turn, rank=6)

    def crossings(self, density: float) -> None:
        """People on the crossings whose road has to wait."""
        for crossing in self.plan.crossings:
            if self.plan.main_red != (crossing.road == 0):
                continue
            road = self.plan.roads[crossing.road]
            for _ in range(self.rng.poisson(density * 3)):
                start, _ = road.curve.at(crossing.s_m, road.right_m - 1.5)
                way = Curve.straight(start, crossing.heading_rad + math.pi / 2, road.left_m - road.right_m + 3)
                left, s = self.rng.uniform(-1.2, 1.2), self.rng.uniform(0, way.s_m[-1])
                self.add("pedestrian", way, left, s, self.rng.uniform(0.9, 1.6),
                         int(self.rng.choice([-1, 1])), "pedestrian.moving", rank=3)  # fmt: skip

    def carparks(self) -> None:
        """Cars in the stalls, nose or tail first."""
        for lot in self.plan.carparks:
            for row in (1, -1):
                for i in range(int((lot.length_m - 1) // 2.75)):
                    if self.rng.uniform() < 0.6:
                        along = np.array([math.cos(lot.heading_rad), math.sin(lot.heading_rad)])
                        centre = lot.centre + along * (-lot.length_m / 2 + 1.9 + 2.75 * i)
                        centre = centre + row * (lot.depth_m / 2 - 2.9) * np.array([-along[1], along[0]])
                        turn = int(self.rng.choice([0, 1])) * math.pi + lot.heading_rad + math.pi / 2
                        self.add("car", Curve.straight(centre, turn, 1.0), 0.0, 0.0, 0.0, 1, "vehicle.parked", rank=5)


def draw_tracks(
    rng: np.random.Generator, plan: Plan, later: np.random.Generator, time_s: float
) -> tuple[list[Track], float]:  # fmt: skip
    """Draw all tracks of a scene, and the speed of the ego's lane (0 where its light is red).

    Args:
        rng: draws the tracks.
        plan: the streets.
        later: draws what a scene longer than SHORT_S needs besides.
        time_s: duration of the scene.
    """
    crowd = Crowd(rng, plan)
    people = float(rng.choice([0.03, 0.15, 0.4, 0.8], p=[0.2, 0.35, 0.3, 0.15]))
    for number, road in enumerate(plan.roads):
        waits = plan.main_red == (number == 0)
        sections = plan.sections(number)
        for lane in range(-road.backward, road.forward):
            direction = 1 if lane >= 0 else -1
            speed = crowd.speed * (1.0 if number == 0 and lane == 0 else float(rng.uniform(0.8, 1.2)))
            if not waits:
                crowd.flow(road, lane, speed)
                continue
            for i, (a, b) in enumerate(sections):
                start, stop = (a, b) if direction > 0 else (b, a)
                inbound = any(abs(stop - (g.start_m if direction > 0 else g.stop_m)) < 1 for g in plan.gaps[number])
                crowd.lane(road, lane, start, stop, speed, queue=inbound)
                del i
        crowd.parked(road, sections)
        crowd.pavement(road, sections, people if number == 0 else people * 0.6)
    crowd.crossings(people + 0.3)
    crowd.carparks()
    if time_s > SHORT_S:
        crowd.go_on(later, time_s)
    return crowd.tracks, 0.0 if plan.main_red else crowd.speed
