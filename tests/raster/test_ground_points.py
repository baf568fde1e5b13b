"""Where a view sees the ground: the same ground as the layout's, on the axes of the bird's-eye map."""

from __future__ import annotations

import numpy as np

from drivegen import raster, world
from drivegen.scene import BEV_CLASSES


def test_the_map_read_at_the_ground_is_what_the_layout_shows() -> None:
    compared = 0
    for frame in (world.build(seed=11, index=index).scene.frames[0] for index in (1, 3)):
        bird = raster.bev(frame, pixels=(400, 400))[BEV_CLASSES.index("drivable_area")]
        for camera in frame.cameras:
            width, height = camera.image_size
            view = raster.layout(frame, camera)
            points, depth_m = raster.ground_points(frame, camera, (height, width))
            off_boxes = view.box_class == 0
            there = np.isfinite(depth_m)
            assert np.array_equal(there & off_boxes, (view.depth_m > 0) & off_boxes)
            assert np.allclose(depth_m[there & off_boxes], view.depth_m[there & off_boxes], rtol=1e-3)
            assert np.array_equal(np.isfinite(points).all(-1), there)
            near = off_boxes & (np.abs(points) < 30).all(-1)  # further away a pixel is longer than a cell of the map
            at = ((points[near] + 50) * 4).astype(int)
            drawn = (view.map_bits[near] >> BEV_CLASSES.index("drivable_area")) & 1
            assert (bird[at[:, 0], at[:, 1]] == drawn).mean() > 0.97
            compared += 0.05 < drawn.mean() < 0.95
    assert compared >= 4, "too few views show a border of the road"


def test_a_coarser_grid_looks_along_the_centres_of_its_cells() -> None:
    frame = world.build(seed=11, index=1).scene.frames[0]
    camera = frame.cameras[1]
    width, height = camera.image_size
    fine, _ = raster.ground_points(frame, camera, (height * 3, width * 3))
    coarse, _ = raster.ground_points(frame, camera, (height, width))
    assert np.allclose(fine[1::3, 1::3], coarse, equal_nan=True)
