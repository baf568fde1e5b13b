"""Networks and LoRAs that are released for SDXL, in folders and single files, compute as diffusers has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from drivegen import Pipeline
from drivegen.catalog.registry import load
from drivegen.host import batch as data
from drivegen.host.host import Host
from drivegen.sampling.settings import Sampling
from drivegen.saved import model
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame
from drivegen.testing.models import randomize, tiny_backbone
from tests.plugins.test_image_prompt import PLUS, official, photo
from tests.plugins.test_released_networks import original_control

LEVELS: dict[str, Any] = {
    "block_out_channels": (32, 64, 64), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": (1, 2, 3),
    "attention_head_dim": (2, 4, 4),
}  # fmt: skip
SCENE = frame(0, views=2)
DRAWING = {c: np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8) for i, c in enumerate(SCENE.channels)}


def pipeline(**options: Any) -> Pipeline:
    backbone = tiny_backbone(family="sdxl", vae_factor=8, unet=LEVELS, **options)
    host = Host(backbone, {"text": load("text")()}).eval()
    return Pipeline(model.Model(host, Sampling(), (64, 64)))


def predicted(pipe: Pipeline, given: dict[str, Any] | None = None) -> Tensor:
    host = pipe.host
    plugins = {name: host.plugin(name) for name in host.plugins}
    batch = data.collate([data.prepare(SCENE.resized(64, 64), plugins, given)], plugins, 2)
    out: Tensor = host(noise(), torch.tensor(500), host.encode(batch.arrays, batch.grid))
    return out


def noise() -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))


def inputs(pipe: Pipeline) -> tuple[Tensor, dict[str, Tensor]]:
    """The tokens (2, S, D), and the vectors where no plugin gives any."""
    host = pipe.host
    batch = data.collate([data.prepare(SCENE, {"text": host.plugin("text")})], {"text": host.plugin("text")}, 2)
    tokens = host.plugin("text").encode(batch.arrays["text"], torch.ones(1).bool()).tokens
    assert tokens is not None
    numbers = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)
    return tokens.repeat(2, 1, 1), {"text_embeds": torch.zeros(2, 12), "time_ids": numbers}


def pictures() -> Tensor:
    return torch.stack([torch.from_numpy(DRAWING[c]).permute(2, 0, 1) / 255 for c in SCENE.channels])


def close(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def folder_of(net: Any, path: Path) -> Path:
    net.save_pretrained(path)
    return path


def original_sdxl(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The original code's names of a ControlNet with vectors."""
    vectors = {k: v for k, v in state.items() if k.startswith("add_embedding.")}
    renamed = {k.replace("add_embedding.linear_1", "control_model.label_emb.0.0"): v for k, v in vectors.items()}
    renamed = {k.replace("add_embedding.linear_2", "control_model.label_emb.0.2"): v for k, v in renamed.items()}
    return {**original_control({k: v for k, v in state.items() if k not in vectors}), **renamed}


@torch.no_grad()
def test_controlnets_in_folders_and_files(tmp_path: Path) -> None:
    backbone = tiny_backbone(family="sdxl", vae_factor=8, unet=LEVELS)
    net = randomize(diffusers.ControlNetModel.from_unet(backbone.unet), 7, 0.02)
    folder = folder_of(net, tmp_path / "net")
    state = load_file(folder / "diffusion_pytorch_model.safetensors")
    save_file(state, tmp_path / "plain.safetensors")
    save_file({k: v.contiguous() for k, v in original_sdxl(state).items()}, tmp_path / "original.safetensors")
    tokens, added = inputs(pipeline())
    down, mid = net(noise(), 500, tokens, pictures(), added_cond_kwargs=added, return_dict=False)
    theirs = backbone.unet(
        noise(), 500, tokens, added_cond_kwargs=added, down_block_additional_residuals=down, mid_block_additional_residual=mid
    ).sample
    bare = predicted(pipeline())
    assert (theirs - bare).norm() > 1e-3 * bare.norm()
    for source in (folder, tmp_path / "plain.safetensors", tmp_path / "original.safetensors"):
        pipe = pipeline()
        name = pipe.add_plugin(source)
        close(predicted(pipe, {name: DRAWING}), theirs)


@torch.no_grad()
def test_t2i_adapters(tmp_path: Path) -> None:
    net = randomize(diffusers.T2IAdapter(3, [32, 64, 64, 64], 2, 16, "full_adapter_xl"), 8, 0.05)
    pipe = pipeline()
    name = pipe.add_plugin(folder_of(net, tmp_path / "net"))
    tokens, added = inputs(pipe)
    unet = tiny_backbone(family="sdxl", vae_factor=8, unet=LEVELS).unet
    theirs = unet(noise(), 500, tokens, added_cond_kwargs=added, down_intrablock_additional_residuals=net(pictures())).sample
    close(predicted(pipe, {name: DRAWING}), theirs)
    fresh = load("t2i_adapter")("given")
    Host(tiny_backbone(family="sdxl", vae_factor=8, unet=LEVELS), {"fresh": fresh})
    assert fresh.config["network"]["adapter_type"] == "full_adapter_xl"
    with pytest.raises(InputError, match="has attention at its first level"):
        Host(tiny_backbone(vae_factor=8), {"xl": load("t2i_adapter")("given", fresh.config["network"])})


