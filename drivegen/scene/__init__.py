"""What a scene is: boxes, vector map, cameras, frames; frozen dataclasses with frames and units in their names."""

from drivegen.scene.boxes import DETECTION_CLASSES, FACES, Box3D, detection_class
from drivegen.scene.cameras import Camera, ResizeCrop, ring_neighbours, ring_order
from drivegen.scene.joints import JOINTS, LIMBS
from drivegen.scene.moments import Moment
from drivegen.scene.scene import Frame, Scene
from drivegen.scene.vector_map import BEV_CLASSES, LINE_LAYERS, MapLine, MapPolygon, VectorMap

__all__ = [
    "BEV_CLASSES", "DETECTION_CLASSES", "FACES", "JOINTS", "LIMBS", "LINE_LAYERS", "Box3D", "Camera", "Frame", "MapLine",
    "MapPolygon", "Moment", "ResizeCrop", "Scene", "VectorMap", "detection_class", "ring_neighbours", "ring_order",
]  # fmt: skip
