"""Evaluation: scores by hand, distances in closed form, points on a wall, the committed referee, a whole measurement."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench import referee_training as training
from drivegen.evaluate import frechet_distance, referee
from drivegen.evaluate.images import Store
from drivegen.evaluate.labels import floor_overlaps, overlaps
from drivegen.evaluate.measure import Measurement, Plan
from drivegen.evaluate.metrics.consistency import colour_error, correspond, correspondences
from drivegen.evaluate.metrics.scores import bootstrap, control, excess, overlap, ratio
from drivegen.evaluate.people import PeopleNet, PeopleReferee
from drivegen.evaluate.referee import GROUP_OF_CLASS, GROUPS, Referee, RefereeNet
from drivegen.evaluate.renders import Renders, conditions_of
from drivegen.evaluate.table import as_json, by_seed, markdown
from drivegen.evaluate.variants import TURNED, Key, donor, noise_seed, turned, variants, with_boxes_of
from drivegen.scene import Frame
from drivegen.scene.geometry import SE3, project
from drivegen.support.errors import InputError
from drivegen.world import CLASSES
from tests.street import camera, street_frame


def random_referee(seed: int = 0) -> Referee:
    torch.manual_seed(seed)
    return Referee(RefereeNet())


# ---- scores


def test_overlap_by_hand():
    truth = np.array([[1, 1, 0], [0, 2, 2]], np.uint8)
    said = np.array([[1, 0, 0], [1, 2, 0]], np.uint8)
    assert overlap(said, truth, 1).tolist() == [1, 3]
    assert overlap(said, truth, 2).tolist() == [1, 2]
    assert ratio(np.array([[1.0, 3.0], [0.0, 0.0]]))[0] == pytest.approx(1 / 3)
    assert np.isnan(ratio(np.array([0.0, 0.0])))


@pytest.mark.parametrize(("generated", "expected"), [(8, 1.0), (2, 0.0), (5, 0.5)])
def test_control_runs_from_the_floor_to_the_renders(generated, expected):
    assert control(np.array([generated, 10, 8, 10, 2, 10.0])) == pytest.approx(expected)


def test_excess_takes_the_renders_own_error_off():
    assert excess(np.array([4, 2, 6, 2, 2, 2.0])) == pytest.approx((2 - 1) / (3 - 1))


def test_bootstrap_of_equal_scenes_has_no_width_and_pools_before_dividing():
    same = bootstrap(np.tile([3.0, 4.0], (5, 1)), ratio)
    assert (same.value, same.low, same.high, same.scenes) == (0.75, 0.75, 0.75, 5)
    mixed = bootstrap(np.array([[1.0, 1.0], [0.0, 9.0]]), ratio)
    assert mixed.value == pytest.approx(0.1)
    assert (mixed.low, mixed.high) == (0.0, 1.0)


def test_bootstrap_interval_is_that_of_a_mean():
    values = np.random.default_rng(0).normal(5, 1, 400)
    found = bootstrap(np.stack([values, np.ones(400)], 1), ratio)
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.2 * half)


def test_floor_is_held_against_the_same_camera_of_other_scenes():
    full, empty = np.ones((2, 2), np.uint8), np.zeros((2, 2), np.uint8)
    truth = {(Key(s, 0), "F"): full for s in range(3)} | {(Key(0, 0), "B"): full}
    said = {(Key(0, 0), "F"): full, (Key(1, 0), "F"): empty, (Key(2, 0), "F"): full, (Key(0, 0), "B"): full}
    assert overlaps(truth, said, 1, 3)[:, 0].tolist() == [8, 0, 4]
    # Scene 1 sees the full ones of 0 and 2; the others see the empty one of 1 and each other; B has no other scene.
    assert floor_overlaps(truth, said, 1, 3).tolist() == [[4, 8], [8, 8], [4, 8]]


# ---- Fréchet distance


def whitened(count: int, width: int) -> np.ndarray:
    z = np.random.default_rng(1).normal(size=(count, width))
    z -= z.mean(0)
    return z @ np.linalg.inv(np.linalg.cholesky(np.cov(z, rowvar=False))).T


def test_frechet_distance_in_closed_form():
    z = whitened(200, 5)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    a, b = np.array([1, 2, 3, 0.5, 1.0]), np.array([2, 1, 3, 1.5, 0.0])
    shift = np.array([1, 0, -2, 0, 0.5])
    # Gaussians whose covariances share their axes: |Δμ|² + Σ (σa − σb)².
    expected = (shift**2).sum() + ((a - b) ** 2).sum()
    assert frechet_distance(z * a @ turn, (z * b + shift) @ turn) == pytest.approx(expected)
    assert frechet_distance(z * a, z * a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_agrees_with_the_matrix_square_root():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 4)), rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4)) + 1
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert frechet_distance(a, b) == pytest.approx(expected)


def test_frechet_distance_refuses_what_does_not_compare():
    with pytest.raises(InputError, match=r"\(5, 3\) and \(5, 4\)"):
        frechet_distance(np.zeros((5, 3)), np.zeros((5, 4)))


# ---- consistency


def wall(view, size=(90, 160)):
    """A camera's picture and depth of a wall at x = 12 m, coloured smoothly by place."""
    height, width = size
    rows, columns = np.mgrid[:height, :width] + 0.5
    rays = np.stack([columns, rows, np.ones(size)], -1) @ np.linalg.inv(view.K_image).T @ view.global_SE3_camera.rotation.T
    eye = view.global_SE3_camera.translation
    with np.errstate(divide="ignore"):
        reach = np.where(rays[..., 0] > 0.05, (12 - eye[0]) / rays[..., 0], np.inf)
    points = eye + rays * np.where(np.isfinite(reach), reach, 0)[..., None]
    y, z = points[..., 1], points[..., 2]
    colour = np.stack([np.sin(y / 4), np.cos(z / 3), np.sin((y + z) / 5)], -1)
    return ((colour * 0.45 + 0.5) * 255).round().astype(np.uint8), reach.astype(np.float32)


