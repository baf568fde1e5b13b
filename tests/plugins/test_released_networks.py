"""ControlNets and T2I-Adapters in single files, in the original layout and in diffusers': equal to their folders."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, T2IAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from drivegen.cli.main import app
from drivegen.convert import networks
from drivegen.support.errors import InputError
from tests.plugins.test_controlnet import LEVELS, close, diffusers_run, drawing, in_order, pipeline, run, two_views
from tests.tiny_models import randomize, tiny_backbone

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("networks")
    unet = tiny_backbone(vae_factor=8, unet=LEVELS).unet
    nets = {
        "control": ControlNetModel.from_unet(unet, load_weights_from_unet=False),
        "linear": ControlNetModel.from_config({**ControlNetModel.from_unet(unet).config, "use_linear_projection": True}),
        "full": T2IAdapter(3, [32, 64, 64], 2, 8, "full_adapter"),
        "light": T2IAdapter(1, [32, 64], 2, 8, "light_adapter"),
    }
    for i, (name, net) in enumerate(nets.items()):
        randomize(net, 20 + i).save_pretrained(root / name)
    return {name: root / name for name in nets}


def weights_of(folder: Path) -> State:
    return load_file(folder / "diffusion_pytorch_model.safetensors")


def original_control(state: State) -> State:
    """Names as lllyasviel's code has them, for three levels of one layer."""
    blocks = {(0, "resnets"): 1, (0, "downsamplers"): 2, (1, "resnets"): 3, (1, "downsamplers"): 4, (2, "resnets"): 5}
    inner = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
        "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
    }  # fmt: skip
    out = {}
    for key, value in state.items():
        name, leaf = key.rsplit(".", 1)
        if found := re.fullmatch(r"down_blocks\.(\d)\.resnets\.0\.(\w+)", name):
            name = f"input_blocks.{blocks[int(found[1]), 'resnets']}.0.{inner[found[2]]}"
        elif found := re.fullmatch(r"down_blocks\.(\d)\.attentions\.0\.(.+)", name):
            name = f"input_blocks.{blocks[int(found[1]), 'resnets']}.1.{found[2]}"
        elif found := re.fullmatch(r"down_blocks\.(\d)\.downsamplers\.0\.conv", name):
            name = f"input_blocks.{blocks[int(found[1]), 'downsamplers']}.0.op"
        elif found := re.fullmatch(r"mid_block\.resnets\.(\d)\.(\w+)", name):
            name = f"middle_block.{2 * int(found[1])}.{inner[found[2]]}"
        elif found := re.fullmatch(r"controlnet_down_blocks\.(\d)", name):
            name = f"zero_convs.{found[1]}.0"
        elif found := re.fullmatch(r"controlnet_cond_embedding\.blocks\.(\d)", name):
            name = f"input_hint_block.{2 * (int(found[1]) + 1)}"
        else:
            name = name.replace("mid_block.attentions.0", "middle_block.1").replace(
                "controlnet_mid_block", "middle_block_out.0"
            )
            name = name.replace("time_embedding.linear_1", "time_embed.0").replace("time_embedding.linear_2", "time_embed.2")
            name = name.replace("controlnet_cond_embedding.conv_in", "input_hint_block.0")
            name = name.replace("controlnet_cond_embedding.conv_out", "input_hint_block.14")
            name = re.sub(r"^conv_in", "input_blocks.0.0", name)
        out[f"control_model.{name}.{leaf}"] = value
    return out


def original_full(state: State) -> State:
    """Names as TencentARC's code has them: residual blocks in a row, two for each level."""
    out = {}
    for key, value in state.items():
        name = key.removeprefix("adapter.")
        if found := re.fullmatch(r"body\.(\d)\.resnets\.(\d)\.(.+)", name):
            name = f"body.{2 * int(found[1]) + int(found[2])}.{found[3]}"
        elif found := re.fullmatch(r"body\.(\d)\.in_conv\.(.+)", name):
            name = f"body.{2 * int(found[1])}.in_conv.{found[2]}"
        out[name] = value
    return out


def original_light(state: State) -> State:
    return {key.removeprefix("adapter.").replace(".resnets.", ".body."): value for key, value in state.items()}


def whole_checkpoint(state: State) -> State:
    """The first releases had all of Stable Diffusion beside the ControlNet."""
    return {**original_control(state), "model.diffusion_model.out.0.weight": torch.full((1,), torch.nan)}


