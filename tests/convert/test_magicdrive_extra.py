"""MagicDrive's variants and its pre-processing, part by part, against tensors that its own code computed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.configuration_utils import FrozenDict
from pyquaternion import Quaternion
from safetensors.torch import load_file
from torch import Tensor, nn

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.catalog import registry
from drivegen.convert import magicdrive
from drivegen.convert.magicdrive_config import TEMPLATE
from drivegen.host import batch as data
from drivegen.host.host import Host
from drivegen.plugin import Arrays, Grid, Plugin, Signal
from drivegen.plugin.prompts import PromptReader
from drivegen.scene import BEV_CLASSES, DETECTION_CLASSES, Box3D, Camera, Frame, MapPolygon, VectorMap
from drivegen.scene.geometry import SE3, project
from drivegen.support.weights import load_strict
from tests.street import street_frame
from tests.tiny_models import tiny_backbone, tiny_tokenizer

EXTRA = Path(__file__).parents[3] / "shared" / "fixtures" / "magicdrive" / "golden_extra"
golden = pytest.mark.skipif(not EXTRA.is_dir(), reason="the golden tensors are not here")


def relative(ours: Any, theirs: Tensor) -> float:
    ours = torch.as_tensor(ours)
    assert ours.shape == theirs.shape
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


# -- attention and zero types ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone()


class UNet2DConditionModel(nn.Module):
    """A UNet that is one transformer block: latents (N, C, L, 1) are its stream. Its family is told by its class's name."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        from diffusers.models.attention import BasicTransformerBlock

        block = BasicTransformerBlock(width, heads, width // heads, cross_attention_dim=context)
        self.net = nn.Module()
        self.net.transformer_blocks = nn.ModuleList([block])
        self.config = FrozenDict(cross_attention_dim=context)

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, **unused: Any) -> tuple[Tensor]:
        stream = self.net.transformer_blocks[0](x.flatten(2).mT, encoder_hidden_states=encoder_hidden_states)
        return (stream.mT[..., None],)


class Given(Plugin):
    """Tokens as they are given."""

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        return Signal(arrays["tokens"])


