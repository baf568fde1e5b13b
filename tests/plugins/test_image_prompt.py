"""Image prompts: equality with diffusers' IP-Adapter on the same weights, references, files, training."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from drivegen import training
from drivegen.catalog.registry import load
from drivegen.datasets import nuscenes
from drivegen.host import batch as data
from drivegen.host.host import Host
from drivegen.pipeline.pipeline import Pipeline
from drivegen.plugin import Plugin
from drivegen.plugin import reference_pictures as references
from drivegen.sampling import HostDenoiser, Sampling, classifier_free
from drivegen.saved.model import Model
from drivegen.scene import Scene
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame
from drivegen.testing.models import randomize, tiny_backbone

PLUS = {"plus": True, "depth": 4, "heads": 1, "tokens": 3}
LEFT = np.arange(64)[None].repeat(48, 0) < 24
SCENE = frame(0, views=2)


def photo(seed: int, size: tuple[int, int] = (40, 24)) -> Image.Image:
    """A smooth random picture of (width, height)."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def make(options: dict[str, Any]) -> tuple[Host, Plugin]:
    plugin: Plugin = load("image_prompt")(**options)
    host = Host(tiny_backbone(image_encoder=True), {"text": load("text")(), "photo": plugin})
    randomize(plugin, 5)
    return host.eval().requires_grad_(False), plugin


def official(plugin: Plugin) -> dict[str, dict[str, Tensor]]:
    """The plugin's weights as a released file nests them."""
    groups: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in plugin.state_dict().items():
        group, _, rest = key.partition(".")
        groups[group][rest] = value.clone()
    return groups


class Diffusers:
    """diffusers' own pipeline with the same networks and the same adapter."""

    def __init__(self, host: Host, plugin: Plugin, count: int = 1) -> None:
        from diffusers import StableDiffusionPipeline

        b = copy.deepcopy(host.backbone)
        for module in b.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        self.pipe = StableDiffusionPipeline(
            b.vae, b.text_encoder, b.tokenizer, b.unet, b.scheduler, None, None, b.component("image_encoder"),
            requires_safety_checker=False,
        )  # fmt: skip
        self.pipe.load_ip_adapter(
            [official(plugin)] * count,
            subfolder="",
            weight_name=[""] * count,
            image_encoder_folder=None,
            low_cpu_mem_usage=False,
        )

    def __call__(self, x: Tensor, prompt: str, images: list[Any], scales: list[float], masks: Any = None) -> Tensor:
        """Predict with guidance 3 for one row."""
        text = [self.pipe.encode_prompt(p, "cpu", 1, False)[0] for p in ("", prompt)]
        embeds = self.pipe.prepare_ip_adapter_image_embeds(images, None, "cpu", 1, True)
        self.pipe.set_ip_adapter_scale(scales)
        kwargs = {} if masks is None else {"ip_adapter_masks": masks}
        out = self.pipe.unet(
            torch.cat([x] * 2), 500, torch.cat(text), added_cond_kwargs={"image_embeds": embeds}, cross_attention_kwargs=kwargs
        ).sample
        return torch.lerp(out[:1], out[1:], 3.0)


def ours(host: Host, user_input: Any, scales: dict[str, float] | None = None) -> tuple[Tensor, Tensor]:
    """Predict with guidance 3, and the latents used."""
    plugins = {name: host.plugin(name) for name in host.plugins}
    batch = data.collate([data.prepare(SCENE, plugins, {"photo": user_input})], plugins, 2)
    x = torch.randn(2, 4, 12, 16, generator=torch.Generator().manual_seed(3))
    denoise = classifier_free(HostDenoiser(host, batch, scales), 3.0, host.plugins)
    return denoise(x, torch.tensor(500)), x


def near(a: Tensor, b: Tensor) -> None:
    assert float((a - b).norm() / b.norm()) < 1e-5


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("options", [{}, PLUS, {"full": True}], ids=["plain", "plus", "full"])
def test_equals_diffusers(options: dict[str, Any]) -> None:
    """One picture, several together, a scale and a mask each; each view against diffusers on its own."""
    host, plugin = make(options)
    theirs = Diffusers(host, plugin)
    one, two = photo(1), photo(2)
    mask = torch.from_numpy(np.stack([np.ones_like(LEFT), LEFT])).float()[None]
    user_input = {
        "CAM_FRONT": {"images": [one, two], "scale": 0.6},
        "CAM_FRONT_LEFT": {"images": [one, two], "masks": [None, LEFT]},
    }
    out, x = ours(host, user_input)
    front, left = SCENE.channels.index("CAM_FRONT"), SCENE.channels.index("CAM_FRONT_LEFT")
    near(out[[front]], theirs(x[[front]], SCENE.description, [[one, two]], [0.6]))
    near(out[[left]], theirs(x[[left]], SCENE.description, [[one, two]], [[1.0, 1.0]], [mask]))
    out, x = ours(host, one, {"photo": 0.5})
    near(out[:1], theirs(x[:1], SCENE.description, [one], [0.5]))