def pair_of_cameras():
    size = (160, 90)
    moved = SE3.from_yaw(0.02, (0.3, 0.1, 0))  # the cameras fire at different times
    return camera("A", 25, size=size), camera("B", -15, ego=moved, size=size)


def test_corresponding_points_of_a_wall_have_one_colour():
    a, b = pair_of_cameras()
    (image_a, depth_a), (image_b, depth_b) = wall(a), wall(b)
    pair = correspond(a, b, depth_a, depth_b)
    assert len(pair.rows) > 1000
    total, count = colour_error(pair, image_a, image_b)
    assert count == len(pair.rows)
    assert total / count < 0.003  # rounding of colours alone
    other = colour_error(pair, image_a, 255 - image_b)
    assert other[0] / other[1] > 0.2
    half = colour_error(pair, image_a, np.roll(image_b, 1, axis=1))
    assert half[0] / half[1] > 3 * total / count  # a shift by one pixel is seen


def test_points_hidden_from_the_other_view_do_not_correspond():
    a, b = pair_of_cameras()
    depth_a, depth_b = wall(a)[1], wall(b)[1]
    assert len(correspond(a, b, depth_a, np.minimum(depth_b, 5)).rows) == 0
    seen = correspond(a, b, depth_a, depth_b)
    z = depth_a[seen.rows, seen.columns].astype(float)
    rays = np.stack([seen.columns + 0.5, seen.rows + 0.5, np.ones(len(z))], -1) @ np.linalg.inv(a.K_image).T
    pixels, _ = project(b.K_image, (b.global_SE3_camera.inverse() @ a.global_SE3_camera).transform(rays * z[:, None]))
    np.testing.assert_allclose(seen.positions + 0.5, pixels, atol=1e-6)


def test_each_camera_is_compared_with_its_neighbours_only():
    frame = street_frame()
    depths = {c: np.full((180, 320), 20, np.float32) for c in frame.channels}
    pairs = {(p.a, p.b) for p in correspondences(frame, depths)}
    assert ("CAM_FRONT", "CAM_FRONT_LEFT") in pairs
    assert ("CAM_FRONT_LEFT", "CAM_FRONT") in pairs
    assert not any({a, b} == {"CAM_FRONT", "CAM_BACK"} for a, b in pairs)


# ---- variants


def test_foreign_boxes_stand_about_the_ego_as_they_stood_about_the_other():
    here, there = street_frame(0, heading_rad=1.0), street_frame(3)
    moved = with_boxes_of(here, there)
    assert moved.cameras == here.cameras
    for box, source in zip(moved.boxes, there.boxes, strict=True):
        found = (here.global_SE3_ego.inverse() @ box.global_SE3_object).matrix
        np.testing.assert_allclose(found, (there.global_SE3_ego.inverse() @ source.global_SE3_object).matrix, atol=1e-9)


def test_turning_the_front_camera_leaves_the_others():
    frame = street_frame()
    for number, sign in ((0, 1), (1, -1)):
        edited = turned(frame, Key(0, number))
        change = edited.camera(TURNED).yaw_rad - frame.camera(TURNED).yaw_rad
        assert change == pytest.approx(sign * math.radians(20))
        assert all(edited.camera(c) is frame.camera(c) for c in frame.channels if c != TURNED)


