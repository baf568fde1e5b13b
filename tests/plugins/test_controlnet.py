"""ControlNets and T2I-Adapters: equal to diffusers' own pipelines, over drawn and given pictures."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    MultiAdapter,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    T2IAdapter,
)
from PIL import Image
from typer.testing import CliRunner

from drivegen import raster
from drivegen.catalog import registry
from drivegen.cli.main import app
from drivegen.convert import networks
from drivegen.host.host import Host
from drivegen.pipeline.pipeline import Pipeline
from drivegen.plugin import Grid
from drivegen.sampling import Sampling, build_scheduler, camera_generators, draw_noise
from drivegen.saved.model import Model
from drivegen.scene import BEV_CLASSES, DETECTION_CLASSES, Box3D, Frame
from drivegen.scene.geometry import SE3
from drivegen.support.errors import InputError
from drivegen.training import config
from tests.street import camera, street_frame
from tests.tiny_models import randomize, tiny_backbone

HOUSE = Path(__file__).parents[2]
SIZE, LATENT, STEPS = (64, 112), (4, 8, 14), 4
CHANNELS = ("CAM_FRONT", "CAM_BACK")
LEVELS = {
    "block_out_channels": (32, 64, 64), "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Random networks as diffusers saves them."""
    root = tmp_path_factory.mktemp("networks")
    unet = tiny_backbone(vae_factor=8, unet=LEVELS).unet
    nets = {
        "edges": ControlNetModel.from_unet(unet, load_weights_from_unet=False),
        "other": ControlNetModel.from_unet(unet, controlnet_conditioning_channel_order="bgr", load_weights_from_unet=False),
        "full": T2IAdapter(3, [32, 64, 64], 1, 8, "full_adapter"),
        "light": T2IAdapter(3, [32, 64], 2, 8, "light_adapter"),
        "shuffle": ControlNetModel.from_unet(unet, load_weights_from_unet=False),
    }
    nets["shuffle"].register_to_config(global_pool_conditions=True)
    for i, (name, net) in enumerate(nets.items()):
        randomize(net, 10 + i).save_pretrained(root / name)
    return {name: root / name for name in nets}


def drawing(seed: int) -> dict[str, Image.Image]:
    random = np.random.default_rng(seed)
    return {c: Image.fromarray(random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)) for c in CHANNELS}


def two_views() -> Frame:
    return replace(street_frame(), cameras=(camera("CAM_FRONT", 0), camera("CAM_BACK", 180)), description="night")


def pipeline(plugins: dict, **sampling) -> Pipeline:
    host = Host(tiny_backbone(vae_factor=8, unet=LEVELS), {"text": registry.load("text")(), **plugins}).eval()
    return Pipeline(Model(host, Sampling(**({"steps": STEPS, "sampler": "ddim", "null": ("text",)} | sampling)), SIZE))


def run(pipe: Pipeline, frame: Frame, **options) -> torch.Tensor:
    views = pipe(frame, output_type="latent", **options)
    return torch.stack([views[channel] for channel in views])


def diffusers_run(cls, pipe: Pipeline, frame: Frame, extra: dict, **options) -> torch.Tensor:
    """Generate the same views, from the same noise, with diffusers' own pipeline."""
    b = pipe.host.backbone
    reference = cls(
        vae=b.vae, text_encoder=b.text_encoder, tokenizer=b.tokenizer, unet=b.unet,
        scheduler=build_scheduler("ddim", b.scheduler, STEPS), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False, **extra,
    )  # fmt: skip
    reference.set_progress_bar_config(disable=True)
    noise = draw_noise(camera_generators(0, frame.channels), LATENT)
    return reference(
        [frame.description] * len(frame.cameras), negative_prompt=["fog"] * len(frame.cameras), height=SIZE[0], width=SIZE[1],
        num_inference_steps=STEPS, guidance_scale=4.0, latents=noise, output_type="latent", **options,
    ).images  # fmt: skip


def in_order(pictures: dict[str, Image.Image], frame: Frame) -> list[Image.Image]:
    return [pictures[channel] for channel in frame.channels]


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert float((ours - theirs).norm() / theirs.norm()) <= 1e-5


