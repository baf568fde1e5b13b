"""What `drivegen info FILE` says of files that people bring, by their content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from drivegen.saved.brought import recognise
from drivegen.support.errors import InputError
from drivegen.support.files import sha256
from tests.hostile import Hostile

LAYER = "down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
DOTTED = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


def pair(down: str, up: str, width: int = 768, rank: int = 4) -> dict[str, torch.Tensor]:
    return {down: torch.randn(rank, width), up: torch.randn(320, rank)}


KOHYA = pair(f"lora_unet_{LAYER}.lora_down.weight", f"lora_unet_{LAYER}.lora_up.weight")
DIFFUSERS = pair(f"unet.{DOTTED}.lora_A.weight", f"unet.{DOTTED}.lora_B.weight", 1024, 8)
LOHA = {
    f"lora_unet_{LAYER}.hada_{name}": torch.randn(*shape)
    for name, shape in (("w1_a", (320, 2)), ("w1_b", (2, 768)), ("w2_a", (320, 2)), ("w2_b", (2, 768)))
}
CUSTOM = {f"{DOTTED.removesuffix('.to_k')}.processor.to_{p}_custom_diffusion.weight": torch.randn(320, 768) for p in "kv"}
HYPER = {768: [{f"linear.{i}.{k}": torch.randn(*s) for i, k, s in (
    (0, "weight", (1536, 768)), (0, "bias", (1536,)), (1, "weight", (768, 1536)), (1, "bias", (768,)),
)}] * 2, "name": "x"}  # fmt: skip

FILES: tuple[tuple[str, Any, str, dict[str, str]], ...] = (
    ("a.safetensors", KOHYA, "LoRA", {"layout": "kohya's", "ranks": "4 (1 layers)", "base": "Stable Diffusion 1.x"}),
    ("a.bin", DIFFUSERS, "LoRA", {"layout": "diffusers'", "ranks": "8 (1 layers)", "base": "Stable Diffusion 2.x"}),
    ("loha.safetensors", LOHA, "LoHa", {"layout": "LyCORIS's", "ranks": "2 (1 layers)"}),
    ("with.safetensors", {**KOHYA, "bundle_emb.wet.emb_params": torch.randn(3, 768)}, "LoRA", {"words": "wet (3 vectors)"}),
    ("word.safetensors", {"<cat>": torch.randn(2, 768)}, "textual inversion", {"words": "<cat> (2 vectors)"}),
    ("old.pt", {"string_to_param": {"*": torch.randn(1, 1024)}, "name": "wet"}, "textual inversion",
     {"words": "wet (1 vectors)", "base": "Stable Diffusion 2.x", "layout": "AUTOMATIC1111's"}),
    ("xl.safetensors", {"clip_l": torch.randn(1, 768), "clip_g": torch.randn(1, 1280)}, "textual inversion", {"base": "SDXL"}),
    ("hyper.pt", HYPER, "hypernetwork", {"structure": "[1, 2, 1]", "base": "Stable Diffusion 1.x"}),
    ("cd.safetensors", CUSTOM, "custom_diffusion", {"base": "Stable Diffusion 1.x"}),
    ("flux.safetensors", {"lora_unet_double_blocks_0_x.lora_down.weight": torch.randn(2, 2)}, "LoRA", {"base": "Flux"}),
    ("whole.safetensors", {"model.diffusion_model.x": torch.randn(2)}, "whole checkpoint", {}),
    ("vae.safetensors", {"encoder.conv_in.weight": torch.randn(2)}, "VAE", {}),
)  # fmt: skip


@pytest.mark.parametrize(("name", "values", "kind", "facts"), FILES, ids=[name for name, *_ in FILES])
def test_files_are_told_by_what_is_inside(name: str, values: Any, kind: str, facts: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(values, path, {"modelspec.trigger_phrase": "rainy city"} if kind == "LoRA" else None)
    else:
        torch.save(values, path)
    found = recognise(path)
    assert kind in found.kind
    assert {key: found.facts[key] for key in facts} == facts
    assert found.sha256 == sha256(path)
    assert found.size_bytes == path.stat().st_size
    if kind == "LoRA" and path.suffix == ".safetensors":
        assert found.facts["trigger"] == "rainy city"
    misleading = tmp_path / f"pytorch_lora_weights{path.suffix}"
    misleading.write_bytes(path.read_bytes())
    assert recognise(misleading).kind == found.kind


def test_what_is_none_of_them_is_said(tmp_path: Path) -> None:
    save_file({"some.layer.weight": torch.randn(2, 2)}, tmp_path / "other.safetensors")
    torch.save({"x": Hostile(tmp_path / "mark")}, tmp_path / "hostile.pt")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:20])
    (tmp_path / "text.txt").write_text("a text")
    (tmp_path / "nothing").mkdir()
    for name, said in (
        ("other.safetensors", "its first tensor is 'some.layer.weight'"), ("hostile.pt", "plain tensors"),
        ("empty.pt", "is empty"), ("cut.safetensors", "not a whole safetensors file"), ("text.txt", "plain tensors"),
        ("nothing", "holds 0 weight files"), ("gone.pt", "there is no file"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            recognise(tmp_path / name)
    assert not (tmp_path / "mark").exists()