@pytest.mark.parametrize("options", [{}, PLUS], ids=["plain", "plus"])
@torch.no_grad()
def test_ip_adapters(options: dict[str, Any]) -> None:
    pipe = pipeline(image_encoder=True)
    plugin = load("image_prompt")(**options)
    pipe.host.add_plugin("photo", plugin)
    randomize(plugin, 5)
    ours = predicted(pipe, {"photo": photo(1)})

    bare = tiny_backbone(family="sdxl", vae_factor=8, unet=LEVELS, image_encoder=True)
    theirs = diffusers.StableDiffusionXLPipeline(
        bare.vae, bare.text_encoder, bare.text_encoder_2, bare.tokenizer, bare.tokenizer_2, bare.unet, bare.scheduler,
        image_encoder=bare.component("image_encoder"),
    )  # fmt: skip
    theirs.load_ip_adapter(official(plugin), subfolder="", weight_name="", image_encoder_folder=None, low_cpu_mem_usage=False)
    theirs.set_ip_adapter_scale(1.0)
    embeds = theirs.prepare_ip_adapter_image_embeds([photo(1)], None, "cpu", 2, False)
    tokens, added = inputs(pipe)
    close(ours, bare.unet(noise(), 500, tokens, added_cond_kwargs={**added, "image_embeds": embeds}).sample)


def kohya(unet: dict[str, str], texts: bool = True) -> dict[str, Tensor]:
    """A LoRA with kohya's names: layers of the UNet (a name in the file for each of ours), and of both text encoders."""
    bare = tiny_backbone(family="sdxl", vae_factor=8, unet=LEVELS)
    layers = {f"lora_unet_{said}": bare.unet.get_submodule(own).weight for own, said in unet.items()}
    for number, encoder in enumerate((bare.text_encoder, bare.text_encoder_2), 1):
        name = next(n for n, _ in encoder.named_modules() if n.endswith("layers.0.self_attn.q_proj"))
        flat = f"text_model.{name.removeprefix('text_model.')}".replace(".", "_")
        layers |= {f"lora_te{number}_{flat}": encoder.get_submodule(name).weight} if texts else {}
    generator, out = torch.Generator().manual_seed(4), {}
    for name, weight in layers.items():
        out[f"{name}.lora_down.weight"] = torch.randn(2, *weight.shape[1:], generator=generator)
        out[f"{name}.lora_up.weight"] = torch.randn(weight.shape[0], 2, *[1] * (weight.ndim - 2), generator=generator)
        out[f"{name}.alpha"] = torch.tensor(1.0)
    return out


IN_UNET = {
    "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k": "input_blocks_3_1_transformer_blocks_1_attn2_to_k",
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_q": "middle_block_1_transformer_blocks_0_attn1_to_q",
    "up_blocks.0.attentions.1.transformer_blocks.2.attn1.to_v": "output_blocks_1_1_transformer_blocks_2_attn1_to_v",
    "up_blocks.1.resnets.0.conv1": "output_blocks_2_0_in_layers_2",
    "add_embedding.linear_1": "label_emb_0_0",
}  # fmt: skip


@torch.no_grad()
def test_loras_of_two_text_encoders_and_the_original_names(tmp_path: Path) -> None:
    """Folded by hand into the layers that kohya's names mean, and the same under diffusers' names of the UNet's layers."""
    state = kohya(IN_UNET)
    save_file(state, tmp_path / "original.safetensors")
    save_file(kohya({own: own.replace(".", "_") for own in IN_UNET}), tmp_path / "diffusers.safetensors")

    folded = pipeline()
    backbone = folded.host.backbone
    for name, own in [(f"lora_unet_{said}", own) for own, said in IN_UNET.items()] + [
        (key.partition(".")[0], None) for key in state if key.startswith("lora_te") and key.endswith("alpha")
    ]:
        if own is not None:
            layer = backbone.unet.get_submodule(own)
        else:
            encoder = backbone.text_encoder if name.startswith("lora_te1_") else backbone.text_encoder_2
            layer = next(m for n, m in encoder.named_modules() if n.endswith("layers.0.self_attn.q_proj"))
        up, down = state[f"{name}.lora_up.weight"], state[f"{name}.lora_down.weight"]
        layer.weight += 0.5 * (up.flatten(1) @ down.flatten(1)).view_as(layer.weight)
    theirs, bare = predicted(folded), predicted(pipeline())
    assert (theirs - bare).norm() > 1e-2 * bare.norm()
    for file in ("original.safetensors", "diffusers.safetensors"):
        pipe = pipeline()
        pipe.load_lora(tmp_path / file)
        close(predicted(pipe), theirs)
        pipe.unload_lora()
        assert torch.equal(predicted(pipe), bare)
    plain = Pipeline(model.Model(Host(tiny_backbone(), {"text": load("text")()}), Sampling(), (64, 64)))
    with pytest.raises(InputError, match=r"text_encoder_2, which this Stable Diffusion 1.x or 2.x model does not have"):
        plain.load_lora(_second_alone(state, tmp_path))


def _second_alone(state: dict[str, Tensor], folder: Path) -> Path:
    save_file({k: v for k, v in state.items() if k.startswith("lora_te2_")}, folder / "te2.safetensors")
    return folder / "te2.safetensors"
