"""How large objects usually are."""

USUAL_SIZE_M = {
    "car": (1.9, 4.6, 1.7), "truck": (2.5, 6.9, 2.9), "construction_vehicle": (2.8, 6.4, 3.2), "bus": (2.9, 11.0, 3.4),
    "trailer": (2.9, 12.0, 3.9), "barrier": (2.5, 0.5, 1.0), "motorcycle": (0.8, 2.1, 1.5), "bicycle": (0.6, 1.7, 1.3),
    "pedestrian": (0.7, 0.7, 1.8), "traffic_cone": (0.4, 0.4, 1.1),
}  # fmt: skip
"""(width, length, height) of what is put into a scene or in the place of another object: about nuScenes' mean of each class."""
