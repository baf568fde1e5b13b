"""COCO's detection format: rectangles around projected boxes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from drivegen.datasets.nuscenes.recordings import Recording
from drivegen.export.classes import CLASSES, label
from drivegen.export.contract import Exporter
from drivegen.export.part import Part
from drivegen.export.rectangles import rectangle
from drivegen.export.samples import Sample
from drivegen.scene import Box3D

LEAST_PX = 1.0
"""A rectangle with a shorter side than this is left out, as detectors' loaders do."""


class Coco(Exporter):
    """COCO detection: one JSON file per split, with a rectangle around each projected box.

    The rectangle is that of the whole cuboid, cut at the picture's border and at the camera's near plane; what hides it is not
    looked at, and `visibility` says what the annotators saw.
    """

    needs_lidar: ClassVar[bool] = False

    def names(self, split: str) -> tuple[str, ...]:
        """Return ``instances_<split>.json``."""
        return (f"instances_{split}.json",)

    def contents(self, part: Part) -> Mapping[str, bytes]:
        """Return the file: images, annotations and categories, numbered from 1."""
        images: list[dict[str, Any]] = []
        found: list[dict[str, Any]] = []
        for sample in part.read():
            for camera in sample.cameras:
                images.append(_image(sample, camera, len(images) + 1))
                for box in sample.boxes if part.annotated else ():
                    around = rectangle(camera, box) if label(box) >= 0 else None
                    if around is not None and min(around[2] - around[0], around[3] - around[1]) >= LEAST_PX:
                        found.append(_annotation(box, around, len(found) + 1, len(images)))
        categories = [{"id": i, "name": name, "supercategory": "object"} for i, name in enumerate(CLASSES, 1)]
        info = {"description": f"{part.data.version}, {part.name}: projected 3D boxes"}
        whole = {"info": info, "licenses": [], "images": images, "annotations": found, "categories": categories}
        return {self.names(part.name)[0]: json.dumps(whole, ensure_ascii=False, allow_nan=False).encode()}


def _image(sample: Sample, camera: Recording, number: int) -> dict[str, Any]:
    return {
        "id": number, "file_name": camera.file, "width": camera.width_px, "height": camera.height_px, "channel": camera.channel,
        "sample_data_token": camera.token, "sample_token": sample.token, "scene": sample.scene,
        "timestamp": camera.timestamp_us,
    }  # fmt: skip


def _annotation(box: Box3D, around: tuple[float, float, float, float], number: int, image: int) -> dict[str, Any]:
    left, top, right, bottom = around
    return {
        "id": number, "image_id": image, "category_id": label(box) + 1, "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top), "iscrowd": 0, "segmentation": [], "sample_annotation_token": box.token,
        "instance_token": box.instance, "category_name": box.category, "attribute": box.attribute, "visibility": box.visibility,
        "num_lidar_pts": box.num_lidar_pts,
    }  # fmt: skip
