from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drivegen.datasets import nuscenes
from drivegen.pipeline.pipeline import Pipeline
from drivegen.sampling import Sampling
from drivegen.saved import model
from drivegen.scene import Box3D, Frame, Scene
from drivegen.scene.geometry import SE3
from drivegen.support import strict_yaml
from drivegen.support.errors import InputError
from drivegen.synthesis import Recipe, plan, sensor, synthesize, verify
from drivegen.synthesis.truth import Truth, annotated, truth
from drivegen.synthesis.variants import Edited, vary
from drivegen.synthesis.visibility import seen
from drivegen.synthesis.walls import Walls
from tests.street import camera, street_frame, street_scene
from tests.tiny_hosts import SIZE, tiny_host

PANDASET = Path(__file__).parents[3] / "shared" / "data" / "pandaset"

RECIPE = """
name: truth
images: jpeg
validation_scenes: true
variants:
  rearranged:
    seeds: 2
    boxes:
      drop: [{classes: [pedestrian], probability: 0.5}]
      swap: [{classes: [bicycle], to: motorcycle}, {classes: [barrier], to: traffic_cone}]
      move: [{classes: [car], forward_m: [-4, 4]}]
      jitter: [{position_m: 0.2, heading_deg: 4, size: 0.05}]
      insert: [{to: bus, count: [1, 1]}]
  turned:
    cameras: [{channel: CAM_FRONT, yaw_deg: 40}, {channel: CAM_BACK, drop: true}]
    only_seen: true
"""


def recipe(text: str = RECIPE) -> Recipe:
    return strict_yaml.build(Recipe, strict_yaml.parse(text, "test"))


def made(source: nuscenes.Dataset, out: Path) -> Path:
    host = tiny_host(("text", "boxes"))
    sampling = Sampling(sampler="ddim", steps=1, guidance=1.0)
    folder = model.save(host, out.parent / "model", sampling, image_size=SIZE, about={"data": "none"})
    pipe = Pipeline.from_pretrained(folder, "cpu", "float32")
    planned = plan.make(source, recipe(), pipe, 1)
    synthesize(source, out, recipe(), pipe, planned)
    assert verify(out) == ()
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert size / 2 < planned.facts["bytes"] < size * 2
    return out


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made of two scenes: one with sweeps, one without."""
    folder = tmp_path_factory.mktemp("truth")
    scenes = []
    for name in ("alpha", "beta"):
        scene, frames = street_scene(2, name), []
        for frame in scene.frames:
            path = folder / f"{frame.token}.bin"
            pose = frame.global_SE3_ego @ frame.ego_SE3_lidar
            path.write_bytes(sensor.cast(frame.boxes[:3], frame.global_SE3_ego, pose).astype("<f4").tobytes())
            frames.append(replace(frame, lidar_path=path) if name == "alpha" else frame)
        scenes.append(replace(scene, frames=tuple(frames)))
    nuscenes.write(scenes, folder / "data")
    (folder / "data" / "can_bus").mkdir()
    (folder / "data" / "can_bus" / "alpha_pose.json").write_text("[1]")
    (folder / "data" / "can_bus" / "alpha_b_pose.json").write_text("[2]")
    return made(nuscenes.open(folder / "data"), folder / "out")


def precisions(root: Path) -> dict[str, float]:
    """Average precision by class, the devkit's own: its ground truth, as its filter leaves it, against itself."""
    import matplotlib as mpl

    mpl.use("Agg")
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.loaders import (
        add_center_dist,
        filter_eval_boxes,
        get_samples_of_custom_split,
        load_gt_of_sample_tokens,
    )
    from nuscenes.eval.detection.data_classes import DetectionBox
    from nuscenes.eval.detection.evaluate import DetectionEval
    from nuscenes.nuscenes import NuScenes

    devkit, settings = NuScenes("v1.0-mini", str(root), verbose=False), config_factory("detection_cvpr_2019")
    tokens = get_samples_of_custom_split("synthetic_train", devkit)
    assert len(tokens) == len(devkit.sample)
    boxes = add_center_dist(devkit, load_gt_of_sample_tokens(devkit, tokens, DetectionBox))
    kept = filter_eval_boxes(devkit, boxes, settings.class_range)
    results = {token: [box.serialize() | {"detection_score": 0.5} for box in kept[token]] for token in kept.sample_tokens}
    path = root.parent / "results.json"
    path.write_text(json.dumps({"meta": {}, "results": results}, default=list))
    found, _ = DetectionEval(devkit, settings, str(path), "synthetic_train", str(root.parent / "eval"), False).evaluate()
    classes = Counter(box.detection_name for box in kept.all)
    return {name: min(found.get_label_ap(name, far) for far in settings.dist_ths) for name in classes}


