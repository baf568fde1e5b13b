"""MagicDrive's own numbers, from its own weights, through the contract; every weight of its full size has a place."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from drivegen.convert import magicdrive, magicdrive_config
from drivegen.host.host import Host
from drivegen.support.errors import InputError
from tests.tiny_models import tiny_backbone

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT.parent / "shared" / "fixtures" / "magicdrive"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden tensors are not here")

sys.path.insert(0, str(ROOT / "scripts"))
import check_magicdrive  # noqa: E402

ONCE = ("timestep", "loss", "grad_norm")
"""Tensors that do not grow with the batch."""


@golden
def test_every_golden_tensor_is_reproduced() -> None:
    lines = list(check_magicdrive.check(GOLDEN / "golden_a", GOLDEN / "golden_a"))
    there = sum(len(load_file(path)) for path in (GOLDEN / "golden_a").glob("s*.safetensors"))
    assert len(lines) > there
    assert [str(line) for line in lines if not line.ok] == []


@golden
def test_pickles_hold_the_same_weights() -> None:
    tensors = check_magicdrive.find_tensors(GOLDEN / "golden_a_bin")
    assert tensors == GOLDEN / "golden_a"
    ours, theirs = (magicdrive.read(GOLDEN / name) for name in ("golden_a_bin", "golden_a"))
    assert ours.places == theirs.places
    for name, state in ours.states.items():
        assert all(torch.equal(value, theirs.states[name][key]) for key, value in state.items())
    assert all(torch.equal(v, theirs.unet.state_dict()[k]) for k, v in ours.unet.state_dict().items())


def doubled(file: str, name: str, x: Tensor) -> Tensor:
    """The tensor of a batch that holds golden_a's scene twice."""
    if name in ONCE or name.startswith("grad."):
        return x
    if name.startswith("block.attn4"):
        return x.repeat_interleave(2, dim=0)  # a view's neighbour, then the scenes
    guided = name.startswith("noise_pred") and name != "noise_pred_2x"
    if file == "step_cfg" and not guided:
        return torch.cat([half for part in x.chunk(2) for half in (part, part)])
    return torch.cat([x, x])


@pytest.mark.slow
@golden
def test_a_batch_of_two_scenes_is_reproduced(tmp_path: Path) -> None:
    source = GOLDEN / "golden_a"
    for name in ("inputs", "step", "step_cfg", "train"):
        path = source / f"{name}.safetensors"
        tensors = {k: doubled(path.stem, k, v).contiguous() for k, v in load_file(path).items()}
        save_file(tensors, tmp_path / path.name)
    shutil.copy(source / "tensors.json", tmp_path)
    lines = list(check_magicdrive.check(source, tmp_path))
    assert [str(line) for line in lines if not line.ok] == []


@golden
def test_a_difference_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("unet", "controlnet"):
        shutil.copytree(GOLDEN / "golden_a" / name, tmp_path / name)
    for name in ("inputs.safetensors", "tensors.json"):
        shutil.copy(GOLDEN / "golden_a" / name, tmp_path)
    theirs = load_file(GOLDEN / "golden_a" / "step.safetensors")
    theirs["mid"] = theirs["mid"] * 1.001
    theirs["of_nothing"] = torch.ones(1)
    save_file(theirs, tmp_path / "step.safetensors")
    monkeypatch.setattr(sys, "argv", ["check", str(tmp_path)])
    assert check_magicdrive.main() == 1
    bad = [line for line in capsys.readouterr().out.splitlines() if " ok" not in line]
    assert "mid" in bad[0]
    assert "of_nothing" in bad[1]
    assert "2 not equal" in bad[2]


