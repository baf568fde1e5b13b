"""Single-file Stable Diffusion checkpoints: a tiny model of SD's shape, under the key names of the original code base."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
from pathlib import Path

import huggingface_hub
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.cli.main import app
from drivegen.pipeline.pipeline import Pipeline
from drivegen.pipeline.views import Views
from drivegen.support import weights
from drivegen.support.errors import InputError
from tests.hostile import Hostile
from tests.street import street_frame
from tests.tiny_models import WIDTH, randomize, tiny_tokenizer

PARTS = ("unet", "vae", "text_encoder")
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
OPEN_CLIP = "cond_stage_model.model."


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("a single file was loaded with the help of the network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def sd_backbone(seed: int = 0) -> Backbone:
    """Build Stable Diffusion 1.x with its blocks, narrow, and with two layers of text encoder."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = tiny_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16, 24, 24), cross_attention_dim=WIDTH, attention_head_dim=2, norm_num_groups=4
    )  # the rest of its defaults are SD 1.x
    vae = AutoencoderKL(
        block_out_channels=(4, 8, 12, 12), down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4, norm_num_groups=2,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2,
    )  # fmt: skip
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    parts = [randomize(m, seed * 10 + i).eval() for i, m in enumerate((unet, vae, CLIPTextModel(text_config)))]
    scheduler = PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True)
    return Backbone(*parts, tokenizer, scheduler)


# -- the original code base's names, from the order in which its UNetModel and AutoencoderKL build their layers ----------


def renamed(key: str, places: dict[str, str], layers: dict[str, str]) -> str:
    """Rename the longest place that a key begins with, and the layer after it."""
    place = max((p for p in places if key.startswith(p + ".")), key=len, default=None)
    assert place is not None, key
    layer, _, end = key.removeprefix(place + ".").rpartition(".")
    return ".".join(filter(None, (places[place], layers.get(layer, layer)))) + "." + end


def unet_to_ldm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename diffusers' UNet: input and output blocks are counted through the levels."""
    places = {
        "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2", "conv_norm_out": "out.0", "conv_out": "out.2",
    }  # fmt: skip
    down = [f"{level}.{kind}" for level in range(4) for kind in ("0", "1", "downsample")][:-1]
    for number, place in enumerate(down, start=1):
        level, kind = place.split(".")
        if kind == "downsample":
            places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
        else:
            places[f"down_blocks.{level}.resnets.{kind}"] = f"input_blocks.{number}.0"
            places[f"down_blocks.{level}.attentions.{kind}"] = f"input_blocks.{number}.1"
    for number in range(12):
        level, j = divmod(number, 3)
        places[f"up_blocks.{level}.resnets.{j}"] = f"output_blocks.{number}.0"
        places[f"up_blocks.{level}.attentions.{j}"] = f"output_blocks.{number}.1"
        if j == 2:  # the lowest level has no attention, so that its upsampling takes the place
            places[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number}.{1 if level == 0 else 2}.conv"
    layers = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
        "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
    }  # fmt: skip
    return {UNET + renamed(key, places, layers): value for key, value in state.items()}


def vae_to_ldm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename diffusers' VAE: the decoder's levels count from the finest, and its attention is of 1×1 convolutions."""
    places = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        places |= {f"{side}.{name}": f"{side}.{name.replace('conv_norm', 'norm')}" for name in ("conv_in", "conv_norm_out")}
        places[f"{side}.conv_out"] = f"{side}.conv_out"
        places |= {f"{side}.mid_block.resnets.{j}": f"{side}.mid.block_{j + 1}" for j in range(2)}
        places[f"{side}.mid_block.attentions.0"] = f"{side}.mid.attn_1"
    for level in range(4):
        places |= {f"encoder.down_blocks.{level}.resnets.{j}": f"encoder.down.{level}.block.{j}" for j in range(2)}
        places[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = f"encoder.down.{level}.downsample.conv"
        places |= {f"decoder.up_blocks.{level}.resnets.{j}": f"decoder.up.{3 - level}.block.{j}" for j in range(3)}
        places[f"decoder.up_blocks.{level}.upsamplers.0.conv"] = f"decoder.up.{3 - level}.upsample.conv"
    layers = {
        "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "conv_shortcut": "nin_shortcut",
    }  # fmt: skip
    out = {}
    for key, value in state.items():
        is_matrix = "attentions" in key and value.ndim == 2
        out[VAE + renamed(key, places, layers)] = value[:, :, None, None] if is_matrix else value
    return out


def text_to_ldm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the text encoder as transformers did then: below ``text_model``, with the positions' numbers among the weights."""
    places = torch.arange(16)[None]
    return {TEXT + k.removeprefix("text_model."): v for k, v in state.items()} | {TEXT + "embeddings.position_ids": places}


