"""Inpainting ControlNets: a picture with a mask gives what diffusers' pipelines compute from `make_inpaint_condition`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
)
from PIL import Image
from torch import Tensor

from drivegen.convert import networks
from drivegen.host import batch as batches
from drivegen.sampling import camera_generators, draw_noise
from drivegen.support.errors import InputError
from tests.plugins.test_controlnet import (
    CHANNELS,
    LATENT,
    LEVELS,
    SIZE,
    close,
    diffusers_run,
    drawing,
    pipeline,
    run,
    two_views,
)
from tests.tiny_models import randomize, tiny_backbone


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("inpaint")
    net = ControlNetModel.from_unet(tiny_backbone(vae_factor=8, unet=LEVELS).unet, load_weights_from_unet=False)
    randomize(net, 31).save_pretrained(root)
    return root


def mask(seed: int) -> Image.Image:
    """Large squares of every grey, the two about half among them."""
    grey = np.random.default_rng(seed).choice(np.array([0, 64, 127, 128, 255], np.uint8), (SIZE[0] // 8, SIZE[1] // 8))
    return Image.fromarray(grey).resize((SIZE[1], SIZE[0]), Image.Resampling.NEAREST)


def make_inpaint_condition(image: Image.Image, mask: Image.Image) -> Tensor:
    """What diffusers' documentation has its users compute."""
    pixels = np.array(image.convert("RGB")).astype(np.float32) / 255.0
    pixels[np.array(mask.convert("L")).astype(np.float32) / 255.0 > 0.5] = -1.0
    return torch.from_numpy(pixels.transpose(2, 0, 1))[None]


def given() -> dict[str, dict[str, Image.Image]]:
    pictures = drawing(0)
    return {channel: {"image": pictures[channel], "mask": mask(i)} for i, channel in enumerate(CHANNELS)}


@pytest.mark.slow
def test_a_masked_picture_equals_diffusers_pipeline(folder) -> None:
    frame, user_input = two_views(), given()
    pipe = pipeline({"fill": networks.controlnet(folder)}, guidance=4.0)
    conditions = torch.cat([make_inpaint_condition(**user_input[channel]) for channel in frame.channels])
    assert (conditions == -1).any()
    theirs = diffusers_run(
        StableDiffusionControlNetPipeline, pipe, frame, {"controlnet": ControlNetModel.from_pretrained(folder)},
        image=conditions, controlnet_conditioning_scale=0.8,
    )  # fmt: skip
    close(run(pipe, frame, negative_prompt="fog", inputs={"fill": user_input}, scales={"fill": 0.8}), theirs)
    arrays = {c: {"image": np.asarray(g["image"]), "mask": np.asarray(g["mask"]) > 127} for c, g in user_input.items()}
    close(run(pipe, frame, negative_prompt="fog", inputs={"fill": arrays}, scales={"fill": 0.8}), theirs)
    plain = {channel: {"image": one["image"]} for channel, one in user_input.items()}
    bare = {channel: one["image"] for channel, one in user_input.items()}
    assert torch.equal(run(pipe, frame, inputs={"fill": plain}), run(pipe, frame, inputs={"fill": bare}))


@torch.no_grad()
def test_with_the_known_latents_kept_it_equals_the_inpainting_pipeline(folder) -> None:
    frame, user_input = two_views(), given()
    pipe = pipeline({"fill": networks.controlnet(folder)}, guidance=4.0)
    pixels = (
        torch.stack([torch.from_numpy(np.array(user_input[c]["image"])) for c in frame.channels]).movedim(-1, 1) / 127.5 - 1
    )
    known = pipe.host.backbone.first_stage.encode(pixels, torch.Generator().manual_seed(7), sample=True)
    masks = torch.stack([torch.from_numpy(np.array(user_input[c]["mask"]))[None] / 255.0 for c in frame.channels])
    conditions = torch.cat([make_inpaint_condition(**user_input[channel]) for channel in frame.channels])
    theirs = diffusers_run(
        StableDiffusionControlNetInpaintPipeline, pipe, frame, {"controlnet": ControlNetModel.from_pretrained(folder)},
        image=pixels, mask_image=masks, control_image=conditions, controlnet_conditioning_scale=1.0, strength=1.0,
        generator=torch.Generator().manual_seed(7),
    )  # fmt: skip
    holes = torch.nn.functional.interpolate((masks >= 0.5).float(), size=LATENT[1:])
    noise, scheduler = draw_noise(camera_generators(0, frame.channels), LATENT), pipe.host.backbone.scheduler
    times: list[int] = []

    def collect(pipe, step, t, state):
        times.append(int(t))

    run(pipe, frame, inputs={"fill": user_input}, callback_on_step_end=collect)

    def keep(pipe, step, t, state):
        after = times[step + 1 : step + 2]
        proper = scheduler.add_noise(known, noise, torch.tensor(after)) if after else known
        return {"latents": (1 - holes) * proper + holes * state["latents"]}

    ours = run(pipe, frame, negative_prompt="fog", inputs={"fill": user_input}, callback_on_step_end=keep)
    close(ours, theirs)


def test_frames_with_and_without_masks_join_and_a_folder_is_read(folder, tmp_path) -> None:
    frame, user_input = two_views().resized(SIZE[1], SIZE[0]), given()
    plugins = {"fill": networks.controlnet(folder)}
    for channel, one in user_input.items():
        one["image"].save(tmp_path / f"{channel}.png")
        one["mask"].save(tmp_path / f"{channel}_mask.png")
    mixed = {**user_input, "CAM_BACK": user_input["CAM_BACK"]["image"]}
    prepared = [batches.prepare(frame, plugins, {"fill": g}) for g in (user_input, str(tmp_path), mixed, drawing(0))]
    joined = batches.collate(prepared, plugins, views=2).arrays["fill"]["picture"]
    assert torch.equal(joined[0], joined[1])
    back = frame.channels.index("CAM_BACK")
    assert torch.equal(joined[2, back], joined[3, back])
    assert torch.equal(joined[2, 1 - back], joined[0, 1 - back])
    assert (joined[0] == -1).any()
    assert not (joined[3] < 0).any()


@pytest.mark.parametrize(
    ("one", "words"),
    [
        ({"mask": mask(0)}, "has a mask and no image"),
        ({"image": mask(0), "maks": mask(0)}, "did you mean 'mask'"),
        ({"image": mask(0), "mask": np.full(SIZE, 2.0)}, "CAM_FRONT"),
        ({"image": mask(0), "mask": np.zeros((3, 4), np.uint8)}, "is needed"),
        ({"image": mask(0), "mask": "nowhere.png"}, "nowhere.png"),
    ],
)
def test_masks_that_do_not_fit_are_refused(folder, one, words: str) -> None:
    frame = two_views().resized(SIZE[1], SIZE[0])
    with pytest.raises(InputError, match=words):
        batches.prepare(frame, {"fill": networks.controlnet(folder)}, {"fill": {"CAM_FRONT": one}})
