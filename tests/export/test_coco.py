from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.export.conftest import Exported

pycocotools = pytest.importorskip("pycocotools.coco")


@pytest.fixture(scope="module")
def coco(exported: Exported) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return pycocotools.COCO(str(exported("coco") / "instances_train.json"))


def test_every_picture_is_there_at_its_size(coco: Any, root: Path) -> None:
    assert len(coco.imgs) == 5 * 6
    sizes = set()
    for image in coco.imgs.values():
        with Image.open(root / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
            sizes.add(picture.size)
    assert sizes == {(320, 180), (400, 240)}


def test_annotations_are_of_the_ten_classes(coco: Any, nusc: Any) -> None:
    names = {category["id"]: category["name"] for category in coco.cats.values()}
    assert sorted(names) == list(range(1, 11))
    shown = {annotation["category_name"] for annotation in coco.anns.values()}
    assert {names[annotation["category_id"]] for annotation in coco.anns.values()} == {
        "car", "truck", "pedestrian", "bicycle", "barrier", "trailer", "bus"
    }  # fmt: skip
    assert "animal" not in shown
    for annotation in coco.anns.values():
        row = nusc.get("sample_annotation", annotation["sample_annotation_token"])
        image = coco.imgs[annotation["image_id"]]
        x, y, w, h = annotation["bbox"]
        assert annotation["category_name"] == row["category_name"]
        assert (annotation["area"], annotation["iscrowd"]) == (pytest.approx(w * h), 0)
        assert annotation["visibility"] == int(row["visibility_token"])
        assert min(x, y) >= 0
        assert x + w <= image["width"] + 1e-9
        assert y + h <= image["height"] + 1e-9
        assert row["sample_token"] == image["sample_token"]
    empty = [image for image in coco.imgs if not coco.getAnnIds(imgIds=[image])]
    assert len(empty) >= 6  # one sample has no boxes


def test_its_own_boxes_score_one(coco: Any) -> None:
    from pycocotools.cocoeval import COCOeval

    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
        for a in coco.anns.values()
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        scored = COCOeval(coco, coco.loadRes(results), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    assert scored.stats[0] == pytest.approx(1.0)


def test_the_single_camera_file_of_1_0_0rc6(exported: Exported, nusc: Any) -> None:
    path = exported("mmdet3d") / "1.0.0rc6" / "nuscenes_infos_train_mono3d.coco.json"
    whole = json.loads(path.read_text())
    assert [category["id"] for category in whole["categories"]] == list(range(10))
    images = {image["id"]: image for image in whole["images"]}
    assert len(images) == 30
    for annotation in whole["annotations"]:
        image = images[annotation["image_id"]]
        row = nusc.get("sample_data", image["id"])
        assert (image["file_name"], image["width"], image["height"]) == (row["filename"], row["width"], row["height"])
        x, y, z = annotation["bbox_cam3d"][:3]
        pixel = np.array(image["cam_intrinsic"]) @ [x, y, z]
        np.testing.assert_allclose(annotation["center2d"], [*pixel[:2] / pixel[2], z], atol=1e-6)
        assert annotation["category_name"] == whole["categories"][annotation["category_id"]]["name"]