def text_to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the text encoder as SD 2.x files do: OpenCLIP's, queries, keys and values in one tensor."""
    top = {
        "embeddings.token_embedding.weight": "token_embedding.weight", "final_layer_norm.weight": "ln_final.weight",
        "embeddings.position_embedding.weight": "positional_embedding", "final_layer_norm.bias": "ln_final.bias",
    }  # fmt: skip
    layers = {
        "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }  # fmt: skip
    state = {k.removeprefix("text_model."): v for k, v in state.items()}
    out = {top[k]: v for k, v in state.items() if k in top}
    for n in range(2):
        source, target = f"encoder.layers.{n}.", f"transformer.resblocks.{n}."
        for end in ("weight", "bias"):
            out |= {f"{target}{new}.{end}": state[f"{source}{old}.{end}"] for old, new in layers.items()}
            qkv = [state[f"{source}self_attn.{name}_proj.{end}"] for name in "qkv"]
            out[f"{target}attn.in_proj_{end}"] = torch.cat(qkv)
    out |= {"text_projection": torch.ones(WIDTH, WIDTH), "logit_scale": torch.ones(())}
    # The checkpoint's last layer, which SD 2.x does not use and its configuration leaves out.
    out |= {"transformer.resblocks.23.ln_1.weight": torch.ones(WIDTH)}
    return {OPEN_CLIP + key: value for key, value in out.items()}


def to_ldm(backbone: Backbone) -> dict[str, Tensor]:
    """Give a backbone's weights as the original code base would save them, with the schedule that it saves too."""
    whole = unet_to_ldm(backbone.unet.state_dict()) | vae_to_ldm(backbone.vae.state_dict())
    return whole | text_to_ldm(backbone.text_encoder.state_dict()) | {"alphas_cumprod": backbone.scheduler.alphas_cumprod}


def assert_same(found: Backbone, expected: Backbone) -> None:
    for name in PARTS:
        state, own = getattr(found, name).state_dict(), getattr(expected, name).state_dict()
        assert state.keys() == own.keys()
        assert all(state[key].dtype == torch.float32 and torch.equal(state[key], own[key]) for key in own), name


def only_configurations(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return sd_backbone()


@pytest.fixture(scope="module")
def ldm(backbone: Backbone) -> dict[str, Tensor]:
    return to_ldm(backbone)


@pytest.fixture(scope="module")
def folder(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("single") / "folder"
    backbone.save(path)
    return path


@pytest.fixture(scope="module")
def configs(folder: Path) -> Path:
    return only_configurations(folder, folder.with_name("configs"))


@pytest.fixture(scope="module")
def file(ldm: dict[str, Tensor], folder: Path) -> Path:
    path = folder.with_name("sd.safetensors")
    weights.save_state(ldm, path)
    return path


def load(file: Path, configs: Path | None) -> Pipeline:
    return Pipeline.from_pretrained(file, device="cpu", dtype="float32", config_folder=configs)


def test_the_names_are_those_of_real_checkpoints(backbone: Backbone, ldm: dict[str, Tensor]) -> None:
    from diffusers.loaders import single_file_utils as theirs

    counts = {prefix: sum(key.startswith(prefix) for key in ldm) for prefix in (UNET, VAE, TEXT)}
    assert counts == {UNET: 686, VAE: 248, TEXT: 5 + 2 * 16}  # SD 1.x has 686, 248 and 5 + 12 × 16
    assert {theirs.CHECKPOINT_KEY_NAMES[name] for name in ("v1", "v2", "inpainting", "clip")} <= ldm.keys()
    back = (
        theirs.convert_ldm_unet_checkpoint(ldm, backbone.unet.config),
        theirs.convert_ldm_vae_checkpoint(ldm, backbone.vae.config),
        {k.removeprefix("text_model."): v for k, v in theirs.convert_ldm_clip_checkpoint(ldm).items()},
    )
    for name, state in zip(PARTS, back, strict=True):
        own = {k.removeprefix("text_model."): v for k, v in getattr(backbone, name).state_dict().items()}
        state.pop("embeddings.position_ids", None)
        assert state.keys() == own.keys()
        assert all(torch.equal(state[key], own[key]) for key in own)


def test_a_single_file_generates_what_its_folder_does(backbone: Backbone, file: Path, folder: Path, configs: Path) -> None:
    pipes = [load(file, configs), load(folder, None)]
    for pipe in pipes:
        assert_same(pipe.host.backbone, backbone)
        assert not any(module.training for module in pipe.host.modules())
        assert list(pipe.host.plugins) == ["text"]
        assert pipe.model.image_size == (64, 64)
        own, saved = (dict(scheduler.config) for scheduler in (pipe.host.backbone.scheduler, backbone.scheduler))
        assert own | {"_use_default_values": []} == saved | {"_use_default_values": []}
    options = {"prompt": "night, rain", "seed": 3, "num_inference_steps": 2, "output_type": "latent"}
    ours, theirs = (pipe(street_frame(), **options) for pipe in pipes)
    assert len(ours) == 6
    assert all(ours[channel].std() > 0.1 and torch.equal(ours[channel], theirs[channel]) for channel in ours)


def test_the_command_line_generates_from_a_single_file(tmp_path: Path, file: Path, configs: Path, monkeypatch) -> None:
    for name in ("sheet", "sheet_boxes"):  # they take most of the time and say nothing of the model
        monkeypatch.setattr(Views, name, lambda self: Image.new("RGB", (8, 8)))
    options = ["generate", "--out", tmp_path, "--model", file, "--config", configs, "--steps", 1, "--dtype", "float32"]
    result = CliRunner().invoke(app, [str(option) for option in options])
    assert result.exit_code == 0, (result.output, result.exception)
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) == len(list(tmp_path.glob("*/CAM_*.png"))) == 6
    assert {line["model"] for line in lines} == {str(file)}


def test_plain_tensors_in_a_ckpt_are_read(tmp_path: Path, backbone: Backbone, ldm: dict[str, Tensor], configs: Path) -> None:
    path = tmp_path / "half.ckpt"
    state = ldm | {"cond_stage_model.transformer.text_projection.weight": torch.ones(WIDTH, WIDTH)}  # as some merges have
    torch.save({"state_dict": {key: value.half() for key, value in state.items()}, "global_step": 470000}, path)
    found = load(path, configs).host.backbone
    for name in PARTS:
        own = getattr(backbone, name).state_dict()
        assert all(torch.equal(v, own[k].half().float()) for k, v in getattr(found, name).state_dict().items())


def test_an_sd2_file_has_open_clip(tmp_path: Path, backbone: Backbone, ldm: dict[str, Tensor], configs: Path) -> None:
    state = {key: value for key, value in ldm.items() if not key.startswith("cond_stage_model.")}
    weights.save_state(state | text_to_open_clip(backbone.text_encoder.state_dict()), tmp_path / "sd2.safetensors")
    assert_same(load(tmp_path / "sd2.safetensors", configs).host.backbone, backbone)


def test_without_a_folder_the_hubs_configurations_are_taken(
    tmp_path: Path, backbone: Backbone, file: Path, configs: Path
) -> None:
    with pytest.raises(InputError, match=r"stable-diffusion-v1-5.*--config"):
        load(file, None)
    hub(configs, tmp_path)
    assert_same(load(file, None).host.backbone, backbone)


NAN = torch.full((3,), float("nan"))


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_what_no_network_reads_may_be_damaged(
    tmp_path: Path, backbone: Backbone, ldm: dict[str, Tensor], configs: Path, suffix: str
) -> None:
    path = tmp_path / f"ema.{suffix}"
    projection = {"cond_stage_model.transformer.text_projection.weight": torch.full((WIDTH, WIDTH), float("inf"))}
    state = ldm | {"model_ema.decay": NAN, "model_ema.num_updates": torch.tensor(3)} | projection
    if suffix == "ckpt":
        torch.save({"state_dict": state, "optimizer_states": [{"lr": 3, "state": {0: NAN}}]}, path)
    else:
        weights.save_state(state, path)
    assert_same(Backbone.from_single_file(path, configs), backbone)
    weights.save_state(ldm | {UNET + "out.0.bias": torch.full((8,), float("nan"))}, tmp_path / "nan.safetensors")
    with pytest.raises(InputError, match=r"tensor 'conv_norm_out.bias' has NaN"):
        Backbone.from_single_file(tmp_path / "nan.safetensors", configs)


def test_a_file_in_fp8_is_read(tmp_path: Path, backbone: Backbone, ldm: dict[str, Tensor], configs: Path) -> None:
    half = {k: v.to(torch.float8_e4m3fn) if v.is_floating_point() else v for k, v in ldm.items()}
    weights.save_state(half, tmp_path / "fp8.safetensors")
    found = Backbone.from_single_file(tmp_path / "fp8.safetensors", configs).unet.state_dict()
    assert all(torch.equal(found[k], v.to(torch.float8_e4m3fn).float()) for k, v in backbone.unet.state_dict().items())


# -- what a file predicts ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sd2(backbone: Backbone, ldm: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {key: value for key, value in ldm.items() if not key.startswith("cond_stage_model.")}
    return state | text_to_open_clip(backbone.text_encoder.state_dict())


def hub(configs: Path, tmp_path: Path) -> None:
    """Put configurations where the hub's would be kept."""
    kept = tmp_path / "hub" / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    only_configurations(configs, kept / "snapshots" / "abc")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")


@pytest.mark.slow
def test_a_file_of_two_readings_is_not_guessed(tmp_path: Path, sd2: dict[str, Tensor], configs: Path) -> None:
    path = tmp_path / "sd2.safetensors"
    weights.save_state(sd2, path)
    with pytest.raises(InputError, match=r"of Stable Diffusion 2\.x.*state prediction_type \(--prediction-type\)"):
        Backbone.from_single_file(path)
    hub(configs, tmp_path)
    for kind in ("epsilon", "v_prediction"):
        assert Backbone.from_single_file(path, prediction_type=kind).scheduler.config.prediction_type == kind
        assert Backbone.from_single_file(path, configs, kind).scheduler.config.prediction_type == kind
    with pytest.raises(InputError, match=r"prediction_type 'v-prediction' is unknown \(did you mean 'v_prediction'\?\)"):
        Backbone.from_single_file(path, configs, "v-prediction")


@pytest.mark.parametrize("how", ["header", "tensors"])
def test_what_a_file_says_of_itself_is_taken(tmp_path: Path, sd2: dict[str, Tensor], configs: Path, how: str) -> None:
    path = tmp_path / "sd2.safetensors"
    if how == "header":
        save_file(sd2, path, metadata={"modelspec.prediction_type": "v"})
    else:
        save_file(sd2 | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, path)
    with pytest.raises(InputError, match="says that it predicts v_prediction, and its configuration epsilon"):
        Backbone.from_single_file(path, configs)
    hub(configs, tmp_path)
    config = Backbone.from_single_file(path).scheduler.config
    assert config.prediction_type == "v_prediction"
    assert bool(config.get("rescale_betas_zero_snr")) == (how == "tensors")


# -- what is refused -----------------------------------------------------------------------------------------------------


def refused(file: Path, configs: Path | None, out: Path) -> str:
    """Check that the command line exits with status 2, and return the message."""
    options = ["generate", "--out", out, "--model", file, *([] if configs is None else ["--config", configs])]
    result = CliRunner().invoke(app, [str(option) for option in options])
    assert result.exit_code == 2, (result.output, result.exception)
    with pytest.raises(InputError) as raised:
        load(file, configs)
    message = str(raised.value)
    assert "".join(message.split()) in "".join(result.output.split())
    assert not list(out.glob("*/*.png"))
    return message


def test_a_file_that_is_no_checkpoint(tmp_path: Path, backbone: Backbone, ldm: dict[str, Tensor], configs: Path) -> None:
    text = tmp_path / "text.safetensors"
    text.write_text("this is a letter, not a model")
    assert "is not a whole safetensors file" in refused(text, configs, tmp_path / "out")
    (tmp_path / "text.ckpt").write_text("this is a letter, not a model")
    assert "it is not a file of plain tensors" in refused(tmp_path / "text.ckpt", configs, tmp_path / "out")

    other = tmp_path / "other.safetensors"
    weights.save_state(backbone.unet.state_dict(), other)
    for user_input in (configs, None):
        message = refused(other, user_input, tmp_path / "out")
        assert f"{other} is not a single-file Stable Diffusion 1.x, 2.x or XL checkpoint" in message
        assert all(prefix in message for prefix in (UNET, VAE, "cond_stage_model."))
    weights.save_state({k: v for k, v in ldm.items() if not k.startswith(VAE)}, other)
    message = refused(other, configs, tmp_path / "out")
    assert VAE in message
    assert UNET not in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "key", "named"),
    [
        ("unet", UNET + "input_blocks.4.1.proj_in.bias", "missing down_blocks.1.attentions.0.proj_in.bias"),
        ("unet", UNET + "output_blocks.5.2.conv.bias", "lacks output_blocks.5.2.conv.bias"),
        ("vae", VAE + "encoder.down.0.downsample.conv.bias", "missing encoder.down_blocks.0.downsamplers.0.conv.bias"),
        ("text_encoder", TEXT + "final_layer_norm.bias", "missing final_layer_norm.bias"),
    ],
    ids=["attention", "upsampling", "vae", "text"],
)
def test_a_file_without_one_tensor(tmp_path: Path, ldm: dict[str, Tensor], configs: Path, part, key, named) -> None:
    path = tmp_path / "part.safetensors"
    weights.save_state({k: v for k, v in ldm.items() if k != key}, path)
    message = refused(path, configs, tmp_path / "out")
    assert f"{path}, as {configs / part} configures it," in message
    assert named in message.replace("text_model.", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({UNET + "input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)}, "an inpainting UNet of nine channels"),
        ({UNET + "time_embed.cond_proj.weight": torch.zeros(8, 3)}, "an LCM-distilled UNet with a guidance embedding"),
        ({UNET + "label_emb.0.0.weight": torch.zeros(8, 3)}, "a class or image embedding"),
        ({UNET + "more.weight": torch.ones(3)}, "has weights that the network does not: model.diffusion_model.more.weight"),
        ({UNET + "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}, "quantised to fp8 with scales"),
        ({TEXT + "embeddings.token_embedding.weight": torch.zeros(20, 32)}, r"is \(20, 32\), expected"),
    ],
)  # fmt: skip
def test_a_file_of_another_model_is_named(tmp_path: Path, ldm: dict[str, Tensor], configs: Path, changes, said: str) -> None:
    weights.save_state(ldm | changes, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=said):
        Backbone.from_single_file(tmp_path / "other.safetensors", configs)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["conditioner.embedders.0.transformer.x", "conditioner.embedders.1.model.x"], "a file of SDXL without all of its"),
        (["conditioner.embedders.0.model.x"], "a file of SDXL without all of its"), (["lora_unet_x.alpha"], "a LoRA"),
        (["control_model.x"], "a ControlNet"), (["encoder.conv_in.weight"], "a VAE alone"),
    ],
)  # fmt: skip
def test_another_kind_of_file_is_named(tmp_path: Path, names: list[str], said: str) -> None:
    weights.save_state({name: torch.zeros(1) for name in names}, tmp_path / "x")
    with pytest.raises(InputError, match=f"it is {said}"):
        Backbone.from_single_file(tmp_path / "x")