# -- equality with diffusers ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_controlnet_equals_diffusers_pipeline(folders) -> None:
    frame, pictures = two_views(), drawing(0)
    pipe = pipeline({"edges": networks.controlnet(folders["edges"])}, guidance=4.0)
    options = {"negative_prompt": "fog", "inputs": {"edges": pictures}}
    extra = {"controlnet": ControlNetModel.from_pretrained(folders["edges"])}
    for scale, start, end in ((1.0, 0.0, 1.0), (0.7, 0.25, 0.75)):
        ours = run(pipe, frame, scales={"edges": scale}, ranges={"edges": (start, end)}, **options)
        theirs = diffusers_run(
            StableDiffusionControlNetPipeline, pipe, frame, extra, image=in_order(pictures, frame),
            controlnet_conditioning_scale=scale, control_guidance_start=start, control_guidance_end=end,
        )  # fmt: skip
        close(ours, theirs)


def test_a_controlnet_that_pools_globally_equals_diffusers_pipeline(folders, tmp_path) -> None:
    """diffusers leaves it out of the unconditional half; so does guidance here once its folder is added."""
    frame, pictures = two_views(), drawing(0)
    networks.convert(networks.controlnet(folders["shuffle"]), tmp_path / "shuffle")
    pipe = pipeline({}, guidance=4.0)
    pipe.add_plugin(tmp_path / "shuffle")
    assert pipe.model.sampling.null == ("text", "shuffle")
    ours = run(pipe, frame, negative_prompt="fog", inputs={"shuffle": pictures}, scales={"shuffle": 0.8})
    theirs = diffusers_run(
        StableDiffusionControlNetPipeline, pipe, frame, {"controlnet": ControlNetModel.from_pretrained(folders["shuffle"])},
        image=in_order(pictures, frame), controlnet_conditioning_scale=0.8,
    )  # fmt: skip
    close(ours, theirs)


@pytest.mark.slow
def test_two_controlnets_equal_diffusers_pipeline(folders) -> None:
    frame, pictures = two_views(), {"a": drawing(0), "b": drawing(1)}
    plugins = {"a": networks.controlnet(folders["edges"]), "b": networks.controlnet(folders["other"])}
    ours = run(
        pipeline(plugins, guidance=4.0), frame, negative_prompt="fog", inputs=pictures, scales={"a": 0.7, "b": 1.3},
        ranges={"a": (0.0, 0.5), "b": (0.25, 1.0)},
    )  # fmt: skip
    nets = [ControlNetModel.from_pretrained(folders[name]) for name in ("edges", "other")]
    theirs = diffusers_run(
        StableDiffusionControlNetPipeline, pipeline({}), frame, {"controlnet": nets},
        # diffusers takes the pictures of several networks prompt by prompt
        image=[[pictures[name][channel] for name in ("a", "b")] for channel in frame.channels],
        controlnet_conditioning_scale=[0.7, 1.3],
        control_guidance_start=[0.0, 0.25], control_guidance_end=[0.5, 1.0],
    )  # fmt: skip
    close(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "light"])
def test_an_adapter_equals_diffusers_pipeline(folders, kind: str) -> None:
    frame, pictures = two_views(), drawing(0)
    pipe = pipeline({"sketch": networks.t2i_adapter(folders[kind])}, guidance=4.0)
    ours = run(pipe, frame, negative_prompt="fog", inputs={"sketch": pictures}, scales={"sketch": 0.8})
    theirs = diffusers_run(
        StableDiffusionAdapterPipeline, pipe, frame, {"adapter": T2IAdapter.from_pretrained(folders[kind])},
        image=in_order(pictures, frame), adapter_conditioning_scale=0.8,
    )  # fmt: skip
    close(ours, theirs)


def test_several_adapters_equal_diffusers_multi_adapter(folders) -> None:
    frame, pictures = two_views(), {"a": drawing(0), "b": drawing(1)}
    pipe = pipeline({"a": networks.t2i_adapter(folders["full"]), "b": networks.t2i_adapter(folders["light"])}, guidance=4.0)
    ours = run(pipe, frame, negative_prompt="fog", inputs=pictures, scales={"a": 0.8, "b": 0.4})
    nets = MultiAdapter([T2IAdapter.from_pretrained(folders[name]) for name in ("full", "light")])
    theirs = diffusers_run(
        StableDiffusionAdapterPipeline, pipe, frame, {"adapter": nets},
        image=[in_order(pictures[name], frame) for name in ("a", "b")], adapter_conditioning_scale=[0.8, 0.4],
    )  # fmt: skip
    close(ours, theirs)