@pytest.mark.slow
@torch.no_grad()
def test_a_scale_each_equals_two_adapters() -> None:
    host, plugin = make({})
    out, x = ours(host, {"images": [photo(1), photo(2)], "scale": [0.4, 0.9]})
    near(out[:1], Diffusers(host, plugin, count=2)(x[:1], SCENE.description, [photo(1), photo(2)], [0.4, 0.9]))


@torch.no_grad()
def test_without_pictures_it_is_absent() -> None:
    host, _ = make({})
    out, _ = ours(host, None)
    assert torch.equal(out, ours(host, photo(1), {"photo": 0.0})[0])
    partly, _ = ours(host, {"CAM_FRONT": photo(1)})
    front = SCENE.channels.index("CAM_FRONT")
    near(partly[[1 - front]], out[[1 - front]])
    assert not torch.allclose(partly[front], out[front])


def test_pictures_are_cut_as_clip_does() -> None:
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(size=32, crop_size=32)
    for size in ((40, 24), (33, 90), (32, 32), (400, 225)):
        image = photo(7, size)
        theirs = np.asarray(processor(image, return_tensors="np", do_normalize=False).pixel_values[0])
        mine = references.square(image, 32)
        assert np.abs(mine / 255.0 - theirs).max() < 1e-6
    assert references.square(photo(7, (400, 225)), 32, whole=True).shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("user_input", "message"),
    [
        ({"CAM_FORNT": photo(1)}, "CAM_FRONT"),
        ({"images": photo(1), "weight": 1}, "unknown setting 'weight'"),
        ({"images": [photo(1)], "scale": [1.0, 2.0]}, "2 scales are given for 1 pictures"),
        ({"images": photo(1), "scale": -1}, "scale -1"),
        ({"images": photo(1), "masks": "nowhere.png"}, "nowhere.png is missing"),
        (7, "not a picture"),
        ("own", "has no picture"),
        ([], "no picture is given"),
    ],
)
def test_bad_pictures_are_refused(user_input: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        references.references(SCENE, user_input)


def released(options: dict[str, Any]) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in make(options)[1].state_dict().items()}


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "change", "words"),
    [
        ({"full": True}, {}, None),
        (PLUS, {"image_proj.layers.0.0.to_q.weight": None}, "not whole: lacks 'image_proj.layers.0.0.to_q.weight'"),
        (PLUS, {"image_proj.layers.3.1.3.weight": None}, "missing image_proj.layers.3.1.3.weight"),
        (PLUS, {f"ip_adapter.{i}.to_k_ip.weight": None for i in (1, 3, 5)}, "lacks 'ip_adapter.1.to_k_ip.weight'"),
        (
            {"full": True},
            {"image_proj.proj.3.weight": None},
            "not read; its projection has image_proj.proj.0",
        ),
        ({"full": True}, {"image_proj.proj.0.bias": None}, "missing image_proj.proj.0.bias"),
        ({"full": True}, {"image_proj.norm.weight": torch.ones(32)}, "an IP-Adapter FaceID, which needs InsightFace"),
        ({}, {"image_proj.perceiver_resampler.proj_in.weight": torch.ones(1)}, "FaceID Plus"),
        ({}, {"ip_adapter_proj_model.norm.weight": torch.ones(1)}, "IP-Adapter of FLUX"),
    ],
)
def test_released_files(tmp_path: Path, options: dict[str, Any], change: dict[str, Any], words: str | None) -> None:
    """A file of full face loads; one that is cut short or of another kind is refused in a sentence."""
    state = {key: value for key, value in (released(options) | change).items() if value is not None}
    torch.save(state, tmp_path / "ip-adapter.bin")
    backbone = tiny_backbone(image_encoder=True)
    pipe = Pipeline(Model(Host(backbone, {"text": load("text")()}), Sampling(), (48, 64)))
    if words is None:
        assert pipe.add_plugin(tmp_path / "ip-adapter.bin") == "image_prompt"
        added = pipe.host.plugin("image_prompt")
        assert added.config["full"] is True
        assert all(torch.equal(value, state[key]) for key, value in added.state_dict().items())
        return
    with pytest.raises(InputError, match=re.escape(words)):
        pipe.add_plugin(tmp_path / "ip-adapter.bin")


