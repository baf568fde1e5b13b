"""Files of LyCORIS and PEFT's kin of LoRA, against the weights that their own packages make of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from drivegen import lora
from drivegen.host.host import Host
from drivegen.lora import changes
from drivegen.testing.models import tiny_backbone

LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TOKENS = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
KERNEL = "down_blocks.0.resnets.0.conv1"
POINT = "up_blocks.1.resnets.0.conv_shortcut"
LAYERS = (LINEAR, TOKENS, KERNEL, POINT)


def make() -> Host:
    return Host(tiny_backbone(), {}).eval().requires_grad_(False)


def predict(host: Host) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    unet: Any = host.backbone.unet
    latents = torch.randn(4, unet.config.in_channels, 8, 8, generator=generator)
    text = torch.randn(4, 5, unet.config.cross_attention_dim, generator=generator)
    with torch.no_grad():
        return unet(latents, torch.tensor([1, 200, 500, 900]), text).sample


def flat(name: str) -> str:
    return "lora_unet_" + name.replace(".", "_")


def filled(module: nn.Module, seed: int) -> None:
    """Random numbers in all that is trained; lengths of DoRA stay near those of the weight."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter * (1 + 0.2 * noise) if "dora" in name else 0.4 * noise)


def made_by_lycoris(kind: str, options: dict[str, Any], scale: float) -> tuple[dict[str, Tensor], Host]:
    """A file of some kind, and a host in which LyCORIS's own modules are at work."""
    from lycoris.modules.locon import LoConModule
    from lycoris.modules.loha import LohaModule
    from lycoris.modules.lokr import LokrModule

    cls: Any = {"locon": LoConModule, "loha": LohaModule, "lokr": LokrModule}[kind]
    other, state = make(), {}
    for i, name in enumerate(LAYERS):
        layer = other.backbone.unet.get_submodule(name)
        module = cls("x", layer, scale, **{"lora_dim": 2, "alpha": 1.5, **options}).eval()
        module.apply_to()
        filled(module, i)
        state |= {f"{flat(name)}.{key}": value for key, value in module.custom_state_dict().items()}
    return {key: value.detach().clone().contiguous() for key, value in state.items()}, other


@pytest.mark.parametrize(
    ("kind", "options", "scale"),
    [
        ("locon", {}, 0.7), ("locon", {"use_tucker": True}, 0.7), ("locon", {"weight_decompose": True}, 1.0),
        ("loha", {}, 0.7), ("loha", {"use_tucker": True}, 0.7), ("loha", {"weight_decompose": True}, 1.0),
        ("loha", {"lora_dim": 6}, 1.0), ("loha", {"weight_decompose": True, "wd_on_out": False}, 1.0),
        ("lokr", {}, 0.7), ("lokr", {"use_tucker": True}, 0.7), ("lokr", {"decompose_both": True, "lora_dim": 1}, 1.3),
        ("lokr", {"full_matrix": True}, 0.7), ("lokr", {"weight_decompose": True}, 1.0), ("lokr", {"factor": 4}, 1.0),
    ],
)  # fmt: skip
def test_files_equal_lycoris(kind: str, options: dict[str, Any], scale: float, tmp_path: Path) -> None:
    host = make()
    plain = predict(host)
    state, expected = made_by_lycoris(kind, options, scale)
    save_file(state, tmp_path / "a.safetensors")
    lora.apply(host, [(lora.read(tmp_path / "a.safetensors"), scale)])
    wanted = predict(expected)
    assert (wanted - plain).abs().max() > 1e-2
    torch.testing.assert_close(predict(host), wanted, rtol=1e-4, atol=2e-5)
    lora.remove(host)
    assert torch.equal(predict(host), plain)