@pytest.mark.parametrize("save", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))], ids=["zip", "bare"])
def test_a_pickle_is_never_run(tmp_path: Path, ldm: dict[str, Tensor], configs: Path, save) -> None:
    path, mark = tmp_path / "hostile.ckpt", tmp_path / "mark"
    save({"state_dict": dict(list(ldm.items())[:3]), "callbacks": Hostile(mark)}, path)
    assert f"{path} was refused: it is not a file of plain tensors" in refused(path, configs, tmp_path / "out")
    assert not mark.exists()
    path.rename(path.with_suffix(".safetensors"))
    assert "is not a whole safetensors file" in refused(path.with_suffix(".safetensors"), configs, tmp_path / "out")
    assert not mark.exists()


def test_a_file_that_is_not_there(tmp_path: Path, configs: Path) -> None:
    missing = tmp_path / "missing.safetensors"
    assert f"there is no model at {str(missing)!r}" in refused(missing, configs, tmp_path / "out")


@pytest.mark.slow
def test_a_config_folder_that_does_not_serve(tmp_path: Path, file: Path, configs: Path) -> None:
    assert "there is no folder of configurations at" in refused(file, tmp_path / "missing", tmp_path / "out")
    # Two words with a slash are how the hub names a model: a mistyped folder must not be looked for there.
    assert "there is no folder of configurations at" in refused(file, Path("runwayml/no-such-folder"), tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert f"cannot read {tmp_path / 'empty' / 'model_index.json'}" in refused(file, tmp_path / "empty", tmp_path / "out")

    wider = only_configurations(configs, tmp_path / "wider")
    values = json.loads((wider / "unet" / "config.json").read_text())
    (wider / "unet" / "config.json").write_text(json.dumps(values | {"block_out_channels": [8, 16, 32, 32]}))
    message = refused(file, wider, tmp_path / "out")
    assert f"{file}, as {wider / 'unet'} configures it," in message
    assert "is (24,), expected (32,)" in message

    shorter = only_configurations(configs, tmp_path / "shorter")
    values = json.loads((shorter / "text_encoder" / "config.json").read_text())
    (shorter / "text_encoder" / "config.json").write_text(json.dumps(values | {"num_hidden_layers": 1}))
    assert f"{file}, as {shorter / 'text_encoder'} configures it," in refused(file, shorter, tmp_path / "out")
    (shorter / "text_encoder" / "config.json").unlink()
    assert f"cannot read {shorter / 'text_encoder' / 'config.json'}" in refused(file, shorter, tmp_path / "out")