def test_one_picture_is_encoded_once() -> None:
    same = photo(1)
    found = references.references(SCENE, {"CAM_FRONT": [same, photo(2)], "CAM_FRONT_LEFT": same})
    assert len(found.images) == 2


def dataset(root: Path) -> Path:
    """One scene of two frames with pictures, and one to look at."""
    scenes = []
    for number in range(2):
        frames = []
        for step in range(2):
            one = frame(step, views=2)
            cameras = []
            for camera in one.cameras:
                path = root / "samples" / camera.channel / f"{number}-{step}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                photo(10 * number + step, camera.image_size).save(path)
                cameras.append(replace(camera, image_path=path))
            boxes = tuple(
                replace(b, instance=f"{b.instance}-{number}", token=f"{number}-{step}-{b.instance}") for b in one.boxes
            )
            frames.append(
                replace(one, token=f"s{number}f{step}", cameras=tuple(cameras), boxes=boxes, timestamp_us=step * 500000)
            )
        scenes.append(Scene(f"scene-{number}", tuple(frames), "a street", "boston-seaport", f"scene-{number}-token"))
    nuscenes.write(scenes, root)
    return root


@pytest.mark.slow
def test_trains_beside_a_lora_and_is_grafted(tmp_path: Path) -> None:
    """Two steps on the user's own pictures, cached; the plugin's folder works on the untouched base, as does the LoRA's."""
    tiny_backbone().save(tmp_path / "base")
    values = {
        "output": str(tmp_path / "run"),
        "model": {"base": str(tmp_path / "base"), "image_encoder": {
            "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
            "patch_size": 8, "projection_dim": 20,
        }},
        "plugins": {"image_prompt": {"kind": "image_prompt", "drop": 0.3}},
        "lora": {"rank": 2},
        "drop_groups": [{"names": ["text", "image_prompt"], "probability": 0.2}],
        "data": {
            "roots": [str(dataset(tmp_path / "data"))], "size": [48, 64], "val_scenes": ["scene-1"],
            "cache": str(tmp_path / "cache"),
        },
        "train": {"steps": 2, "images": 4, "warmup": 0, "lr": 1e-3, "precision": "32", "device": "cpu", "log_every": 1},
        "sampling": {"sampler": "ddim", "steps": 2, "guidance": 2.0, "null": ["text", "image_prompt"]},
    }  # fmt: skip
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(values))
    assert training.run(tmp_path / "train.yaml") == 0
    (cached,) = (tmp_path / "cache").glob("image_prompt-*")
    with np.load(next(iter(sorted(cached.glob("*.npz"))))) as arrays:
        assert "pixels" not in arrays  # what the frozen encoder makes of them is kept
        assert arrays["features"].shape == (2, 20)
    made = Pipeline.from_pretrained(tmp_path / "run" / "model", dtype="float32")
    values_of = made.host.plugin("image_prompt").state_dict()
    assert all(float(value.abs().sum()) > 0 for key, value in values_of.items() if "to_v_ip" in key)
    plain = Pipeline.from_pretrained(tmp_path / "base", dtype="float32")
    plain.extensions.model = replace(plain.model, sampling=replace(made.model.sampling, null=("text",)), image_size=(48, 64))
    assert all(
        torch.equal(v, plain.host.backbone.unet.state_dict()[k]) for k, v in made.host.backbone.unet.state_dict().items()
    )
    alone = tmp_path / "run" / "model" / "plugins" / "image_prompt"
    assert "| steps | 2 |" in (alone / "README.md").read_text()
    plain.add_plugin(alone, components={"image_encoder": tmp_path / "run" / "model" / "image_encoder"})
    user_input = {"inputs": {"image_prompt": photo(3)}, "output_type": "latent"}
    ours, whole = plain(SCENE, **user_input), made(SCENE, **user_input)
    assert all(torch.equal(ours[channel], whole[channel]) for channel in ours)
    plain.load_lora(tmp_path / "run" / "lora")
    changed = plain(SCENE, **user_input)
    assert plain.loras == {"lora": 1.0}
    assert not torch.equal(changed["CAM_FRONT"], ours["CAM_FRONT"])
    assert changed.settings.loras == {"lora": 1.0}
