"""Names of the class image's values, and what of it is drivable or a vehicle."""

from __future__ import annotations

from drivegen.scene import DETECTION_CLASSES

CLASSES: tuple[str, ...] = (
    "sky", "road", "lane_marking", "ped_crossing", "stop_line", "carpark_area", "walkway", "terrain",
    "building", "vegetation", "pole", *DETECTION_CLASSES,
)  # fmt: skip
"""Semantic name of each value of a class image."""

SKY, ROAD, LANE_MARKING, PED_CROSSING, STOP_LINE, CARPARK, WALKWAY, TERRAIN, BUILDING, VEGETATION, POLE = range(11)

DRIVABLE = frozenset({ROAD, LANE_MARKING, PED_CROSSING, STOP_LINE, CARPARK})
"""Class values that a car may drive on."""

VEHICLES = frozenset(
    CLASSES.index(name) for name in ("car", "truck", "construction_vehicle", "bus", "trailer", "motorcycle", "bicycle")
)
"""Class values of vehicles."""