def check_points(root: Path) -> Counter[str]:
    """Count how sweeps came about; every count is that of the sweep, and what a camera sees has points."""
    for name in (dataset := nuscenes.open(root)).scenes:
        for frame in dataset.scene(name).frames:
            for box, view in zip(frame.boxes, seen(frame, frame.boxes), strict=True):
                assert box.num_lidar_pts or not len(view.places), (name, frame.token, box.category)
    lines = [json.loads(line) for line in (root / "manifest.jsonl").read_text().splitlines()]
    return Counter({line["sample_token"]: line["lidar"] for line in lines}.values())


def test_the_devkits_evaluation_finds_all_that_its_filter_keeps(street: Path) -> None:
    found = precisions(street)
    assert set(found) == {"car", "truck", "motorcycle", "pedestrian", "bus", "traffic_cone", "bicycle", "barrier"}
    assert min(found.values()) == pytest.approx(1)


def test_what_a_camera_sees_has_points(street: Path) -> None:
    ways = check_points(street)
    assert (ways["cast"], ways["edited"]) == (6, 6)


def test_can_bus_data_go_with_their_scene(street: Path) -> None:
    found = {path.name: path.read_text() for path in (street / "can_bus").iterdir()}
    names = ("rearranged-0", "rearranged-1", "turned")
    assert found == {f"alpha__{name}_pose.json": "[1]" for name in names}


@pytest.mark.slow
@pytest.mark.skipif(not PANDASET.is_dir(), reason="PandaSet is not there")
def test_real_data_give_a_dataset_that_is_true(tmp_path: Path) -> None:
    scene = nuscenes.open(PANDASET).scene("scene-0002")
    nuscenes.write([replace(scene, frames=scene.frames[::8])], tmp_path / "data")
    out = made(nuscenes.open(tmp_path / "data"), tmp_path / "out")
    (tmp_path / "out" / "v1.0-mini" / "splits.json").write_text(
        json.dumps({"synthetic_train": list(nuscenes.open(out).scenes)})
    )
    found = precisions(out)
    assert {"car", "truck", "pedestrian", "motorcycle", "traffic_cone"} <= set(found)
    assert min(found.values()) == pytest.approx(1)
    check_points(out)


# -- one frame ---------------------------------------------------------------------------------------------------------------


def box(x: float, y: float, name: str, size: tuple[float, float, float] = (2, 4, 2), category: str = "car") -> Box3D:
    return Box3D(category, SE3.from_yaw(0, (x, y, size[2] / 2)), np.array(size, dtype=float), name)


def true_of(frame: Frame, variant: str = "{}") -> tuple[Frame, Truth]:
    text = f"name: r\nvariants: {{v: {variant}}}"
    varied = vary(Scene("s", (frame,)), recipe(text), "v", "v", "")
    found = truth(varied.scene.frames[0], varied.edits[0])
    return annotated(varied.scene.frames[0], found.boxes), found


def places(frame: Frame, found: Truth) -> np.ndarray:
    points = np.frombuffer(found.sweep, "<f4").reshape(-1, 5)
    return (frame.global_SE3_ego @ frame.ego_SE3_lidar).transform(points[:, :3])


def front(*boxes: Box3D, path: Path | None = None) -> Frame:
    return Frame("f", (camera("CAM_FRONT", 0, SE3.identity()),), boxes, lidar_path=path)


def test_without_a_sweep_one_is_cast() -> None:
    frame, found = true_of(front(box(12, 0, "near"), box(40, 0.5, "hidden", (1, 1, 1)), box(15, 6, "aside")))
    points = places(frame, found)
    assert found.lidar == "cast"
    assert len(points) > 10_000
    assert np.abs(points[:, 2]).min() < 1e-3  # the ground
    near, hidden, aside = (b.num_lidar_pts for b in frame.boxes)
    assert near > 100
    assert aside > 50
    assert hidden == 0
    assert [b.visibility for b in frame.boxes] == [4, 1, 4]
    behind = points[(points[:, 0] > 16) & (np.abs(points[:, 1]) < 0.5)]
    assert not len(behind[behind[:, 2] < 0.1][behind[behind[:, 2] < 0.1][:, 0] < 25])  # the near one's shadow