def test_every_frame_has_seeds_of_its_own():
    keys = [Key(s, f) for s in range(20) for f in range(10)]
    seeds = [noise_seed(20261, key, second) for key in keys for second in (False, True)]
    assert len(set(seeds)) == len(seeds)
    assert all(donor(key, 20).scene != key.scene for key in keys)


def test_conditions_are_read_from_the_description():
    assert conditions_of("Night, rain. Junction in a suburb with cars.") == (2, 2)
    with pytest.raises(InputError, match="time of day"):
        conditions_of("a street by hand, day")


# ---- referee


def test_every_city_class_has_a_group():
    assert len(GROUP_OF_CLASS) == len(CLASSES)
    names = {name: GROUPS[GROUP_OF_CLASS[i]] for i, name in enumerate(CLASSES)}
    assert names["road"] == names["ped_crossing"] == names["carpark_area"] == "drivable"
    assert names["car"] == names["bicycle"] == names["trailer"] == "vehicle"
    assert names["traffic_cone"] == "barrier"
    assert names["walkway"] == "walkway"


def test_a_batch_is_judged_as_its_pictures_are_and_any_size_is_read():
    images = np.random.default_rng(0).integers(0, 255, (3, 50, 70, 3)).astype(np.uint8)
    judge = random_referee()
    together = judge(images)
    alone = [judge([image]) for image in images]
    assert together.groups.shape == (3, 50, 70)
    np.testing.assert_array_equal(together.groups, np.concatenate([v.groups for v in alone]))
    np.testing.assert_allclose(together.features, np.concatenate([v.features for v in alone]), rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="uint8"):
        judge(images.astype(np.float32))


def small_renders(count: int = 8) -> Renders:
    rng = np.random.default_rng(0)
    groups = np.zeros((count, 32, 64), np.uint8)
    groups[:, 16:] = 1
    images = np.where(groups[..., None] == 1, 40, 200) + rng.integers(-5, 5, (count, 32, 64, 3))
    return Renders(images.astype(np.uint8), groups, np.arange(count) % 3, np.arange(count) % 4)


@pytest.mark.slow
def test_training_goes_on_where_it_was_and_learns(tmp_path):
    recipe = training.Recipe(steps=24, batch=4, warm_up=2)
    whole = training.train(training.RefereeLesson(small_renders()), recipe, tmp_path / "a.pt", save_every=12).net
    assert torch.load(tmp_path / "a.pt", weights_only=True)["step"] == 24
    # A run that is cut after step 12 and goes on ends at the same weights.
    state = tmp_path / "b.pt"

    class Cut(Exception):
        pass

    def stop(*args, **kwargs):
        keep(*args, **kwargs)
        raise Cut

    keep = training._save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_save", stop)
        with pytest.raises(Cut):
            training.train(training.RefereeLesson(small_renders()), recipe, state, "one", save_every=12)
    trained = training.train(training.RefereeLesson(small_renders()), recipe, state, "two", save_every=12)
    net = trained.net
    assert trained.history == ((0, "one"), (12, "two"))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=0, atol=0, msg=name)
    with pytest.raises(InputError, match="was made with"):
        training.train(training.RefereeLesson(small_renders()), replace(recipe, batch=5), state)
    training.save(net, tmp_path / "referee.safetensors", {})
    metrics = training.check(referee.load(tmp_path / "referee.safetensors"), small_renders())
    assert metrics["iou_drivable"] > 0.7


def test_a_changed_referee_is_refused(tmp_path):
    path = tmp_path / "referee.safetensors"
    training.save(RefereeNet(), path, {})
    referee.load(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="sha256"):
        referee.load(path)


def test_the_committed_referee_is_small_and_good_enough():
    about = json.loads(referee.ASSET.with_suffix(".json").read_text())
    judge = referee.default()
    assert referee.ASSET.stat().st_size <= 3_000_000
    assert about["metrics"]["iou_drivable"] >= 0.90
    assert about["metrics"]["iou_vehicle"] >= 0.65
    assert judge(np.zeros((1, 128, 224, 3), np.uint8)).groups.shape == (1, 128, 224)


@pytest.mark.slow
def test_the_committed_referee_reads_a_render_of_the_city():
    from drivegen import world

    city = world.build(4242, 3)
    frame = city.scene.frames[0]
    views = [city.render(frame, channel) for channel in frame.channels]
    verdict = referee.default()([view.rgb for view in views])
    group = GROUPS.index("drivable")
    sums = sum(overlap(said, GROUP_OF_CLASS[view.classes], group) for said, view in zip(verdict.groups, views, strict=True))
    assert sums[0] / sums[1] > 0.8


