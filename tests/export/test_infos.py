"""Info files against the devkit's own numbers, field by field."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyquaternion import Quaternion

from tests.export.conftest import Exported, read

OLD = {
    "rc6": ("mmdet3d", "1.0.0rc6/nuscenes_infos_train.pkl"), "bevfusion": ("bevfusion", "nuscenes_infos_train.pkl"),
    "streampetr": ("streampetr", "nuscenes2d_temporal_infos_train.pkl"),
    "bevformer": ("bevformer", "nuscenes_infos_temporal_train.pkl"),
}  # fmt: skip
CAMERAS = ["CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT"]
CLASSES = [
    "car",
    "truck",
    "trailer",
    "bus",
    "construction_vehicle",
    "bicycle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "barrier",
]
NAMES = {
    "vehicle.car": "car", "vehicle.truck": "truck", "human.pedestrian.adult": "pedestrian", "vehicle.bicycle": "bicycle",
    "movable_object.barrier": "barrier", "animal": "animal", "vehicle.trailer": "trailer",
    "vehicle.bus.rigid": "bus",
}  # fmt: skip


def infos(exported: Exported, trainer: str) -> list[dict[str, Any]]:
    form, name = OLD[trainer]
    return read(exported(form) / name)["infos"]


def matrix(rotation: Any, translation: Any) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = Quaternion(rotation).rotation_matrix, translation
    return out


def lidar_to_global(info: dict[str, Any]) -> np.ndarray:
    return matrix(info["ego2global_rotation"], info["ego2global_translation"]) @ matrix(
        info["lidar2ego_rotation"], info["lidar2ego_translation"]
    )


@pytest.mark.parametrize("trainer", OLD)
def test_boxes_go_back_to_the_annotations(exported: Exported, nusc: Any, trainer: str) -> None:
    found = infos(exported, trainer)
    assert [len(info["gt_boxes"]) for info in found] == [7, 0, 8, 7, 7]
    for info in found:
        sample = nusc.get("sample", info["token"])
        rows = [nusc.get("sample_annotation", token) for token in sample["anns"]]
        _, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
        assert info["gt_boxes"].shape == (len(rows), 7)
        assert info["gt_velocity"].shape == (len(rows), 2)
        assert info["gt_names"].tolist() == [NAMES[row["category_name"]] for row in rows]
        assert info["num_lidar_pts"].tolist() == [row["num_lidar_pts"] for row in rows]
        assert info["valid_flag"].tolist() == ["bicycle" not in row["category_name"] for row in rows]
        to_global = lidar_to_global(info)
        for numbers, velocity, row, box in zip(info["gt_boxes"], info["gt_velocity"], rows, boxes, strict=True):
            back = to_global @ [*numbers[:3], 1]
            np.testing.assert_allclose(back[:3], row["translation"], atol=1e-6)
            width, length, height = row["size"]
            yaw = box.orientation.yaw_pitch_roll[0]
            if trainer in ("bevfusion", "bevformer"):
                np.testing.assert_allclose(numbers[3:], [width, length, height, -yaw - math.pi / 2], atol=1e-6)
            else:
                np.testing.assert_allclose(numbers[3:], [length, width, height, yaw], atol=1e-6)
            there = to_global[:3, :3].T @ [*nusc.box_velocity(row["token"])[:2], 0]
            np.testing.assert_allclose(velocity, there[:2], atol=1e-9)  # NaN where it is unknown
    assert np.isfinite(found[3]["gt_velocity"]).all()  # tracks of two samples
    assert np.isnan(found[2]["gt_velocity"]).any(1).sum() == 1  # the bus is seen once


@pytest.mark.parametrize("trainer", OLD)
def test_sensors_go_to_the_lidar(exported: Exported, nusc: Any, trainer: str) -> None:
    point = np.array([1.0, 2.0, 30.0])
    for info in infos(exported, trainer):
        sample = nusc.get("sample", info["token"])
        assert list(info["cams"]) == CAMERAS
        for channel, one in [*info["cams"].items(), *(("lidar", sweep) for sweep in info["sweeps"])]:
            row = nusc.get("sample_data", one["sample_data_token"])
            mount = nusc.get("calibrated_sensor", row["calibrated_sensor_token"])
            ego = nusc.get("ego_pose", row["ego_pose_token"])
            assert one["type"] == channel
            assert one["data_path"] == f"data/nuscenes/{row['filename']}"
            assert (one["sensor2ego_rotation"], one["sensor2ego_translation"]) == (mount["rotation"], mount["translation"])
            assert (one["ego2global_rotation"], one["ego2global_translation"]) == (ego["rotation"], ego["translation"])
            on_map = matrix(ego["rotation"], ego["translation"]) @ matrix(mount["rotation"], mount["translation"]) @ [*point, 1]
            in_lidar = point @ one["sensor2lidar_rotation"].T + one["sensor2lidar_translation"]
            np.testing.assert_allclose(lidar_to_global(info) @ [*in_lidar, 1], on_map, atol=1e-6)
            if channel != "lidar":
                np.testing.assert_array_equal(one["cam_intrinsic"], mount["camera_intrinsic"])
        assert info["lidar_path"] == f"data/nuscenes/{nusc.get('sample_data', sample['data']['LIDAR_TOP'])['filename']}"


def test_sweeps_are_those_before_the_nearest_first(exported: Exported) -> None:
    found = infos(exported, "rc6")
    assert [len(info["sweeps"]) for info in found] == [0, 1, 2, 0, 1]
    times = [sweep["timestamp"] for sweep in found[2]["sweeps"]]
    assert times == [found[1]["timestamp"], found[0]["timestamp"]]


def test_bevfusion_knows_the_location(exported: Exported) -> None:
    assert {info["location"] for info in infos(exported, "bevfusion")} == {"boston-seaport"}
    for camera in infos(exported, "bevfusion")[0]["cams"].values():
        np.testing.assert_array_equal(camera["camera_intrinsics"], camera["cam_intrinsic"])


@pytest.mark.parametrize("trainer", ["streampetr", "bevformer"])
def test_scenes_stay_sequences_when_sorted_by_time(exported: Exported, nusc: Any, trainer: str) -> None:
    form, name = OLD[trainer]
    whole = read(exported(form) / name)
    by_time = sorted(whole["infos"], key=lambda info: info["timestamp"])
    assert [info["token"] for info in by_time] == [info["token"] for info in whole["infos"]]
    assert [info["frame_idx"] for info in by_time] == [0, 1, 2, 0, 1]
    assert [not info["sweeps"] for info in by_time] == [True, False, False, True, False]  # how StreamPETR tells them apart
    assert [info["scene_token"] for info in by_time] == [nusc.get("sample", info["token"])["scene_token"] for info in by_time]
    for info in by_time:
        sample = nusc.get("sample", info["token"])
        assert (info["prev"], info["next"]) == (sample["prev"], sample["next"])
        shift = info["timestamp"] - sample["timestamp"]
        assert shift == whole["metadata"]["timestamp_shift_us"].get(nusc.get("scene", sample["scene_token"])["name"], 0)
        for one in (*info["cams"].values(), *info["sweeps"]):
            assert one["timestamp"] - nusc.get("sample_data", one["sample_data_token"])["timestamp"] == shift
    assert whole["metadata"]["timestamp_shift_us"] == {"beta": 11_000_000}
    assert whole["metadata"]["version"] == "v1.0-mini"


def today(exported: Exported) -> dict[str, Any]:
    return read(exported("mmdet3d") / "nuscenes_infos_train.pkl")


def test_todays_mmdet3d(exported: Exported, nusc: Any, root: Path) -> None:
    whole = today(exported)
    assert whole["metainfo"]["categories"] == {name: i for i, name in enumerate(CLASSES)} | {"animal": -1}
    assert (whole["metainfo"]["dataset"], whole["metainfo"]["info_version"]) == ("nuscenes", "1.1")
    assert [entry["sample_idx"] for entry in whole["data_list"]] == [0, 1, 2, 3, 4]
    for entry, old in zip(whole["data_list"], infos(exported, "rc6"), strict=True):
        sample = nusc.get("sample", entry["token"])
        assert entry["timestamp"] == sample["timestamp"] / 1e6
        to_global = np.array(entry["ego2global"]) @ np.array(entry["lidar_points"]["lidar2ego"])
        np.testing.assert_allclose(to_global, lidar_to_global(old), atol=1e-9)
        assert (root / "samples/LIDAR_TOP" / entry["lidar_points"]["lidar_path"]).is_file()
        assert len(entry.get("lidar_sweeps", [])) == len(old["sweeps"])
        for sweep, other in zip(entry.get("lidar_sweeps", []), old["sweeps"], strict=True):
            inverse = np.array(sweep["lidar_points"]["lidar2sensor"])
            there = inverse[:3, :3] @ other["sensor2lidar_translation"] + inverse[:3, 3]
            np.testing.assert_allclose(there, 0, atol=1e-9)
            assert (root / sweep["lidar_points"]["lidar_path"]).is_file()
        rows = [nusc.get("sample_annotation", token) for token in sample["anns"]]
        assert len(entry["instances"]) == len(rows)
        for instance, numbers, velocity, row in zip(entry["instances"], old["gt_boxes"], old["gt_velocity"], rows, strict=True):
            assert instance["bbox_3d"] == numbers.tolist()
            np.testing.assert_array_equal(instance["velocity"], velocity)
            name = NAMES[row["category_name"]]
            assert instance["bbox_label"] == instance["bbox_label_3d"] == whole["metainfo"]["categories"][name]
            assert instance["bbox_3d_isvalid"] is (row["num_lidar_pts"] > 0)
        assert list(entry["images"]) == list(entry["cam_instances"]) == CAMERAS
        for channel, image in entry["images"].items():
            assert (root / "samples" / channel / image["img_path"]).is_file()
            _, boxes, K = nusc.get_sample_data(sample["data"][channel], box_vis_level=2)
            np.testing.assert_array_equal(image["cam2img"], K)
            for row in rows:  # the lidar's box lands where the devkit's does
                box = next((box for box in boxes if box.token == row["token"]), None)
                if box is not None:
                    in_lidar = np.linalg.inv(to_global) @ [*row["translation"], 1]
                    np.testing.assert_allclose((np.array(image["lidar2cam"]) @ in_lidar)[:3], box.center, atol=1e-6)


def test_boxes_of_a_camera(exported: Exported, nusc: Any) -> None:
    seen = 0
    for entry in today(exported)["data_list"]:
        sample = nusc.get("sample", entry["token"])
        for channel, shown in entry["cam_instances"].items():
            _, boxes, K = nusc.get_sample_data(sample["data"][channel], selected_anntokens=sample["anns"], box_vis_level=2)
            row = nusc.get("sample_data", sample["data"][channel])
            for one in shown:
                seen += 1
                box = min(boxes, key=lambda box: float(np.linalg.norm(box.center - one["bbox_3d"][:3])))
                width, length, height = box.wlh
                yaw = box.orientation.yaw_pitch_roll[0]
                np.testing.assert_allclose(one["bbox_3d"], [*box.center, length, height, width, -yaw], atol=1e-6)
                pixel = K @ box.center
                np.testing.assert_allclose([*one["center_2d"], one["depth"]], [*pixel[:2] / pixel[2], pixel[2]], atol=1e-6)
                left, top, right, bottom = one["bbox"]
                assert 0 <= left < right <= row["width"]
                assert 0 <= top < bottom <= row["height"]
                assert one["depth"] > 0
                assert 0 <= one["bbox_label"] < 10
                assert one["attr_label"] == (8 if NAMES[box.name] in ("trailer", "bus") else 5)
    assert seen > 20


def test_streampetrs_boxes_are_those_of_the_cameras(exported: Exported) -> None:
    for info, entry in zip(infos(exported, "streampetr"), today(exported)["data_list"], strict=True):
        for i, channel in enumerate(info["cams"]):
            shown = [
                one for one in entry["cam_instances"][channel]
                if one["bbox"][2] - one["bbox"][0] >= 1 and one["bbox"][3] - one["bbox"][1] >= 1
            ]  # fmt: skip
            for field, key in {
                "bboxes2d": "bbox",
                "bboxes3d_cams": "bbox_3d",
                "centers2d": "center_2d",
                "depths": "depth",
            }.items():
                assert info[field][i].dtype == np.float32
                there = np.array([one[key] for one in shown], dtype=np.float32).reshape(info[field][i].shape)
                np.testing.assert_allclose(info[field][i], there, rtol=1e-6)
            assert info["labels2d"][i].tolist() == [one["bbox_label"] for one in shown]
            assert set(info["visibilities"][i]) <= {"1", "2", "4"}
            assert info["bboxes_ignore"][i].shape == (0, 4)
    assert sum(len(boxes) for info in infos(exported, "streampetr") for boxes in info["bboxes2d"]) > 20
