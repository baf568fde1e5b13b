"""Colours of the sheets: boxes by class, map, cameras, text. Those of pictures that networks read are in raster/palette.py."""

from __future__ import annotations

RGB = tuple[int, int, int]

BACKGROUND: RGB = (13, 15, 19)
TEXT: RGB = (232, 235, 240)
DIM: RGB = (138, 146, 160)

CLASS_COLOURS: dict[str, RGB] = {
    "car": (86, 180, 255), "truck": (255, 160, 92), "construction_vehicle": (240, 212, 80), "bus": (255, 112, 130),
    "trailer": (198, 148, 255), "barrier": (176, 186, 200), "motorcycle": (255, 92, 205), "bicycle": (72, 226, 196),
    "pedestrian": (164, 236, 92), "traffic_cone": (255, 128, 40), "other": (120, 124, 132),
}  # fmt: skip
"""Colour of the boxes of each detection class, and of everything outside of them."""

GROUND: RGB = (18, 20, 25)
"""Where the map says nothing, seen from above."""

AREA_COLOURS: dict[str, RGB] = {
    "drivable_area": (50, 54, 64), "carpark_area": (60, 56, 86), "walkway": (36, 50, 50), "road_block": (50, 54, 64),
    "ped_crossing": (122, 126, 134), "stop_line": (150, 66, 66),
}  # fmt: skip
"""Colour of each area of the map, in drawing order."""

LINE_COLOURS: dict[str, RGB] = {"lane_divider": (150, 156, 168), "road_divider": (226, 176, 72)}
"""Colour of each line of the map."""

CAMERA_COLOURS: tuple[RGB, ...] = (
    (94, 176, 255), (255, 196, 84), (122, 224, 150), (255, 128, 128), (190, 150, 255), (84, 222, 222), (255, 150, 220),
    (200, 210, 120),
)  # fmt: skip
"""Colour of the cones and captions, by place in the ring."""