@golden
@pytest.mark.parametrize("connector", ["zero_linear", "gated", "none"])
@pytest.mark.parametrize("attention", ["add", "concat", "self"])
@torch.no_grad()
def test_cross_view_block(backbone: Backbone, attention: str, connector: str) -> None:
    every = load_file(EXTRA / "blocks.safetensors")
    theirs = below(every, f"{attention}.{connector}.")
    stream, tokens = every["hidden_states"], every["encoder_hidden_states"]
    backbone.unet = UNet2DConditionModel(stream.shape[-1], tokens.shape[-1], heads=2)
    plugins = {"given": Given(), "cross_view": registry.load("cross_view")(attention=attention, connector=connector)}
    host = Host(backbone, plugins).eval()
    states: dict[str, dict[str, Tensor]] = {"": {}, "cross_view": {}}
    for key, value in below(theirs, "w.").items():
        plugin, own = magicdrive.place("unet", f"net.transformer_blocks.0.{key}")
        states[plugin][own] = value
    load_strict(backbone.unet, states[""], "block")
    load_strict(plugins["cross_view"], states["cross_view"], "cross_view")
    views = 6
    ring = torch.tensor([[(k - 1) % views, (k + 1) % views] for k in range(views)])
    grid = Grid(len(stream) // views, 1, views)
    arrays = {"given": {"tokens": tokens}, "cross_view": {"neighbours": ring.expand(grid.scenes, -1, -1)}}
    ours = host(stream.mT[..., None], torch.tensor(5), host.encode(arrays, grid))
    assert relative(ours.flatten(2).mT, theirs["out"]) <= 1e-5


# -- map embedders -----------------------------------------------------------------------------------------------------


@golden
@pytest.mark.parametrize("name", ["default_200", "default_400", "plus_200_34x92"])
@torch.no_grad()
def test_map_embedder(name: str) -> None:
    theirs = below(load_file(EXTRA / "map_embedders.safetensors"), f"{name}.")
    state = below(theirs, "w.")
    channels = [state[f"{key}.weight"].shape[0] for key in ("conv_in", "blocks.1", "blocks.3", "blocks.5")]
    bird = theirs["map"].float()
    backbone = tiny_backbone(unet={"block_out_channels": (6, 12), "norm_num_groups": 2, "attention_head_dim": 2})
    kind = "adaptive" if name.startswith("plus") else "default"
    plugin = registry.load("bev_map")(pixels=list(bird.shape[2:]), embedder=kind, channels=channels)
    plugin.bind(backbone)
    load_strict(plugin.embedder, state, name)
    assert relative(plugin.embedder(bird, tuple(theirs["out"].shape[2:])), theirs["out"]) <= 1e-5


# -- box embedder modes ------------------------------------------------------------------------------------------------


@golden
@pytest.mark.parametrize("name", ["all_xyz", "all_xyz_minmax", "cxyz_minmax"])
@torch.no_grad()
def test_box_embedder(name: str) -> None:
    theirs = below(load_file(EXTRA / "bbox_embedders.safetensors"), f"{name}.")
    state = below(theirs, "w.")
    backbone = tiny_backbone(unet={"cross_attention_dim": theirs["out"].shape[-1]})
    plugin = registry.load("boxes")(
        masked=False, corners="cxyz" if name.startswith("cxyz") else "all-xyz", min_max="minmax" in name, learn_classes=False,
        hidden=[len(state["second_linear.0.bias"]), len(state["second_linear.2.bias"])],
    )  # fmt: skip
    plugin.bind(backbone)
    load_strict(plugin, state, name)
    grid_arrays = {"corners": theirs["bboxes"][None], "classes": theirs["classes"][None], "mask": theirs["masks"].bool()[None]}
    tokens = plugin.encode(grid_arrays, torch.tensor([True])).tokens
    assert tokens is not None
    assert relative(tokens, theirs["out"]) <= 1e-5
    null = plugin.encode(grid_arrays, torch.tensor([False])).tokens
    assert null is not None
    assert relative(null, theirs["null_token"].expand_as(null)) <= 1e-5


# -- from a frame to MagicDrive's inputs -------------------------------------------------------------------------------

RING = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")
FLAT = SE3.from_yaw(-math.pi / 2, (0.94, 0.0, 1.84))  # lidar x right, y forward
TILTED = SE3.from_quaternion([0.70779551, -0.00649224, 0.01064621, -0.70630729], (0.94, 0.0, 1.84))
"""A mounting as in nuScenes, off the vertical by 1.4 degrees."""


def standing(heading_rad: float, up: np.ndarray) -> np.ndarray:
    """The rotation whose z is `up` and whose yaw, as pyquaternion reads it, is the heading: Rx·Ry·Rz."""
    roll = Quaternion(axis=[1, 0, 0], angle=math.atan2(-up[1], up[2]))
    pitch = Quaternion(axis=[0, 1, 0], angle=math.asin(up[0]))
    return (roll * pitch * Quaternion(axis=[0, 0, 1], angle=heading_rad)).rotation_matrix


def plain_frame(theirs: dict[str, Tensor], ego_SE3_lidar: SE3) -> Frame:
    """The sample as a nuScenes frame: its boxes stand upright in the global frame, its cameras are theirs."""
    global_SE3_ego = SE3.from_yaw(0.4, (300.0, 120.0, 0.0))
    lidar = global_SE3_ego @ ego_SE3_lidar
    boxes = []
    for row, label in zip(theirs["gt_bboxes_3d"].double().tolist(), theirs["gt_labels_3d"].tolist(), strict=True):
        x, y, z, w, l, h, yaw = row[:7]
        heading = -yaw - math.pi / 2
        pose = lidar @ SE3(standing(heading, lidar.rotation[2]), (x, y, z))
        assert np.allclose(pose.rotation[:, 2], [0, 0, 1])
        boxes.append(Box3D(DETECTION_CLASSES[label], pose, np.array([w, l, h])))
    cameras = []
    for channel, K, pose in zip(RING, theirs["camera_intrinsics"], theirs["camera2lidar"], strict=True):
        rotation, _ = np.linalg.qr(pose[:3, :3].double().numpy())  # fp32 matrices are not orthogonal enough
        rotation = rotation * np.sign((rotation * pose[:3, :3].double().numpy()).sum(0))
        mount = ego_SE3_lidar @ SE3(rotation, pose[:3, 3].double().numpy())
        cameras.append(Camera(channel, K[:3, :3].double().numpy(), 1600, 900, mount, global_SE3_ego))
    return Frame(
        "sample", tuple(cameras), tuple(boxes), None, "Rain", "boston-seaport", global_SE3_ego=global_SE3_ego,
        ego_SE3_lidar=ego_SE3_lidar,
    ).resized(400, 224)  # fmt: skip


def magicdrive_plugins(*names: str) -> dict[str, Plugin]:
    boxes = {
        "masked": False, "in_image": False, "frame": "lidar", "unit_m": 1.0, "upright": True, "raised": True,
        "max_boxes": 10_000,
    }  # fmt: skip
    options = {"camera": {"normalised": False}, "boxes": boxes, "text": {"template": TEMPLATE}, "bev_map": {}}
    return {name: registry.load(name)(**options[name]) for name in names}


@golden
@pytest.mark.parametrize("mount", [FLAT, TILTED], ids=["flat", "tilted"])
def test_frame_to_camera_parameters_and_boxes(mount: SE3) -> None:
    theirs = load_file(EXTRA / "preprocess.safetensors")
    frame = plain_frame(theirs, mount)
    assert frame.channels == RING
    plugins = magicdrive_plugins("camera", "boxes")
    batch = data.collate([data.prepare(frame, plugins)], plugins, 6)
    assert relative(batch.arrays["camera"]["camera_param"], theirs["camera_param"]) <= 1e-6
    ours = batch.arrays["boxes"]
    assert torch.equal(ours["mask"], theirs["masks"].bool())
    assert torch.equal(ours["classes"], theirs["classes"])
    assert relative(ours["corners"], theirs["bboxes"]) <= 1e-6


@golden
def test_every_corner_is_half_a_height_too_high_and_projections_are_not() -> None:
    theirs = load_file(EXTRA / "preprocess.safetensors")
    frame = plain_frame(theirs, FLAT)
    order = [2, 1, 5, 6, 3, 0, 4, 7]
    lidar = (frame.global_SE3_ego @ frame.ego_SE3_lidar).inverse()
    right = torch.from_numpy(np.stack([lidar.transform(box.corners())[order] for box in frame.boxes]))
    raised = right + torch.tensor([0, 0, 0.5]) * theirs["gt_bboxes_3d"][:, None, 5:6]
    assert relative(raised, theirs["corners"]) <= 1e-6
    points = np.stack(
        [[c.global_SE3_camera.inverse().transform(b.corners())[order] for b in frame.boxes] for c in frame.cameras]
    )
    depth = torch.from_numpy(points[..., 2])
    ahead = depth > 0
    assert torch.equal(torch.where(ahead, 1.0, -1.0), theirs["projected"][..., 2])
    # Theirs adds the crop before it divides by depth, so that it shifts by 1/depth pixels; the crop itself is one row.
    crop = theirs["img_aug_matrix"][:, None, None, :2, 3]
    found = theirs["projected"][..., :2].double() - crop / depth[..., None] + crop
    for v, camera in enumerate(frame.cameras):
        pixels, _ = project(camera.K_image, points[v][ahead[v].numpy()])
        assert relative(pixels, found[v][ahead[v]]) <= 1e-5
    # What reaches a view is judged by the right corners, although the tokens are made of the raised ones.
    kept = ahead.any(2).sum(1).tolist()
    assert magicdrive_plugins("boxes")["boxes"].prepare(frame)["mask"].sum(1).tolist() == kept


def mmdet3d_corners(row: np.ndarray) -> np.ndarray:
    """Corners (8, 3) of a lidar box (x, y, z, w, l, h, yaw) that stands on its centre; its yaw turns clockwise."""
    x, y, z, w, l, h, yaw = row
    unit = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0], [1, 0, 0], [1, 0, 1], [1, 1, 1], [1, 1, 0]]) - [0.5, 0.5, 0]
    turn = np.array([[math.cos(yaw), math.sin(yaw), 0], [-math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
    return (unit * [w, l, h]) @ turn.T + [x, y, z]


def test_boxes_of_a_tilted_lidar_are_those_of_the_devkit() -> None:
    """The devkit's lidar boxes, reduced to centre and yaw as mmdet3d's converter does, on a slope and with a tilted lidar."""
    from nuscenes.utils.data_classes import Box

    up_the_hill = Quaternion(axis=[0, 0, 1], angle=0.7) * Quaternion(axis=[0.6, 0.8, 0], angle=-0.06)
    ego = SE3(up_the_hill.rotation_matrix, (280.0, 300.0, 4.0))
    frame = replace(street_frame(), global_SE3_ego=ego, ego_SE3_lidar=TILTED)
    theirs, known = [], [box for box in frame.boxes if box.detection_class is not None]
    for own in known:
        box = Box(own.global_SE3_object.translation, own.size_wlh_m, Quaternion(own.global_SE3_object.quaternion))
        for pose in (ego, TILTED):
            box.translate(-pose.translation)
            box.rotate(Quaternion(pose.quaternion).inverse)
        yaw = box.orientation.yaw_pitch_roll[0]
        theirs.append(mmdet3d_corners(np.array([*box.center, *box.wlh, -yaw - math.pi / 2])))
    plugin = magicdrive_plugins("boxes")["boxes"]
    ours = plugin.prepare(frame)
    lidar = ego @ TILTED
    for v, camera in enumerate(frame.cameras):
        lowered = [points - [0, 0, box.size_wlh_m[2] / 2] for points, box in zip(theirs, known, strict=True)]
        depths = [camera.global_SE3_camera.inverse().transform(lidar.transform(points))[:, 2] for points in lowered]
        expected = [points for points, depth in zip(theirs, depths, strict=True) if (depth > 0).any()]
        assert ours["mask"][v].sum() == len(expected)
        assert np.abs(ours["corners"][v, : len(expected)] - np.array(expected)).max() <= 1e-5
    leaning = replace_options(plugin, upright=False).prepare(frame)
    assert np.abs(leaning["corners"][leaning["mask"]] - ours["corners"][ours["mask"]]).max() > 0.05  # the difference it makes


def replace_options(plugin: Plugin, **options: Any) -> Plugin:
    return registry.load("boxes")(**{**plugin.config, **options})


@pytest.mark.parametrize("boxes", [0, 1])
@torch.no_grad()
def test_a_batch_without_boxes_has_no_box_tokens(boxes: int) -> None:
    """A frame without boxes alone has no token, beside one with a box it is padded like that one; a null token needs a mask."""
    plugin = replace_options(magicdrive_plugins("boxes")["boxes"], hidden=8)
    plugin.bind(tiny_backbone())
    full = street_frame()
    empty = replace(full, boxes=())
    frames = [empty, replace(full, boxes=full.boxes[:boxes])]
    items = [plugin.prepare(frame) for frame in frames]
    arrays = {key: torch.from_numpy(value) for key, value in plugin.collate(items).items()}
    tokens = plugin.encode(arrays, torch.tensor([True, True])).tokens
    assert tokens is not None
    assert tokens.shape[:2] == (12, boxes)
    null = plugin.encode(arrays, torch.tensor([False, False])).tokens
    assert null is not None
    assert torch.equal(null[:6], tokens[:6])
    assert replace_options(plugin, masked=True).collate(items)["mask"].shape == (2, 6, 1)


def test_prompt_is_magicdrives() -> None:
    text = magicdrive_plugins("text")["text"]
    reader = PromptReader(tiny_tokenizer(77))
    text.readers = {"": reader}
    camera = Camera("CAM_FRONT", np.eye(3), 8, 8, SE3.identity(), SE3.identity())
    frame = Frame("f", (camera,), (), None, "Rain", "boston-seaport")
    expected = reader.ids("A driving scene image at boston-seaport. Rain.")
    assert np.array_equal(text.prepare(frame)["ids"], expected)


def test_map_axes_are_right_and_forward() -> None:
    """A square ahead and to the right of the ego lies at high x, high y of [class, x, y]; 200 cells of half a metre."""
    ego = SE3.from_yaw(0.7, (100.0, -50.0, 0.0))
    corners = ego.transform(np.array([[20.0, -10, 0], [30, -10, 0], [30, -20, 0], [20, -20, 0]]))[:, :2]
    town = VectorMap("boston-seaport", {"ped_crossing": (MapPolygon(corners),)})
    camera = Camera("CAM_FRONT", np.eye(3), 8, 8, SE3.identity(), ego)
    frame = Frame("f", (camera,), (), town, global_SE3_ego=ego, ego_SE3_lidar=SE3.from_yaw(-math.pi / 2))
    bird = magicdrive_plugins("bev_map")["bev_map"].prepare(frame)["map"]
    assert bird.shape == (8, 200, 200)
    where = np.argwhere(bird[BEV_CLASSES.index("ped_crossing")] > 0)
    assert np.abs(where.min(0) - [120, 140]).max() <= 1
    assert np.abs(where.max(0) - [139, 159]).max() <= 1
    assert bird.sum() == len(where)
