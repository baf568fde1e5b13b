"""Scenes as arrays: the bird's-eye map, boxes in a picture, the whole scene projected into each view, and pictures of it."""

from drivegen.raster.birdseye import bev
from drivegen.raster.boxes import Face, box_edges, box_faces, corners_in_camera
from drivegen.raster.heat import SeenBox, heat_map, seen_boxes
from drivegen.raster.pictures import PICTURES, Picture, picture
from drivegen.raster.region import region_mask
from drivegen.raster.view import MAX_BOXES, OTHER_CLASS, Layout, box_numbers, ground_points, layout

__all__ = [
    "MAX_BOXES", "OTHER_CLASS", "PICTURES", "Face", "Layout", "Picture", "SeenBox", "bev", "box_edges", "box_faces",
    "box_numbers", "corners_in_camera", "ground_points", "heat_map", "layout", "picture", "region_mask", "seen_boxes",
]  # fmt: skip
