"""What a scene is: boxes, vector map, cameras, frames; frozen dataclasses with frames and units in their names."""

from drivegen.scene.cameras import Camera, ResizeCrop, ring_neighbours, ring_order
from drivegen.scene.scene import (
    BEV_CLASSES,
    DETECTION_CLASSES,
    FACES,
    LINE_LAYERS,
    Box3D,
    Frame,
    MapLine,
    MapPolygon,
    Scene,
    VectorMap,
    detection_class,
)

__all__ = [
    "BEV_CLASSES", "DETECTION_CLASSES", "FACES", "LINE_LAYERS", "Box3D", "Camera", "Frame", "MapLine", "MapPolygon",
    "ResizeCrop", "Scene", "VectorMap", "detection_class", "ring_neighbours", "ring_order",
]  # fmt: skip
