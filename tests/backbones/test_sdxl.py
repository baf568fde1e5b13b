"""SDXL and its refiner generate what diffusers' pipelines do, beside drivegen's own conditions too."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from drivegen_plugins.layout import expand
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn

from drivegen import Pipeline
from drivegen.catalog import registry
from drivegen.host import batch as data
from drivegen.host.evaluation import Conditions
from drivegen.host.host import Host
from drivegen.host.tokens import join_tokens
from drivegen.plugin import Plugin
from drivegen.sampling.samplers import build_scheduler
from drivegen.sampling.settings import Sampling
from drivegen.saved import model
from drivegen.scene import Frame
from drivegen.support.errors import InputError
from drivegen.testing.frames import camera, frame
from drivegen.testing.models import randomize, tiny_backbone
from tests.backbones.test_single_file import OPEN_CLIP, text_to_open_clip

SIZE = (48, 64)
STEPS, GUIDANCE = 3, 3.0
TEXTS = ("text", "pooled_text")


def mixed_rig() -> Frame:
    """Three cameras, one of them of twice the resolution and one that is cut."""
    whole = frame(0)
    others = (whole.cameras[0], camera("CAM_FRONT", 0.0, (128, 96), 80.0), camera("CAM_FRONT_RIGHT", -55.0, (64, 60)))
    return replace(whole, cameras=others, description="Night, rain.")


def hosted(family: str, *more: str, **options: Any) -> Host:
    plugins: dict[str, Plugin] = {kind: registry.load(kind)() for kind in (*TEXTS, "picture_size")}
    plugins |= {kind: registry.load(kind)(**options.get(kind, {})) for kind in more}
    host = Host(tiny_backbone(family=family), plugins).eval()
    for i, kind in enumerate(more):
        randomize(host.plugin(kind), 50 + i, 0.02)
    return host


def generated(host: Host, shown: Frame, **given: Any) -> Tensor:
    settings = Sampling(sampler="ddim", steps=STEPS, guidance=GUIDANCE, null=TEXTS)
    made = Pipeline(model.Model(host, settings, SIZE))(shown, output_type="latent", **given)
    return torch.stack([made[channel] for channel in shown.channels])


def reference(host: Host, of: str = "StableDiffusionXLPipeline", **networks: Any) -> Any:
    b = host.backbone
    parts = {"vae": b.vae, "text_encoder": b.text_encoder, "text_encoder_2": b.text_encoder_2, "tokenizer": b.tokenizer}
    parts |= {"tokenizer_2": b.tokenizer_2, "unet": b.unet, "scheduler": build_scheduler("ddim", b.scheduler, STEPS)}
    pipe = (getattr(diffusers, of) if isinstance(of, str) else of)(**parts, **networks)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sizes(shown: Frame, i: int, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """What diffusers is told of a camera's picture that is generated at a size."""
    one = shown.resized(size[1], size[0]).cameras[i]
    crop = (round(one.resize.top_px), round(one.resize.left_px)) if one.resize else (0, 0)
    return {"original_size": (one.height_px, one.width_px), "crops_coords_top_left": crop, "target_size": size}