@pytest.mark.slow
@torch.no_grad()
def test_each_attends_to_the_tokens_it_was_trained_with(folders) -> None:
    """Beside a plugin with tokens the UNet sees all of them, a released ControlNet text alone."""
    frame = street_frame().resized(SIZE[1], SIZE[0])
    views = len(frame.cameras)
    boxes = registry.load("boxes")(masked=False)
    seen: dict[tuple[str, ...] | None, torch.Tensor] = {}
    for names in (("text",), None):
        plugin = networks.controlnet(folders["edges"], "layout", names)
        host = pipeline({"boxes": boxes, "edges": plugin}).host
        randomize(boxes, 5)
        arrays = {n: p.collate([p.prepare(frame)]) for n, p in ((n, host.plugin(n)) for n in host.plugins)}
        tensors = {n: {k: torch.from_numpy(v) for k, v in group.items()} for n, group in arrays.items()}
        conditions = host.encode(tensors, Grid(1, 1, views))
        x, t = torch.randn(views, *LATENT, generator=torch.Generator().manual_seed(1)), torch.full((views,), 500)
        seen[names] = host(x, t, conditions)
        text, box = (conditions.signals[name].tokens for name in ("text", "boxes"))
        text = text.repeat_interleave(views, dim=0)
        everything = torch.cat([text, box], dim=1)
        picture = torch.stack([torch.from_numpy(raster.picture("layout").draw(frame, c)) for c in frame.cameras]) / 255
        net = ControlNetModel.from_pretrained(folders["edges"])
        down, mid = net(x, t, text if names else everything, picture, return_dict=False)
        expected = host.backbone.unet(
            x, t, everything, down_block_additional_residuals=down, mid_block_additional_residual=mid
        ).sample  # fmt: skip
        close(seen[names], expected)
        boxes = registry.load("boxes")(masked=False)
    assert not torch.allclose(seen[("text",)], seen[None], atol=1e-4)


# -- pictures ------------------------------------------------------------------------------------------------------------


def test_pictures_are_what_the_table_says() -> None:
    frame = street_frame().resized(SIZE[1], SIZE[0])
    for name, kind in raster.PICTURES.items():
        drawn = [kind.draw(frame, c) for c in frame.cameras]
        assert all(d.shape == (kind.channels, *SIZE) and d.dtype == np.uint8 for d in drawn), name
        assert any(d.any() for d in drawn), name
        assert all(np.array_equal(a, kind.draw(frame, c)) for a, c in zip(drawn[:1], frame.cameras, strict=False)), name
    with pytest.raises(InputError, match="did you mean 'layout'"):
        raster.picture("layuot")


def test_pictures_agree_with_the_layout() -> None:
    frame = street_frame().resized(SIZE[1], SIZE[0])
    front = frame.camera("CAM_FRONT")
    view = raster.layout(frame, front)
    channels = raster.picture("layout_channels").draw(frame, front)
    for i, name in enumerate(BEV_CLASSES):
        assert np.array_equal(channels[i] > 0, (view.map_bits >> i) & 1 == 1), name
    car = channels[len(BEV_CLASSES) + DETECTION_CLASSES.index("car")] > 0
    assert car.any()
    assert np.array_equal(car, view.box_class == 1 + DETECTION_CLASSES.index("car"))
    colour = raster.picture("layout").draw(frame, front)[:, car]
    assert (colour == np.array([[0], [102], [200]])).all()
    depth = raster.picture("depth").draw(frame, front)
    known = (view.depth_m > 3) & (view.depth_m < 50)
    assert np.abs(depth[0][known] / 255 - 3 / view.depth_m[known].astype(float)).max() < 1 / 255
    off = raster.picture("box_depth").draw(frame, front)[0][view.box_class == 0]
    assert not off.any()


def test_the_layouts_colours_are_ade20ks() -> None:
    """Facts of the table by which the segmentation ControlNets' training pictures were painted (MMSegmentation's)."""
    facts = {
        "car": (0, 102, 200), "truck": (255, 0, 20), "bus": (255, 0, 245), "motorcycle": (163, 0, 255),
        "bicycle": (255, 245, 0), "pedestrian": (150, 5, 61), "barrier": (255, 184, 6), "traffic_cone": (255, 184, 6),
        "trailer": (255, 0, 20), "construction_vehicle": (255, 0, 20), "movable_object.debris": (0, 255, 20),
    }  # fmt: skip
    view = camera("CAM", 0.0, size=(112, 64))
    place = SE3(np.eye(3), view.global_SE3_camera.translation + np.array([8.0, 0.0, 0.0]))
    for category, colour in facts.items():
        frame = Frame("one", (view,), (Box3D(category, place, np.array([2.0, 2.0, 2.0])),))
        assert tuple(raster.picture("layout").draw(frame, view)[:, 32, 56]) == colour, category
    frame = street_frame().resized(SIZE[1], SIZE[0])
    bits = raster.layout(frame, frame.cameras[0]).map_bits
    drawn = raster.picture("layout").draw(frame, frame.cameras[0])
    walkway = (bits >> BEV_CLASSES.index("walkway")) & 1 == 1
    road = (bits >> BEV_CLASSES.index("drivable_area")) & 1 == 1
    assert (drawn[:, walkway] == np.array([[235], [255], [7]])).all()
    assert (drawn[:, road & ~walkway] == 140).all()
    assert walkway.any() or road.any()