FILES: dict[str, tuple[str, str, Callable[[State], State]]] = {
    "control.pth": ("controlnet", "control", original_control),
    "pruned.safetensors": ("controlnet", "linear", lambda s: {k[14:]: v for k, v in original_control(s).items()}),
    "whole.ckpt": ("controlnet", "control", whole_checkpoint),
    "diffusers.safetensors": ("controlnet", "linear", dict),
    "full.pth": ("t2i_adapter", "full", original_full),
    "full_diffusers.safetensors": ("t2i_adapter", "full", dict),
    "light.pth": ("t2i_adapter", "light", original_light),
    "light_diffusers.bin": ("t2i_adapter", "light", dict),
}


def write(folder: Path, name: str, state: State) -> Path:
    path = folder / name
    if path.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save({"state_dict": state, "global_step": 3} if path.suffix == ".ckpt" else state, path)
    return path


@pytest.mark.slow
def test_files_hold_the_networks_of_their_folders(folders, tmp_path) -> None:
    """Configuration and weights, of a plugin attached to the UNet that the network was copied from."""
    backbone = tiny_backbone(vae_factor=8, unet=LEVELS)
    for name, (kind, source, layout) in FILES.items():
        path = write(tmp_path, name, layout(weights_of(folders[source])))
        read = getattr(networks, kind)
        one, other = read(path), read(folders[source])
        for plugin in (one, other):
            plugin.bind(backbone)
        expected = other.config["network"]
        assert {k: v for k, v in one.config["network"].items() if expected.get(k) != v} == {}, name
        mine, theirs = one.state_dict(), other.state_dict()
        assert mine.keys() == theirs.keys(), name
        assert all(torch.equal(mine[key], value) for key, value in theirs.items()), name


@pytest.mark.slow
def test_an_original_file_added_directly_equals_diffusers_pipeline(folders, tmp_path) -> None:
    path = write(tmp_path, "control_v11p_sd15_tiny.pth", original_control(weights_of(folders["control"])))
    frame, pictures = two_views(), drawing(0)
    pipe = pipeline({}, guidance=4.0)
    assert pipe.add_plugin(path, "edges") == "edges"
    ours = run(pipe, frame, negative_prompt="fog", inputs={"edges": pictures}, scales={"edges": 0.7})
    theirs = diffusers_run(
        StableDiffusionControlNetPipeline, pipe, frame, {"controlnet": ControlNetModel.from_pretrained(folders["control"])},
        image=in_order(pictures, frame), controlnet_conditioning_scale=0.7,
    )  # fmt: skip
    close(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("control", "controlnet"), ("full", "t2i_adapter")])
def test_folder_file_and_converted_folder_are_one(folders, tmp_path, name: str, kind: str) -> None:
    """Unconverted, from the command line's converter, and options; each gives the same pictures."""
    layout = original_control if name == "control" else original_full
    file = write(tmp_path, "file.pth", layout(weights_of(folders[name])))
    out = tmp_path / "converted"
    result = CliRunner().invoke(app, ["convert", kind, str(file), str(out), "--picture", "layout"])
    assert result.exit_code == 0, result.output
    views = []
    for source, options in ((folders[name], {"picture": "layout"}), (file, {"picture": "layout"}), (out, None)):
        pipe = pipeline({})
        pipe.add_plugin(source, "mine", options=options)
        assert pipe.model.sampling.null == ("text",)  # it was trained without null
        views.append(run(pipe, two_views(), num_inference_steps=1))
    for other in views[1:]:
        assert torch.equal(views[0], other)
    with pytest.raises(InputError, match="has its own"):
        pipeline({}).add_plugin(out, options={"picture": "lanes"})
    saved = pipe.save_plugin("mine", tmp_path / "again")
    assert json.loads((saved / "config.json").read_text())["arguments"]["picture"] == "layout"
    if name == "control":
        assert json.loads((saved / "config.json").read_text())["arguments"]["network"]["attention_head_dim"] == 2


def test_shuffles_file_pools_over_the_picture(folders, tmp_path) -> None:
    path = write(tmp_path, "control_v11e_sd15_shuffle.pth", original_control(weights_of(folders["control"])))
    assert networks.controlnet(path).config["network"]["global_pool_conditions"] is True
    pipe = pipeline({})
    pipe.add_plugin(path)
    assert pipe.model.sampling.null == ("text", "controlnet")