def close(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("negative", ["", "fog"])
@torch.no_grad()
def test_each_view_is_what_the_pipeline_makes_of_its_native_size_and_crop(negative: str) -> None:
    host, shown = hosted("sdxl"), mixed_rig()
    host.backbone.empty_is_zero = True
    for name in TEXTS:
        host.plugin(name).empty_is_zero = True
    x = torch.randn(3, 4, 12, 16, generator=torch.Generator().manual_seed(1))
    ours = generated(host, shown, latents=x, negative_prompt=negative)
    pipe = reference(host)
    told = [sizes(shown, i) for i in range(3)]
    assert len({str(one) for one in told}) == 3
    for i, one in enumerate(told):
        theirs = pipe(
            prompt=shown.description, negative_prompt=negative or None, height=SIZE[0], width=SIZE[1], latents=x[i : i + 1],
            num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="latent", **one,
        ).images  # fmt: skip
        close(ours[i : i + 1], theirs)


@pytest.mark.parametrize(("first", "second"), [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")])
@torch.no_grad()
def test_words_of_both_text_encoders_are_read_as_diffusers_reads_them(first: str, second: str, tmp_path: Path) -> None:
    host, shown = hosted("sdxl"), replace(mixed_rig(), description="rain on a wet, wet street")
    widths = [tower.width for tower in host.backbone.texts]
    generator = torch.Generator().manual_seed(3)
    values = {key: torch.randn(2, width, generator=generator) for key, width in zip((first, second), widths, strict=True)}
    save_file(values, tmp_path / "wet.safetensors")
    ours = Pipeline(model.Model(host, Sampling(steps=1), SIZE))
    before = conditions(host, shown)
    assert ours.load_embedding(tmp_path / "wet.safetensors") == ("wet",)
    assert ours.words == {"wet": 2}
    found = conditions(host, shown)
    assert not torch.allclose(found[1], before[1])
    pipe = reference(tiny_host_of("sdxl"))
    for key, encoder, tokenizer in (
        (first, pipe.text_encoder, pipe.tokenizer),
        (second, pipe.text_encoder_2, pipe.tokenizer_2),
    ):
        pipe.load_textual_inversion(values[key], token="<wet>", text_encoder=encoder, tokenizer=tokenizer)
    said = shown.description.replace("wet", "<wet>")
    states, _, pooled, _ = pipe.encode_prompt(said, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    assert torch.equal(found[0], states)
    assert torch.equal(found[1], pooled)
    ours.extensions.unload_embedding()
    assert all(torch.equal(a, b) for a, b in zip(before, conditions(host, shown), strict=True))


def tiny_host_of(family: str) -> Host:
    return Host(tiny_backbone(family=family), {}).eval()


def conditions(host: Host, shown: Frame) -> tuple[Tensor, Tensor]:
    """The prompt's states and pooled text, as the network is given them."""
    plugins = {name: host.plugin(name) for name in host.plugins}
    batch = data.collate([data.prepare(shown, plugins)], plugins, len(shown.cameras), ["a"])
    signals = host.encode(batch.arrays, batch.grid).signals
    tokens = signals["text"].tokens
    assert tokens is not None
    return tokens, signals["pooled_text"].added["text_embeds"]


class ControlNetPipeline(diffusers.StableDiffusionXLControlNetPipeline):
    """Takes any number of channels for the picture."""

    def check_image(self, *args: Any, **kwargs: Any) -> None: ...

    def prepare_image(self, image: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return torch.cat([image, image])


def across_views(unet: nn.Module, plugin: Plugin, table: Tensor) -> None:
    """Put a plugin's layers into a UNet by hand: each between cross-attention and feed-forward."""
    streams: dict[str, Tensor] = {}
    for site, key in plugin.sites:
        layer: Any = plugin.taps[key]

        def keep(module: nn.Module, args: Any, site: str = site) -> None:
            streams[site] = args[0]

        def add(module: nn.Module, args: Any, y: Tensor, site: str = site, layer: Any = layer) -> Tensor:
            term = layer.connector(layer.attend(layer.norm4(streams[site] + y), table))
            return y + rearrange(term, "b v l c -> (b v) l c")

        unet.get_submodule(site.replace("attn2", "norm2")).register_forward_pre_hook(keep)
        unet.get_submodule(site).register_forward_hook(add)


@torch.no_grad()
def test_boxes_camera_layout_and_views_beside_it_are_what_a_controlnet_pipeline_makes() -> None:
    options = {"boxes": {"masked": False}, "layout": {"attends_to": None, "channels": (8, 16)}}
    host = hosted("sdxl", "boxes", "camera", "layout", "cross_view", **options)
    shown = replace(frame(0), description="Night, rain.")
    x = torch.randn(3, 4, 12, 16, generator=torch.Generator().manual_seed(1))
    ours = generated(host, shown, latents=x)
    without = generated(hosted("sdxl"), shown, latents=x)
    assert (ours - without).norm() > 1e-2 * without.norm()

    plugins = {name: host.plugin(name) for name in host.plugins}
    batch = data.collate([data.prepare(shown.resized(SIZE[1], SIZE[0]), plugins)], plugins, 3)
    there, null = (host.encode(batch.arrays, batch.grid, dict.fromkeys(TEXTS, keep)) for keep in (True, False))

    def tokens(conditions: Conditions) -> Tensor:
        return join_tokens([(s, 1.0) for s in conditions.signals.values()], batch.grid, x.device, x.dtype, 32).states

    def pooled(conditions: Conditions) -> Tensor:
        return conditions.signals["pooled_text"].added["text_embeds"].repeat(3, 1)

    branch, layout = plugins["layout"].branch, plugins["layout"]
    bare = Host(tiny_backbone(family="sdxl"))
    across_views(bare.backbone.unet, plugins["cross_view"], batch.arrays["cross_view"]["neighbours"].repeat(2, 1, 1))
    branch.controlnet_cond_embedding = layout.embedder
    pipe = reference(bare, ControlNetPipeline, controlnet=branch)
    theirs = pipe(
        prompt_embeds=tokens(there), negative_prompt_embeds=tokens(null), pooled_prompt_embeds=pooled(there),
        negative_pooled_prompt_embeds=pooled(null), image=expand(batch.arrays["layout"]).flatten(0, 1), height=SIZE[0],
        width=SIZE[1], latents=x, num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="latent", **sizes(shown, 0),
    ).images  # fmt: skip
    close(ours, theirs)


@pytest.mark.parametrize(
    ("family", "said"), [("sdxl", "StableDiffusionXLPipeline"), ("sdxl_refiner", "StableDiffusionXLImg2ImgPipeline")]
)
def test_a_saved_folder_is_the_pipelines_and_loads_as_it_was(family: str, said: str, tmp_path: Path) -> None:
    host = hosted(family)
    folder = model.save(host, tmp_path / "m", image_size=SIZE)
    pipe = getattr(diffusers, said).from_pretrained(folder)
    own, theirs = host.backbone.unet.state_dict(), pipe.unet.state_dict()
    assert all(torch.equal(theirs[key], value) for key, value in own.items() if ".taps" not in key)
    again = model.load(folder)
    assert list(again.host.plugins) == [*TEXTS, "picture_size"]
    x = torch.randn(3, 4, 12, 16)
    assert torch.equal(generated(again.host, frame(0), latents=x), generated(host, frame(0), latents=x))


def test_a_plain_folder_comes_with_what_it_was_trained_with(tmp_path: Path) -> None:
    tiny_backbone(family="sdxl").save(tmp_path)
    found = model.load(tmp_path)
    assert list(found.host.plugins) == [*TEXTS, "picture_size"]
    assert found.sampling.guidance == 5.0


@torch.no_grad()
def test_without_its_plugins_it_is_given_the_generated_size_and_no_text() -> None:
    host = Host(tiny_backbone(family="sdxl")).eval()
    x, t = torch.randn(2, 4, 12, 16), torch.full((2,), 500)
    ours = host(x, t, host.encode({}, data.Grid(1, 1, 2)))
    numbers = torch.tensor([[48.0, 64, 0, 0, 48, 64]] * 2)
    added = {"text_embeds": torch.zeros(2, 12), "time_ids": numbers}
    theirs = host.backbone.unet(x, t, torch.zeros(2, 1, 32), added_cond_kwargs=added).sample
    assert torch.equal(ours, theirs)


def test_two_plugins_that_give_the_same_vector_are_refused() -> None:
    host = Host(tiny_backbone(family="sdxl"), {name: registry.load("picture_size")() for name in ("one", "other")})
    plugins = {name: host.plugin(name) for name in host.plugins}
    batch = data.collate([data.prepare(frame(0), plugins)], plugins, 3)
    conditions = host.encode(batch.arrays, batch.grid)
    with pytest.raises(InputError, match="'one' and 'other' both give the network's time_ids"):
        host(torch.randn(3, 4, 12, 16), torch.tensor(5), conditions)


def test_a_network_without_sizes_refuses_them() -> None:
    with pytest.raises(InputError, match=r"Stable Diffusion 1.x or 2.x model takes no sizes of pictures"):
        Host(tiny_backbone(), {"picture_size": registry.load("picture_size")()})


@pytest.mark.parametrize(("name", "sampler"), [("EulerAncestralDiscrete", "euler_a"), ("EulerDiscrete", "euler")])
@torch.no_grad()
def test_a_turbo_folder_samples_in_one_step_without_guidance(name: str, sampler: str, tmp_path: Path) -> None:
    backbone = tiny_backbone(family="sdxl")
    of = getattr(diffusers, f"{name}Scheduler")
    backbone.scheduler = of.from_config(backbone.scheduler.config, timestep_spacing="trailing")
    backbone.save(tmp_path)
    pipe = Pipeline.from_pretrained(tmp_path, device="cpu", dtype="float32")
    x = torch.randn(3, 4, 12, 16, generator=torch.Generator().manual_seed(1))
    shown = replace(frame(0), description="Night, rain.")
    made = pipe(shown, latents=x, size=SIZE, output_type="latent")
    assert (made.settings.sampler, made.settings.steps, made.settings.guidance) == (sampler, 1, 1.0)
    theirs = diffusers.StableDiffusionXLPipeline.from_pretrained(tmp_path)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        [shown.description] * 3, height=SIZE[0], width=SIZE[1], latents=x, num_inference_steps=1, guidance_scale=0.0,
        output_type="latent", **sizes(shown, 0),
    ).images  # fmt: skip
    close(torch.stack([made[channel] for channel in shown.channels]), expected)
    backbone.scheduler = of.from_config(backbone.scheduler.config, timestep_spacing="leading")
    backbone.save(tmp_path / "plain")
    assert model.load(tmp_path / "plain").sampling == Sampling(guidance=5.0)


# -- single files ----------------------------------------------------------------------------------------------------------

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip


def original_unet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The original names of the small UNet: two levels of one layer down and two up, attention at the lower one alone."""
    resnets = {"down_blocks.0.resnets.0": "input_blocks.1.0", "down_blocks.1.resnets.0": "input_blocks.3.0"}
    resnets |= {f"up_blocks.{i}.resnets.{j}": f"output_blocks.{2 * i + j}.0" for i in range(2) for j in range(2)}
    resnets |= {f"mid_block.resnets.{i}": f"middle_block.{2 * i}" for i in range(2)}
    places = {f"{own}.{a}": f"{there}.{b}" for own, there in resnets.items() for a, b in RESNET.items()}
    places |= {
        "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    }
    places |= {"down_blocks.1.attentions.0": "input_blocks.3.1", "mid_block.attentions.0": "middle_block.1"}
    places |= {f"up_blocks.0.attentions.{j}": f"output_blocks.{j}.1" for j in range(2)}
    places |= {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    for i in (1, 2):
        places[f"time_embedding.linear_{i}"] = f"time_embed.{2 * i - 2}"
        places[f"add_embedding.linear_{i}"] = f"label_emb.0.{2 * i - 2}"
    return {f"model.diffusion_model.{_renamed(key, places)}": value for key, value in state.items()}


def _renamed(key: str, places: dict[str, str]) -> str:
    begin = max((own for own in places if key.startswith(f"{own}.")), key=len)
    return places[begin] + key.removeprefix(begin)


def original_vae(state: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for key, value in state.items():
        name = re.sub(r"encoder\.down_blocks\.(\d)\.resnets\.", r"encoder.down.\1.block.", key)
        name = re.sub(r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample", name)
        name = re.sub(r"decoder\.up_blocks\.(\d)\.resnets\.", lambda m: f"decoder.up.{2 - int(m[1])}.block.", name)
        name = re.sub(r"decoder\.up_blocks\.(\d)\.upsamplers\.0", lambda m: f"decoder.up.{2 - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        out["first_stage_model." + name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")] = value
    return out


def original_text(backbone: Any) -> dict[str, Tensor]:
    refiner = backbone.text_encoder is None
    second = backbone.text_encoder_2.state_dict()
    projection = second.pop("text_projection.weight")
    openclip = {k.removeprefix(OPEN_CLIP): v for k, v in text_to_open_clip(second).items() if "resblocks.23" not in k}
    openclip["text_projection"] = projection.T.contiguous()
    out = {f"conditioner.embedders.{0 if refiner else 1}.model.{key}": value for key, value in openclip.items()}
    if not refiner:
        first = backbone.text_encoder.state_dict()
        out |= {f"conditioner.embedders.0.transformer.text_model.{k.removeprefix('text_model.')}": v for k, v in first.items()}
    return out


@pytest.mark.parametrize("family", ["sdxl", "sdxl_refiner"])
def test_a_single_file_holds_the_networks_of_its_folder(family: str, tmp_path: Path) -> None:
    own = tiny_backbone(family=family)
    own.save(tmp_path / "folder")
    state = original_unet(own.unet.state_dict()) | original_vae(own.vae.state_dict()) | original_text(own)
    save_file({k: v.clone().contiguous() for k, v in state.items()}, tmp_path / "file.safetensors")
    found = model.load(tmp_path / "file.safetensors", config_folder=tmp_path / "folder")
    assert found.host.backbone.family.key == family
    for name, network in own.networks.items():
        there = found.host.backbone.networks[name].state_dict()
        assert there.keys() == network.state_dict().keys()
        assert all(torch.equal(there[key], value) for key, value in network.state_dict().items()), name
    tiny_backbone().save(tmp_path / "other")
    with pytest.raises(InputError, match=r"is laid out as sdxl.*configures a Stable Diffusion 1.x or 2.x model"):
        model.load(tmp_path / "file.safetensors", config_folder=tmp_path / "other")
