"""Colours of pictures: those of ADE20K, which released segmentation ControlNets read, and those of lanes.

Values are those of the 150 classes as MMSegmentation numbers and paints them (`ADE20KDataset.METAINFO`; the number is in a
comment here); the annotators that made the training pictures of the segmentation ControlNets use the same table.
"""

from __future__ import annotations

from collections.abc import Mapping
from colorsys import hsv_to_rgb

from drivegen.scene import LIMBS

RGB = tuple[int, int, int]

ADE20K: Mapping[str, RGB] = {
    "road": (140, 140, 140),  # 6
    "sidewalk": (235, 255, 7),  # 11
    "person": (150, 5, 61),  # 12
    "car": (0, 102, 200),  # 20
    "fence": (255, 184, 6),  # 32
    "box": (0, 255, 20),  # 41
    "bus": (255, 0, 245),  # 80
    "truck": (255, 0, 20),  # 83
    "minibike": (163, 0, 255),  # 116
    "bicycle": (255, 245, 0),  # 127
}
"""The classes that a driving scene's map and boxes have a use for, counted from 0."""

GROUND: Mapping[str, RGB] = {
    name: ADE20K["sidewalk" if name == "walkway" else "road"]
    for name in ("drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area", "road_block")
}
"""The colour of map classes that lie on the ground, later ones on earlier ones; what is painted on a road is road in ADE20K."""

BOXES: Mapping[str, RGB] = {
    "car": ADE20K["car"], "truck": ADE20K["truck"], "construction_vehicle": ADE20K["truck"], "bus": ADE20K["bus"],
    "trailer": ADE20K["truck"], "barrier": ADE20K["fence"], "motorcycle": ADE20K["minibike"], "bicycle": ADE20K["bicycle"],
    "pedestrian": ADE20K["person"], "traffic_cone": ADE20K["fence"],
}  # fmt: skip
"""The colour of each detection class. The 150 classes have neither barriers nor cones: a fence closes a road, too."""

OTHER: RGB = ADE20K["box"]
"""The colour of a box of any other kind: carts, bins and debris, mostly."""

LINES: Mapping[str, RGB] = {
    "road_divider": (255, 200, 0), "lane_divider": (255, 255, 255), "ped_crossing": (0, 255, 255), "stop_line": (255, 0, 0),
}  # fmt: skip
"""Colours of the lanes' picture, which no released checkpoint fixes."""

LIMB_COLOURS: tuple[RGB, ...] = tuple(
    (int(255 * r + 0.5), int(255 * g + 0.5), int(255 * b + 0.5))
    for r, g, b in (hsv_to_rgb(i / len(LIMBS), 1.0, 1.0) for i in range(len(LIMBS)))
)
"""A hue for each of `scene.LIMBS`, so that left and right, arms and legs are told apart."""