def without(state: State, *keys: str) -> State:
    assert set(keys) <= state.keys()
    return {k: v for k, v in state.items() if k not in keys}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "make", "words"),
    [
        ("controlnet", lambda c, f: original_full(f), "is of kind 't2i_adapter', not 'controlnet'"),
        ("t2i_adapter", lambda c, f: original_control(c), "is of kind 'controlnet', not 't2i_adapter'"),
        (None, lambda c, f: {**c, "task_embedding": torch.ones(1)}, "ControlNet Union of SDXL"),
        (None, lambda c, f: {**c, "add_embedding.linear_1.weight": torch.ones(8, 9)}, "controlnet"),
        (None, lambda c, f: {"lora_controlnet": torch.ones(1)}, "Control-LoRA"),
        (None, lambda c, f: {"lllite_unet_a.down.0.weight": torch.ones(1)}, "LLLite"),
        (None, lambda c, f: {"lora_unet_mid.lora_up.weight": torch.ones(1)}, "it is a LoRA: add it with --lora"),
        (None, lambda c, f: {"first_stage_model.a": torch.ones(1)}, "it is a VAE"),
        (None, lambda c, f: {"style_embedding": torch.ones(1)}, "T2I-Adapter of style"),
        ("controlnet", lambda c, f: without(original_control(c), "control_model.zero_convs.1.0.weight"), "missing branch"),
        ("controlnet", lambda c, f: without(original_control(c), "control_model.input_blocks.3.0.in_layers.2.weight"), "lacks"),
        ("controlnet", lambda c, f: {**original_control(c), "control_model.more": torch.ones(1)}, "unexpected branch.more"),
        ("t2i_adapter", lambda c, f: without(original_full(f), "body.1.block1.weight"), "lacks 'body.1.block1.weight'"),
        (None, lambda c, f: {}, "it is empty"),
        ("t2i_adapter", lambda c, f: {**f, "adapter.conv_in.bias": torch.full((32,), torch.nan)}, "NaN"),
    ],
)  # fmt: skip
def test_what_a_file_is_instead_is_said(folders, tmp_path, kind: str | None, make, words: str) -> None:
    path = write(tmp_path, "file.pth", make(weights_of(folders["control"]), weights_of(folders["full"])))
    with pytest.raises(InputError, match=re.escape(words)):
        pipeline({}).add_plugin(path, kind=kind)
    if kind is not None:
        result = CliRunner().invoke(app, ["convert", kind, str(path), str(tmp_path / "out")])
        assert result.exit_code == 2
        assert " ".join(words.split()[:2]) in " ".join(result.output.split())
        assert not (tmp_path / "out").exists()


def test_paths_that_hold_no_network_are_refused(folders, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    for kind in ("controlnet", "t2i_adapter"):
        for source, words in ((tmp_path / "nowhere.pth", "no weight file"), (tmp_path / "empty", "has no config.json")):
            with pytest.raises(InputError, match=words):
                getattr(networks, kind)(source)
    (tmp_path / "unet").mkdir()
    tiny_backbone(vae_factor=8).unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(InputError, match="it holds UNet2DConditionModel"):
        pipeline({}).add_plugin(tmp_path / "unet")
    tiny_backbone(vae_factor=8).unet.save_pretrained(tmp_path / "unet", max_shard_size="100KB")
    with pytest.raises(InputError, match="is one part of a network in several files; name its folder"):
        pipeline({}).add_plugin(next((tmp_path / "unet").glob("*-00001-of-*")))
    (tmp_path / "empty" / "model_index.json").write_text("{}")
    with pytest.raises(InputError, match="is a whole model and no plugin; name it with --model"):
        pipeline({}).add_plugin(tmp_path / "empty")


def test_an_order_of_channels_that_is_none_is_refused(folders, tmp_path) -> None:
    shutil.copytree(folders["control"], tmp_path / "control")
    config = json.loads((tmp_path / "control" / "config.json").read_text())
    (tmp_path / "control" / "config.json").write_text(json.dumps(config | {"controlnet_conditioning_channel_order": "gbr"}))
    with pytest.raises(InputError, match="'gbr' must be 'rgb' or 'bgr'"):
        pipeline({}).add_plugin(tmp_path / "control")
