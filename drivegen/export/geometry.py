"""Boxes and sensors in the frames that trainers use: the lidar's and each camera's.

Yaw is pyquaternion's, which the converters take: of R = sensor_SE3_object it is atan2(-R01, R00), the heading where the sensor
stands upright.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drivegen.datasets.nuscenes.recordings import Recording
from drivegen.export.samples import Sample
from drivegen.scene import Box3D
from drivegen.scene.geometry import SE3, Array


def lidar_SE3_sensor(sensor: Recording, lidar: Recording) -> SE3:
    """Return the transform from a sensor at its own time to the lidar at its own, over the map."""
    return lidar.sensor_SE3_global @ sensor.global_SE3_sensor


@dataclass(frozen=True, eq=False)
class Boxes:
    """N boxes in a sensor's frame: centres (N, 3), sizes (N, 3) as width, length, height, yaw (N,), velocity (N, 3) in m/s.

    The velocity is that along the ground of the map, NaN where it is unknown.
    """

    center: Array
    wlh: Array
    yaw: Array
    velocity: Array


def boxes_in(boxes: tuple[Box3D, ...], sensor: Recording) -> Boxes:
    """Return boxes in the frame of a sensor, at the time of its own ego pose."""
    there = sensor.sensor_SE3_global
    places = np.array([box.global_SE3_object.translation for box in boxes]).reshape(-1, 3)
    turns = there.rotation @ np.array([box.global_SE3_object.rotation for box in boxes]).reshape(-1, 3, 3)
    level = np.array([[*box.velocity_mps[:2], 0.0] for box in boxes]).reshape(-1, 3)
    sizes = np.array([box.size_wlh_m for box in boxes]).reshape(-1, 3)
    return Boxes(there.transform(places), sizes, np.arctan2(-turns[:, 0, 1], turns[:, 0, 0]), level @ there.rotation.T)


def boxes_in_lidar(sample: Sample) -> Boxes:
    """Return a sample's boxes in the frame of its lidar."""
    return boxes_in(sample.boxes, sample.reference)