def test_the_birds_eye_picture_is_upright_for_each_camera() -> None:
    """20 m ahead of any camera and 5 m to its right is above the lower edge by 2/5 of the height, right of the middle."""
    for yaw in (0.0, 55.0, 180.0, -110.0):
        view = camera("CAM", yaw, SE3.from_yaw(0.3, (300, 298, 0)), size=(200, 100))
        pose = view.global_SE3_camera
        ahead = pose.rotation[:, 2] * (1, 1, 0) / np.hypot(*pose.rotation[:2, 2])
        right = np.array([ahead[1], -ahead[0], 0.0])
        place = SE3(np.eye(3), pose.translation + 20 * ahead + 5 * right)
        frame = Frame("one", (view,), (Box3D("car", place, np.array([1.5, 1.5, 1.5])),))
        ys, xs = np.nonzero(raster.picture("bev_channels").draw(frame, view)[len(BEV_CLASSES)])
        assert abs(ys.mean() - (100 - 20 * 2)) < 1, yaw
        assert abs(xs.mean() - (100 + 5 * 2)) < 1, yaw


def test_box_edges_are_drawn_where_they_project() -> None:
    frame = street_frame().resized(SIZE[1], SIZE[0])
    front = frame.camera("CAM_FRONT")
    drawn = raster.picture("boxes").draw(frame, front).any(0)
    covered = np.zeros(SIZE, bool)
    for box in frame.boxes:
        for edge in raster.box_edges(front, box):
            for x, y in edge[0] + np.linspace(0, 1, 200)[:, None] * (edge[1] - edge[0]):
                if 1 <= x < SIZE[1] - 1 and 1 <= y < SIZE[0] - 1:
                    assert drawn[int(y), int(x)]
                if -2 <= x < SIZE[1] + 2 and -2 <= y < SIZE[0] + 2:
                    covered[max(0, int(y) - 2) : int(y) + 3, max(0, int(x) - 2) : int(x) + 3] = True
    assert drawn.any()
    assert not (drawn & ~covered).any()


@pytest.mark.slow
def test_a_camera_without_a_picture_goes_without(folders) -> None:
    frame = two_views()
    pipe = pipeline({"edges": networks.controlnet(folders["edges"])})
    pictures = drawing(0)
    front = frame.channels.index("CAM_FRONT")
    both, one = (
        run(pipe, frame, inputs={"edges": user_input}) for user_input in (pictures, {"CAM_FRONT": pictures["CAM_FRONT"]})
    )
    without = run(pipe, frame, scales={"edges": 0})
    close(one[front], both[front])
    close(one[1 - front], without[1 - front])
    assert not torch.allclose(both, without, atol=1e-3)


@pytest.mark.slow
def test_given_pictures_replace_drawn_ones(folders) -> None:
    frame = two_views()
    pipe = pipeline({"edges": networks.controlnet(folders["edges"], "layout")})
    sized = frame.resized(SIZE[1], SIZE[0])
    drawn = {c.channel: raster.picture("layout").draw(sized, c).transpose(1, 2, 0) for c in sized.cameras}
    for user_input in (drawn, {c: d.astype(np.float32) / 255 for c, d in drawn.items()}, {"CAM_BACK": drawn["CAM_BACK"]}):
        close(run(pipe, frame, inputs={"edges": user_input}), run(pipe, frame))
    assert not torch.allclose(run(pipe, frame, inputs={"edges": drawing(0)}), run(pipe, frame), atol=1e-3)