@pytest.mark.slow
@golden
@pytest.mark.parametrize(
    ("file", "tensor"),
    [("inputs", "map"), ("train", "drop_mask"), ("train", "timesteps"), ("sample_ddim4", "timesteps")],
)
def test_a_tensor_that_is_missing_is_named(
    file: str, tensor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in {"inputs", file}:
        tensors = load_file(GOLDEN / "golden_a" / f"{name}.safetensors")
        save_file({k: v for k, v in tensors.items() if (name, k) != (file, tensor)}, tmp_path / f"{name}.safetensors")
    arguments = ["check_magicdrive.py", str(GOLDEN / "golden_a"), "--tensors", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert check_magicdrive.main() == 2
    assert f"{file}.safetensors: there is no tensor '{tensor}'" in capsys.readouterr().err


def test_no_gradient_is_a_gradient_of_zero() -> None:
    norm = {"there": torch.ones(4), "zero": torch.zeros(4), "wrong": torch.ones(4)}
    parameters = dict.fromkeys((*norm, "none", "listless"), torch.ones(4))
    ours = {f"grad.{key}": value for key, value in norm.items()}
    theirs = {"there": 2.0, "zero": None, "none": None, "wrong": None, "frozen": None, "strange": 1.0}
    lines = check_magicdrive.gradient_norms(SimpleNamespace(parameters=parameters), ours, theirs)  # type: ignore[arg-type]
    verdicts = {line.tensor: str(line).split()[3:][0] for line in lines}
    assert verdicts == {
        "there": "ok", "zero": "ok", "none": "ok", "listless": "ok", "frozen": "ok", "wrong": "TOO", "strange": "NOT",
    }  # fmt: skip


@golden
def test_all_of_the_unet_can_train(tmp_path: Path) -> None:
    source = shutil.copytree(GOLDEN / "golden_a", tmp_path / "source")
    for path in (*source.glob("s*.safetensors"), source / "train_grad_norms.json"):
        path.unlink()
    config = json.loads((source / "unet" / "config.json").read_text())
    (source / "unet" / "config.json").write_text(json.dumps({**config, "trainable_state": "all"}))
    golden_all = check_magicdrive.Golden(source, source)
    places = magicdrive.read(source).places
    assert golden_all.parameters.keys() == {key for key in places if not key.endswith("_class_tokens")}
    user_input = check_magicdrive.Fixture(source / "train.safetensors")
    ours = check_magicdrive.train(golden_all, user_input)
    lines = list(check_magicdrive.compare("train", ours, user_input, ("clean_latents", "noise", "timesteps", "drop_mask")))
    assert [line.tensor for line in lines if not line.ok] == ["grad_norm"]  # theirs is of fewer parameters
    assert all(f"grad.{key}" in ours for key in golden_all.parameters)


# -- full size ---------------------------------------------------------------------------------------------------------

SD15 = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768, "attention_head_dim": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "neighboring_view_pair": {str(k): [(k - 1) % 6, (k + 1) % 6] for k in range(6)}, "img_size": [224, 400],
}  # fmt: skip
BEV = {
    "map_size": [8, 200, 200], "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "bbox_embedder_cls": "magicdrive.networks.bbox_embedder.ContinuousBBoxWithTextEmbedding",
    "bbox_embedder_param": {"mode": "all-xyz", "minmax_normalize": False},
}  # fmt: skip
PLUS = {
    "map_embedder_cls": "magicdrive.networks.map_embedder.BEVControlNetConditioningEmbeddingPlus", "map_size": None,
    "map_embedder_param": {
        "conditioning_size": [8, 200, 200], "conditioning_embedding_size": [34, 92], "block_out_channels": [8, 8, 9, 9],
    },
}  # fmt: skip


@golden
def test_every_weight_of_full_size_has_a_place_and_none_of_ours_is_left_unset() -> None:
    shapes = json.loads((GOLDEN / "sd15_state_dict_shapes.json").read_text())
    described = magicdrive_config.describe(SD15, BEV)
    with torch.device("meta"):
        states = [{k: torch.empty(shape) for k, shape in shapes[name].items()} for name in ("unet", "controlnet")]
        checkpoint = magicdrive.take_apart(described, *states)
        backbone = tiny_backbone()
        backbone.unet = checkpoint.unet
        plugins = checkpoint.plugins()
        Host(backbone, plugins)
        checkpoint.load_into(plugins)  # strict: no key more, none less, every shape equal
    ours = len(checkpoint.unet.state_dict()) + sum(len(plugin.state_dict()) for plugin in plugins.values())
    assert ours == len(checkpoint.places) == len(shapes["unet"]) + len(shapes["controlnet"]) == 1184
    assert len(set(checkpoint.places.values())) == 1184


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        ("unet", {"_class_name": "UNet2DConditionModel"}, "_class_name"),
        ("unet", {"crossview_attn_type": "os.system"}, "crossview_attn_type"),
        ("unet", {"neighboring_attn_type": "ad"}, "did you mean 'add'"),
        ("unet", {"neighboring_view_pair": {"0": [7]}}, "neighboring_view_pair"),
        ("unet", {"neighboring_view_pair": None}, "neighboring_view_pair is None"),
        ("unet", {"img_size": "big"}, "img_size is 'big'"),
        ("unet", {"img_size": [224]}, "img_size is .224."),
        ("unet", {"cross_attention_dim": [768]}, "cross_attention_dim is .768."),
        ("controlnet", {"map_embedder_cls": "os.system"}, "map_embedder_cls is 'os.system'"),
        ("controlnet", {"map_embedder_cls": ["a"]}, "map_embedder_cls is .'a'."),
        ("controlnet", {"bbox_embedder_cls": "builtins.eval"}, "bbox_embedder_cls is 'builtins.eval'"),
        ("controlnet", {"use_uncond_map": "learnable"}, "use_uncond_map"),
        ("controlnet", {"controlnet_conditioning_channel_order": "bgr"}, "channel_order is 'bgr'"),
        ("controlnet", {"global_pool_conditions": True}, "global_pool_conditions is True"),
        ("controlnet", {"map_size": None}, "map_size is None"),
        ("controlnet", {"map_size": [25, 200, 200]}, r"must be \[8, height, width\]"),
        ("controlnet", {"cross_attention_dim": 1024}, "cross_attention_dim"),
        ("controlnet", {"block_out_channels": [320, 640, 1280, 640]}, "they must agree"),
        ("controlnet", {"conditioning_embedding_out_channels": [8]}, "conditioning_embedding_out_channels is .8."),
        ("controlnet", {"uncond_cam_in_dim": 3}, "uncond_cam_in_dim is 3"),
        ("controlnet", {"uncond_cam_in_dim": [3, 4]}, r"must be \[3, 7\]"),
        ("controlnet", {"cam_embedder_param": {"num_freqs": "x"}}, "cam_embedder_param.num_freqs is 'x'"),
        ("controlnet", {"cam_embedder_param": 4}, "cam_embedder_param is 4"),
        ("controlnet", {"bbox_embedder_param": [1]}, "bbox_embedder_param is .1."),
        ("controlnet", {"bbox_embedder_param": {"proj_dims": [1, 2, 3]}}, "bbox_embedder_param.proj_dims is .1, 2, 3."),
        ("controlnet", {"bbox_embedder_param": {"proj_dims": [1, 2, 3, 4]}}, "cross_attention_dim, 768"),
        ("controlnet", {"bbox_embedder_param": {"mode": ["a"]}}, "bbox_embedder_param.mode is .'a'."),
        ("controlnet", {"bbox_embedder_param": {"minmax_normalize": 0.5}}, "minmax_normalize is 0.5"),
        ("controlnet", {**PLUS, "map_embedder_param": "x"}, "map_embedder_param is 'x'"),
        ("controlnet", {**PLUS, "map_embedder_param": {"conditioning_size": [8, "a", 44]}}, "conditioning_size is .8, 'a'"),
        (
            "controlnet", {**PLUS, "map_embedder_param": {"conditioning_size": [8, 36, 44], "block_out_channels": "ab"}},
            "param.block_out_channels is 'ab'",
        ),
    ],
)  # fmt: skip
def test_configurations_outside_of_the_tables_are_refused(part: str, change: dict[str, object], says: str) -> None:
    unet, control = {**SD15, **(change if part == "unet" else {})}, {**BEV, **(change if part == "controlnet" else {})}
    with pytest.raises(InputError, match=says) as error:
        magicdrive_config.describe(unet, control, folder="given")
    assert f"given/{part}/config.json" in str(error.value)