def test_a_sweep_that_is_no_sweep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sweep.bin"
    path.write_bytes(b"x" * 21)
    with pytest.raises(InputError, match="1 bytes more than whole points"):
        true_of(front(box(12, 0, "near"), path=path))


def swept(folder: Path, *boxes: Box3D, beside: tuple[Box3D, ...] = ()) -> Frame:
    """A frame whose sweep was cast on its boxes, and on others that are not annotated."""
    frame = front(*boxes, path=folder / "sweep.bin")
    pose = frame.global_SE3_ego @ frame.ego_SE3_lidar
    points = sensor.cast((*boxes, *beside), frame.global_SE3_ego, pose)
    frame.lidar_path.write_bytes(points.astype("<f4").tobytes())
    return frame


def test_moved_points_are_hidden_by_what_stands_before_them(tmp_path: Path) -> None:
    frame = swept(tmp_path, box(12, 0, "near", (6, 4, 3)), box(20, 12, "car"))
    before = true_of(frame)[0].boxes[1].num_lidar_pts
    aside = replace(frame, boxes=(replace(frame.boxes[0], category="truck"), frame.boxes[1]))
    moved, _ = true_of(aside, "{boxes: {move: [{classes: [car], left_m: [-12, -12]}]}}")
    assert before > 20
    assert moved.boxes[1].num_lidar_pts == 0
    assert moved.boxes[1].visibility == 1
    free, found = true_of(aside, "{boxes: {move: [{classes: [car], left_m: [4, 4]}]}}")
    assert free.boxes[1].num_lidar_pts == before
    assert found.lidar == "edited"


def test_rays_go_on_where_an_object_is_gone(tmp_path: Path) -> None:
    frame = swept(tmp_path, box(12, 0, "gone"))
    new = box(22, 0, "new")
    edited = Edited(frame.boxes, ((frame.boxes[0], None), (None, new)), False)
    found = truth(replace(frame, boxes=(new,)), edited)
    assert found.boxes[0][1] > 30
    points = places(frame, found)
    assert not len(points[(np.abs(points[:, 0] - 12) < 1.9) & (np.abs(points[:, 1]) < 0.9) & (points[:, 2] > 0.1)])


def test_what_is_seen_and_has_no_points_is_given_some(tmp_path: Path) -> None:
    frame = swept(tmp_path, box(12, 0, "near"))
    bare = replace(frame, boxes=(*frame.boxes, box(80, 25, "far", (0.4, 0.4, 1)), box(-20, 0, "behind")))
    after, found = true_of(bare)
    assert found.lidar == "edited"
    assert after.boxes[1].num_lidar_pts > 0
    assert after.boxes[2].num_lidar_pts == 0  # no camera sees it
    kept = truth(bare, Edited(bare.boxes, (), False), only_seen=True)
    assert [about is None for about in kept.boxes] == [False, False, True]
    same, untouched = true_of(frame)
    assert untouched.lidar == "recorded"
    assert untouched.sweep == frame.lidar_path.read_bytes()
    assert same.boxes[0].num_lidar_pts > 0


def test_what_stands_behind_a_wall_is_less_visible(tmp_path: Path) -> None:
    wall = box(15, 0, "wall", (20, 1, 4))
    frame = swept(tmp_path, box(10, 9, "car"), beside=(wall,))
    hidden, _ = true_of(frame, "{boxes: {move: [{forward_m: [15, 15], left_m: [-8, -8]}]}}")
    assert hidden.boxes[0].visibility == 1
    assert true_of(frame, "{boxes: {move: [{left_m: [-8, -8]}]}}")[0].boxes[0].visibility == 4
    nothing = Walls(np.zeros((0, 3)), (), SE3.identity(), np.zeros(3))
    assert nothing.share_hidden(np.ones((3, 3))) == 0


def test_what_several_cameras_see_counts_once() -> None:
    half = box(14, -9.5, "half", (6, 1, 2))
    one = Frame("f", (camera("CAM_FRONT", 0, SE3.identity()),), (half,))
    both = Frame("f", (*one.cameras, camera("CAM_FRONT_RIGHT", -55, SE3.identity())), (half,))
    first, second = seen(one, one.boxes)[0].share, seen(both, both.boxes)[0].share
    assert 0 < first < 0.9
    assert second == pytest.approx(1)
    assert seen(street_frame(0), ()) == []