def test_what_does_not_fit_is_refused(folders, tmp_path) -> None:
    frame = two_views()
    pipe = pipeline({"edges": networks.controlnet(folders["edges"])})
    array = np.zeros((*SIZE, 3), np.uint8)
    for user_input, words in (
        (None, "needs pictures"), ({"CAM_FRNT": array}, "did you mean 'CAM_FRONT'"), ({"CAM_FRONT": array[:, :-1]}, "shape"),
        ({"CAM_FRONT": array.astype(float) + 2}, "from 0 to 1"), ({"CAM_FRONT": "a.png"}, "is missing"), (array, "per camera"),
        ({"CAM_FRONT": 3}, "int '3' is not a picture"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            run(pipe, frame, inputs={"edges": user_input})
    with pytest.raises(InputError, match="of kind 't2i_adapter', not 'controlnet'"):
        networks.controlnet(folders["full"])
    with pytest.raises(InputError, match="the picture 'bev_channels' has 19"):
        networks.controlnet(folders["edges"], "bev_channels")
    with pytest.raises(InputError, match="made for another base"):
        Host(tiny_backbone(vae_factor=8), {"a": networks.controlnet(folders["edges"])})
    with pytest.raises(InputError, match="made for another base"):
        Host(tiny_backbone(vae_factor=4, unet=LEVELS), {"a": networks.t2i_adapter(folders["full"])})
    with pytest.raises(InputError, match="is no argument"):
        registry.load("controlnet")(network={"conditioning_chanels": 3})


@pytest.mark.parametrize(("kind", "name"), [("controlnet", "edges"), ("t2i_adapter", "light")])
def test_settings_that_diffusers_does_not_know(folders, tmp_path, kind: str, name: str) -> None:
    """Those of another version of diffusers: null says nothing and is let pass, anything else is refused."""
    shutil.copytree(folders[name], tmp_path / name)
    path, read = tmp_path / name / "config.json", getattr(networks, kind)
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"of_another_version": None}))
    with torch.no_grad():
        before, after = (read(folder).state_dict() for folder in (folders[name], tmp_path / name))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    path.write_text(json.dumps(values | {"of_another_version": False}))
    with pytest.raises(InputError, match="'of_another_version' is no argument"):
        read(tmp_path / name)


# -- folders -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("controlnet", "edges"), ("t2i_adapter", "light")])
def test_converted_folders_hold_the_plugin(folders, tmp_path, kind: str, name: str) -> None:
    out = tmp_path / "plugin ü"
    result = CliRunner().invoke(app, ["convert", kind, str(folders[name]), str(out), "--picture", "layout"])
    assert result.exit_code == 0, result.output
    assert {"config.json", "model.safetensors"} <= {p.name for p in out.iterdir()}
    assert json.loads((out / "config.json").read_text())["kind"] == kind
    pipe = pipeline({}, null=None)
    assert pipe.add_plugin(out, "mine") == "mine"
    assert pipe.model.sampling.null == ("text",)  # it was trained without null
    direct = pipeline({"mine": getattr(networks, kind)(folders[name], "layout")})
    frame = two_views()
    close(run(pipe, frame, num_inference_steps=1), run(direct, frame, num_inference_steps=1))
    again = CliRunner().invoke(app, ["convert", kind, str(folders[name]), str(out)])
    assert again.exit_code == 2
    assert "not empty" in again.output


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["controlnet", "t2i_adapter"])
def test_the_recipe_trains_from_scratch(kind: str) -> None:
    """The configured plugin, on a tiny host: nothing at first, and each of two steps of descent lowers its loss."""
    recipe = config.load(HOUSE / "configs" / f"{kind}_layout.yaml")
    plugins = {n: registry.load(p.kind or "")(**p.options) for n, p in recipe.plugins.items() if n != "text"}
    assert [registry.kind_of(p) for p in plugins.values()] == [kind]
    pipe = pipeline(plugins, guidance=1.0)
    frame, host = two_views(), pipe.host
    name = next(iter(plugins))
    close(run(pipe, frame, num_inference_steps=1), run(pipe, frame, num_inference_steps=1, scales={name: 0}))
    sized = frame.resized(SIZE[1], SIZE[0])
    arrays = {n: host.plugin(n).collate([host.plugin(n).prepare(sized)]) for n in host.plugins}
    tensors = {n: {k: torch.from_numpy(v) for k, v in group.items()} for n, group in arrays.items()}
    x, t = torch.randn(2, *LATENT, generator=torch.Generator().manual_seed(1)), torch.tensor([500, 500])
    optimizer = torch.optim.AdamW(host.plugin(name).parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        loss = host(x, t, host.encode(tensors, Grid(1, 1, 2))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[2] < losses[1] < losses[0]