# ---- a whole measurement


def test_images_of_other_weights_are_not_mixed(tmp_path):
    store = Store(tmp_path)
    store.bind({"weights": "a", "steps": 20})
    store.bind({"weights": "a", "steps": 20})
    with pytest.raises(InputError, match="weights was 'a' and is 'b'"):
        store.bind({"weights": "b", "steps": 20})


def test_plan_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(InputError, match="did you mean 'no_layout'"):
        Plan(tmp_path, only=("no_layuot",), nulled=("layout",))
    with pytest.raises(InputError, match="less"):
        Plan(tmp_path, frames=3, less={"boxes": 4}, nulled=("layout",))


def test_fewer_frames_are_asked_for_by_kind_or_by_variant(tmp_path):
    plan = Plan(tmp_path, scenes=2, frames=10, less={"turned": 1, "no_layout": 2, "null": 5}, nulled=("layout",))
    counts = {v.name: len(plan.chosen(v)) for v in variants(("layout",)) if v.dataset == "city"}
    fewer = {"all-turned": 2, "no_layout-turned": 2, "no_layout": 4, "null": 10}
    assert counts == dict.fromkeys(counts, 20) | fewer
    no_layout = next(v for v in variants(("layout",)) if v.name == "no_layout")
    assert [(key.scene, key.frame) for key in plan.chosen(no_layout)] == [(0, 0), (0, 5), (1, 0), (1, 5)]


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    from drivegen.catalog.registry import load
    from drivegen.host.host import Host
    from drivegen.sampling import Sampling
    from drivegen.saved import model
    from drivegen.testing import tiny_backbone

    host = Host(tiny_backbone(), {"text": load("text")(), "camera": load("camera")(), "layout": load("layout")()})
    return model.save(host, tmp_path_factory.mktemp("model") / "m", Sampling(steps=2), image_size=(48, 80))


def test_cities_stand_side_by_side_with_their_mean():
    from drivegen.evaluate.figures import Figure

    one = [Figure("drivable_control", "all", 0.9, 0.85, 0.95, 40, 20), Figure("vehicle_control", "no_layout", 0.02)]
    two = [Figure("drivable_control", "all", 0.8, 0.7, 0.9, 40, 20), Figure("vehicle_control", "no_layout", math.nan)]
    text = by_seed({5: one, 20261: two}, {"machine": "here"})
    assert "| figure | goal | seed 5 | seed 20261 | mean |" in text
    assert "0.900 (0.850 to 0.950) ✓ | 0.800 (0.700 to 0.900) ✗ | 0.850 |" in text
    assert "| 0.020 | nan | 0.020 |" in text
    assert text.index("**all conditions**") < text.index("**`layout` null**")


def test_processes_share_the_frames_of_a_folder(tiny_model, tmp_path):
    from drivegen.evaluate.images import Job, Store, generate
    from drivegen.pipeline.pipeline import Pipeline

    pipe = Pipeline.from_pretrained(tiny_model, dtype="float32")
    store = Store(tmp_path)
    frame = street_frame().resized(80, 48)
    for channel in frame.channels[2:]:
        frame = frame.drop_camera(channel)
    jobs = [Job("all", name, frame, i, latents=True) for i, name in enumerate(("0000-00", "0001-00"))]
    made = generate(pipe, jobs, store)
    with store.claim("all", "0000-00") as mine:  # as another process would
        assert mine
        assert next(made).name == "0001-00"
        assert not store.has("all", "0000-00", frame)
    assert [job.name for job in made] == ["0000-00"]
    latents = store.latents("all", "0001-00")
    assert latents is not None
    decoded = pipe.host.backbone.first_stage.decode(torch.from_numpy(latents))
    picture = np.stack(list(store.load("all", "0001-00", frame).values()))
    unit = (decoded / 2 + 0.5).clamp(0, 1).movedim(1, -1).numpy()
    assert np.abs(unit * 255 - picture).max() <= 0.51


