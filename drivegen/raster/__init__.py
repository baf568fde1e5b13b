"""Scenes as arrays: the bird's-eye map, boxes in a picture, and the whole scene projected into each view."""

from drivegen.raster.birdseye import bev
from drivegen.raster.boxes import Face, box_edges, box_faces
from drivegen.raster.view import MAX_BOXES, OTHER_CLASS, Layout, layout

__all__ = ["MAX_BOXES", "OTHER_CLASS", "Face", "Layout", "bev", "box_edges", "box_faces", "layout"]