def test_a_unet_that_diffusers_does_not_take_is_refused() -> None:
    described = magicdrive_config.describe({**SD15, "block_out_channels": [320, 640]}, BEV)
    with pytest.raises(InputError, match=r"unet/config\.json: UNet2DConditionModel cannot be built .*block_out_channels"):
        magicdrive_config.build_unet(described)


def test_plus_is_known_with_its_own_size() -> None:
    described = magicdrive_config.describe(SD15, {**BEV, **PLUS})
    assert described.options["bev_map"] == {"pixels": [200, 200], "embedder": "adaptive", "channels": [8, 8, 9, 9]}
    assert described.image_size == (224, 400)
    assert magicdrive_config.describe({**SD15, "img_size": None}, {**BEV, **PLUS}).image_size == (272, 736)


@golden
def test_images_of_unknown_size_are_refused(tmp_path: Path) -> None:
    source = shutil.copytree(GOLDEN / "golden_a", tmp_path / "source")
    config = json.loads((source / "unet" / "config.json").read_text())
    (source / "unet" / "config.json").write_text(json.dumps({**config, "img_size": None}))
    with pytest.raises(InputError, match=r"config\.json: img_size is null.* write the \[height, width\]"):
        magicdrive.convert(source, tmp_path / "out", tmp_path / "base")


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a MagicDrive checkpoint: there is no unet/config.json"):
        magicdrive.read(tmp_path)