@pytest.mark.slow
def test_a_measurement_fills_the_table_and_generates_nothing_twice(tiny_model, tmp_path):
    from drivegen.pipeline.pipeline import Pipeline

    pipe = Pipeline.from_pretrained(tiny_model, dtype="float32")
    names = tuple(
        v.name for v in variants(("layout",)) if v.dataset == "city" and v.name not in ("no_layout-boxes", "no_layout-second")
    )
    plan = Plan(tmp_path / "m", scenes=2, frames=1, seed=31, only=names, nulled=("layout",))
    measurement = Measurement(pipe, random_referee(), plan)
    measurement.generate()
    written = {path: path.stat().st_mtime_ns for path in (plan.out / "images").rglob("*.png")}
    # One frame is lost: only it is made again, and to the same bytes.
    lost = plan.out / "images" / "no_layout" / "0001-00"
    before = {path.name: path.read_bytes() for path in lost.iterdir()}
    shutil.rmtree(lost)
    Measurement(pipe, random_referee(), plan).generate()
    assert {path.name: path.read_bytes() for path in lost.iterdir()} == before
    assert all(path.stat().st_mtime_ns == time for path, time in written.items() if path.parent != lost)
    found = Measurement(pipe, random_referee(), plan, PeopleReferee(PeopleNet())).figures()
    names = {(figure.name, figure.column) for figure in found}
    shared = ("drivable_control", "vehicle_control", "weather_relative", "drivable_turned_share", "frechet",
              "latent_energy_departure")  # fmt: skip
    assert {(name, column) for name in shared for column in ("all", "no_layout")} <= names
    assert {("consistency", "all"), ("wrong_boxes_share_left", "all")} <= names
    assert {
        ("people_recall_relative", "all"),
        ("people_recall_relative", "no_layout"),
        ("vae_people_recall_relative", "all"),
    } <= names
    assert {("vae_drivable_iou", "all"), ("null_vehicle_iou", "all"), ("frechet_vae", "all")} <= names
    assert {figure.frames for figure in found if figure.name == "drivable_control"} == {2}
    text = markdown(found, {"machine": "here"})
    assert "| drivable control score | ≥ 0.85 |" in text
    json.dumps(as_json(found, {}), allow_nan=False)


@pytest.mark.slow
def test_another_dataset_has_its_recall_and_that_of_its_own_pictures(tiny_model, tmp_path):
    from drivegen.evaluate.cities import plain_city
    from drivegen.pipeline.pipeline import Pipeline

    pipe = Pipeline.from_pretrained(tiny_model, dtype="float32")
    plain_city(tmp_path / "other", 1, 2, 32, pipe.model.image_size, workers=1)
    plan = Plan(tmp_path / "m", scenes=2, frames=1, seed=31, only=("all", "pandaset-all"), pandaset=tmp_path / "other")
    measurement = Measurement(pipe, random_referee(), plan)
    measurement.generate()
    found = {figure.name: figure.frames for figure in measurement.figures() if figure.name.startswith("pandaset")}
    assert any(name.startswith("pandaset_pictures") for name in found)
    assert set(found.values()) == {2}


def test_renders_score_one(tmp_path):
    """The city's own pictures, put in the place of generated ones, have a control score of 1 and no excess error."""
    from drivegen.evaluate.cities import plain_city
    from drivegen.evaluate.figures import Truth, condition_figures, control_figures, frechet_figure
    from drivegen.evaluate.labels import Judged

    city = plain_city(tmp_path / "city", 2, 1, 31, (48, 80), workers=1)
    truth = Truth(2)
    for key, frame in city.frames.items():
        truth.see(random_referee(), key, {c: city.view(key, c) for c in frame.channels})
    truth.renders.labels.update(truth.labels)  # a referee that never errs
    time, weather = ({k: conditions_of(f.description)[i] for k, f in city.frames.items()} for i in (0, 1))
    right = {"time": {p: time[p[0]] for p in truth.labels}, "weather": {p: weather[p[0]] for p in truth.labels}}
    truth = replace(truth, time=time, weather=weather, renders=replace(truth.renders, **right))
    same: Judged = truth.renders
    values = {f.name: f.value for f in [*control_figures(truth, same, "all"), *condition_figures(truth, same, "all")]}
    assert values["weather_relative"] == values["time_of_day_accuracy"] == 1
    assert values["drivable_control"] == pytest.approx(1)
    assert values["vehicle_iou_ratio"] == pytest.approx(1)
    assert frechet_figure("frechet", "all", same, truth.renders).value == pytest.approx(0, abs=1e-6)
    assert values["drivable_iou"] == 1


def test_expected_places_of_real_scenes():
    from drivegen.evaluate.metrics.expected import expected

    frame: Frame = street_frame()
    view = expected(frame, "CAM_FRONT")
    assert view.vehicle.any()
    assert view.drivable is not None
    assert view.drivable.any()
    assert not (view.vehicle & view.drivable).any()
    assert not expected(replace(frame, boxes=()), "CAM_FRONT").vehicle.any()
