"""Single files of wider UNets, in the original layout: the models that their diffusers folders become."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from typer.testing import CliRunner

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.cli.main import app
from drivegen.convert import wider_unet
from drivegen.host.host import Host
from drivegen.saved import model
from drivegen.support import weights
from drivegen.support.errors import InputError
from tests.backbones.test_sdxl import original_text, original_unet, original_vae
from tests.backbones.test_single_file import only_configurations, sd_backbone, text_to_ldm, unet_to_ldm, vae_to_ldm
from tests.tiny_models import randomize, tiny_backbone


class Wide:
    """A model whose UNet has more inputs, as a file and as folders of diffusers, with weights and without."""

    def __init__(self, root: Path, channels: int, family: str = "sd") -> None:
        backbone = sd_backbone() if family == "sd" else tiny_backbone(family=family)
        backbone.empty_is_zero = family != "sd"
        config = {key: value for key, value in backbone.unet.config.items() if not key.startswith("_")}
        self.net = UNet2DConditionModel.from_config({**config, "in_channels": channels})
        randomize(self.net, 4)
        self.plain = root / "plain"
        backbone.save(self.plain)
        self.folder = root / "wide"
        backbone.save(self.folder)
        self.net.save_pretrained(self.folder / "unet")
        unet, vae = self.net.state_dict(), backbone.vae.state_dict()
        self.state: dict[str, Tensor]
        if family == "sd":
            self.state = {**unet_to_ldm(unet), **vae_to_ldm(vae), **text_to_ldm(backbone.text_encoder.state_dict())}
        else:
            self.state = {**original_unet(unet), **original_vae(vae), **original_text(backbone)}
        self.file = root / "wide.safetensors"
        weights.save_state(self.state, self.file)
        self.configs = [only_configurations(f, root / f"{f.name}-configs") for f in (self.plain, self.folder)]


@pytest.fixture(scope="module", params=[8, 9])
def wide(request, tmp_path_factory) -> Wide:
    return Wide(tmp_path_factory.mktemp("wide"), request.param)


def assert_same(found: Host, expected: Host) -> None:
    own, other = found.state_dict(), expected.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[key], other[key]) for key in own)
    assert found.plugin("concat").config == expected.plugin("concat").config


def test_a_file_becomes_what_its_folder_becomes(wide: Wide) -> None:
    expected = wider_unet.read(wide.folder).host
    for configs in wide.configs:  # those of the plain model, and of the wider one
        found = wider_unet.read(wide.file, config_folder=configs).host
        assert_same(found, expected)
        assert found.backbone.unet.config.in_channels == 4
        assert torch.equal(found.plugin("concat").conv.weight, wide.net.conv_in.weight[:, 4:])


def test_the_command_line_converts_a_checkpoint_of_half_precision(wide: Wide, tmp_path: Path) -> None:
    path, out = tmp_path / "humansd.ckpt", tmp_path / "model"
    torch.save({"state_dict": {key: value.half() for key, value in wide.state.items()}, "global_step": 1}, path)
    options = ["convert", "concat", path, out, "--picture", "pose" if wide.net.config.in_channels == 8 else "given"]
    result = CliRunner().invoke(app, [*map(str, options), "--config", str(wide.configs[0])])
    assert result.exit_code == 0, result.output
    loaded = model.load(out).host
    wanted = wide.net.conv_in.weight.half().float()
    assert torch.equal(torch.cat([loaded.backbone.unet.conv_in.weight, loaded.plugin("concat").conv.weight], 1), wanted)
    assert torch.equal(loaded.backbone.unet.conv_in.bias, wide.net.conv_in.bias.half().float())


def test_what_is_no_such_file_is_said(wide: Wide, tmp_path: Path) -> None:
    first = next(key for key in wide.state if key.endswith("input_blocks.0.0.weight"))
    for name, state, words in (
        ("plain", {**wide.state, first: wide.state[first][:, :4].clone()}, "a plain model needs no conversion"),
        ("seven", {**wide.state, first: wide.state[first][:, :7].clone()}, "joins 3 channels to 4 latents"),
        ("lacks", {k: v for k, v in wide.state.items() if k != first}, "lacks"),
        ("less", {k: v for k, v in wide.state.items() if not k.startswith("first_stage_model.")}, "first_stage_model"),
    ):
        weights.save_state(state, tmp_path / f"{name}.safetensors")
        with pytest.raises(InputError, match=words):
            wider_unet.read(tmp_path / f"{name}.safetensors", config_folder=wide.configs[0])
    with pytest.raises(InputError, match="--config and --prediction-type are for single files"):
        wider_unet.read(wide.folder, config_folder=wide.configs[0])
    with pytest.raises(InputError, match=r"(nine|eight) channels"):
        Backbone.from_single_file(wide.file, wide.configs[0])