def test_whole_differences_of_weights_norms_and_biases_leave_no_trace(tmp_path: Path) -> None:
    host, expected = make(), make()
    plain = predict(host)
    generator = torch.Generator().manual_seed(0)
    state = {}
    named = ("down_blocks.0.resnets.0.norm1", "mid_block.attentions.0.transformer_blocks.0.norm2")
    for name, words in (
        *((n, ("w_norm", "b_norm")) for n in named),
        (KERNEL, ("diff", "diff_b")),
        (f"{LINEAR[:-4]}to_out.0", ("diff_b",)),
    ):
        layer: Any = expected.backbone.unet.get_submodule(name)
        for word in words:
            parameter = layer.weight if word in ("w_norm", "diff") else layer.bias
            state[f"{flat(name)}.{word}"] = 0.3 * torch.randn(parameter.shape, generator=generator)
            parameter.data += 0.5 * state[f"{flat(name)}.{word}"]
    save_file(state, tmp_path / "norms.safetensors")
    lora.apply(host, [(lora.read(tmp_path / "norms.safetensors"), 0.5)])
    torch.testing.assert_close(predict(host), predict(expected), rtol=1e-4, atol=2e-5)
    lora.remove(host)
    assert torch.equal(predict(host), plain)


def test_several_kinds_add_up(tmp_path: Path) -> None:
    host = make()
    for kind in ("loha", "lokr"):
        save_file(made_by_lycoris(kind, {}, 1.0)[0], tmp_path / f"{kind}.safetensors")
    pair = [(lora.read(tmp_path / f"{kind}.safetensors"), scale) for kind, scale in (("loha", 0.5), ("lokr", 0.25))]
    expected = make()
    for found, scale in pair:
        for name in LAYERS:
            weight = expected.backbone.unet.get_submodule(name).weight
            change = found.layers["unet"][name.replace(".", "_")]
            weight.data += scale * changes.product(*change.factors(make().backbone.unet.get_submodule(name).weight))
    lora.apply(host, pair)
    torch.testing.assert_close(predict(host), predict(expected), rtol=1e-4, atol=2e-5)


def test_a_scale_of_dora_is_a_share_of_its_change() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 4, 3, 3, generator=generator)
    change = changes.Decomposed(
        changes.LowRank(torch.randn(2, 4, 3, 3, generator=generator), torch.randn(6, 2, 1, 1, generator=generator)),
        torch.rand(6, generator=generator) + 1,
    )
    moved = weight + changes.product(*change.change.factors(weight))
    whole = moved * (change.magnitude / moved.flatten(1).norm(dim=1))[:, None, None, None]
    torch.testing.assert_close(weight + changes.product(*change.factors(weight)), whole, rtol=1e-4, atol=1e-5)


def _dora(model: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=2, lora_alpha=3, target_modules=list(LAYERS), use_dora=True)


def _loha(model: Any) -> Any:
    from peft import LoHaConfig

    return LoHaConfig(r=2, alpha=3, target_modules=list(LAYERS), rank_pattern={TOKENS: 3}, alpha_pattern={TOKENS: 1.0})


def _lokr(model: Any) -> Any:
    from peft import LoKrConfig

    return LoKrConfig(r=2, alpha=3, target_modules=list(LAYERS), decompose_both=False, rank_pattern={KERNEL: 64})


@pytest.mark.parametrize("config", [_dora, _loha, _lokr])
def test_folders_equal_peft(config: Callable[[Any], Any], tmp_path: Path) -> None:
    from peft import get_peft_model

    host, other = make(), make()
    plain = predict(host)
    wrapped = get_peft_model(other.backbone.unet, config(None))
    for i, module in enumerate(m for m in wrapped.modules() if hasattr(m, "adapter_layer_names") and hasattr(m, "base_layer")):
        generator = torch.Generator().manual_seed(i)
        for name, parameter in module.named_parameters():
            if "base_layer" not in name:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data.copy_(parameter * (1 + 0.2 * noise) if "magnitude" in name else 0.4 * noise)
    wrapped.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 2
    lora.apply(host, [(lora.read(tmp_path), 1.0)])
    wanted = predict(other)
    assert (wanted - plain).abs().max() > 1e-2
    torch.testing.assert_close(predict(host), wanted, rtol=1e-4, atol=2e-5)
