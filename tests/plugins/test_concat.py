"""Joined input channels: equal to UNets that have them themselves, of 8, 9 and 5 channels, and to what files of them hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from drivegen.catalog import registry
from drivegen.cli.main import app
from drivegen.convert import wider_unet
from drivegen.host import batch as data
from drivegen.host.host import Host
from drivegen.pipeline.pipeline import Pipeline
from drivegen.saved import model, released
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame
from tests.tiny_models import randomize, tiny_backbone

X, T = torch.randn(3, 4, 12, 16, generator=torch.manual_seed(0)), torch.full((3,), 500)
RANDOM = np.random.default_rng(5)
CHANNELS = frame().channels
PICTURES = {channel: RANDOM.integers(0, 256, (48, 64, 3), dtype=np.uint8) for channel in CHANNELS}
DEPTH = {channel: RANDOM.integers(0, 256, (48, 64, 1), dtype=np.uint8) for channel in CHANNELS}
MASKS = {channel: np.kron(RANDOM.integers(0, 2, (12, 16)), np.ones((4, 4))) > 0 for channel in CHANNELS}
MASKED = {channel: {"image": PICTURES[channel], "mask": MASKS[channel]} for channel in CHANNELS}


def wide(channels: int) -> UNet2DConditionModel:
    net = UNet2DConditionModel.from_config({**tiny_backbone().unet.config, "in_channels": channels})
    randomize(net, 4)
    return net.eval()


def pixels(pictures: dict[str, np.ndarray]) -> Tensor:
    """In [−1, 1], as pipelines encode them."""
    stacked = np.stack([pictures[channel] for channel in CHANNELS]).astype(np.float32) / 127.5 - 1
    return torch.from_numpy(stacked.transpose(0, 3, 1, 2))


def joined(form: str) -> Tensor:
    """What the field's pipelines join to the latents, computed plainly."""
    backbone = tiny_backbone()
    if form == "resized":
        return torch.nn.functional.interpolate(pixels(DEPTH), (12, 16), mode="bilinear", antialias=True)
    if form == "encoded":
        return backbone.vae.encode(pixels(PICTURES)).latent_dist.mode() * backbone.vae.config.scaling_factor
    masks = torch.from_numpy(np.stack([MASKS[c] for c in CHANNELS]))[:, None].float()
    covered = pixels(PICTURES) * (masks < 0.5)  # as StableDiffusionInpaintPipeline makes it
    latents = backbone.vae.encode(covered).latent_dist.mode() * backbone.vae.config.scaling_factor
    return torch.cat([torch.nn.functional.interpolate(masks, (12, 16)), latents], 1)


INPUTS = {"encoded": PICTURES, "masked": MASKED, "resized": DEPTH}


@pytest.fixture(scope="module", params=["encoded", "masked", "resized"])
def case(request, tmp_path_factory) -> tuple[str, UNet2DConditionModel, Path]:
    """A form, a UNet with those channels, and a model folder of diffusers that has it."""
    net = wide({"encoded": 8, "masked": 9, "resized": 5}[request.param])
    folder = tmp_path_factory.mktemp("wide") / request.param
    tiny_backbone().save(folder)
    net.save_pretrained(folder / "unet")
    return request.param, net, folder


def predict(host: Host, given: dict | None, keep: bool = True) -> Tensor:
    plugins = {name: host.plugin(name) for name in host.plugins}
    batch = data.collate([data.prepare(frame(), plugins, {"concat": given} if given else {})], plugins, views=3)
    return host(X, T, host.encode(batch.arrays, batch.grid, {"concat": keep}))


@pytest.mark.slow
@torch.no_grad()
def test_it_equals_a_wider_unet(case) -> None:
    form, net, folder = case
    host = wider_unet.read(folder).host
    seen = {}
    host.backbone.unet.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
    ours = predict(host, INPUTS[form])
    theirs = net(torch.cat([X, joined(form)], 1), T, encoder_hidden_states=seen["encoder_hidden_states"]).sample
    assert float((ours - theirs).norm() / theirs.norm()) <= 1e-5
    null = predict(host, INPUTS[form], keep=False)
    nothing = torch.zeros_like(joined(form))
    blank = net(torch.cat([X, nothing], 1), T, encoder_hidden_states=seen["encoder_hidden_states"]).sample
    assert float((null - blank).norm() / blank.norm()) <= 1e-5
    assert not torch.allclose(null, ours, rtol=1e-3)


def test_the_picture_is_encoded_once_and_may_come_from_the_cache() -> None:
    host = Host(tiny_backbone(), {"concat": registry.load("concat")("boxes")}).eval()
    randomize(host.plugin("concat"), 2)
    plugins = {"concat": host.plugin("concat").weightless()}
    batch = data.collate([data.prepare(frame(), plugins)], plugins, views=3)
    calls = []
    host.backbone.vae.encoder.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        conditions = host.encode(batch.arrays, batch.grid)
        predictions = [host(X, torch.full((3,), t), conditions) for t in (900, 500, 100)]
        assert len(calls) == 1
        kept = host.plugin("concat").precompute(batch.arrays["concat"])
        assert len(calls) == 2
        again = host(X, torch.full((3,), 100), host.encode({"concat": kept}, batch.grid))
        assert len(calls) == 2
    assert torch.equal(again, predictions[-1])
    resized = Host(tiny_backbone(), {"concat": registry.load("concat")("boxes", "resized")})
    assert resized.plugin("concat").precompute(batch.arrays["concat"]) is None


@pytest.mark.slow
def test_files_of_either_layout_hold_the_new_channels_alone(case, tmp_path) -> None:
    form, net, folder = case
    state = net.state_dict()
    prefix = "model.diffusion_model."
    names = {"conv_in.weight": f"{prefix}input_blocks.0.0.weight", "conv_out.weight": f"{prefix}out.2.weight"}
    save_file({new: state[old].clone() for old, new in names.items()}, tmp_path / "original.safetensors")
    save_file({k: v.clone() for k, v in state.items()}, tmp_path / "plain.safetensors")
    for source in (folder / "unet", tmp_path / "original.safetensors", tmp_path / "plain.safetensors"):
        found = released.read(source)
        assert (found.kind, found.released.arguments["form"]) == ("concat", form)
        assert list(found.released.state) == ["conv.weight"]  # the bias is the UNet's
        assert torch.equal(found.released.state["conv.weight"], state["conv_in.weight"][:, 4:])
        assert found.released.training == {"drop": 0}


@pytest.mark.slow
def test_the_command_line_converts_a_folder_that_then_generates(case, tmp_path) -> None:
    form, net, folder = case
    out = tmp_path / "model"
    result = CliRunner().invoke(app, ["convert", "concat", str(folder), str(out)])
    assert result.exit_code == 0, result.output
    loaded = model.load(out)
    assert loaded.sampling.null == ("text",)  # both halves of guidance see what is joined
    unet = loaded.host.backbone.unet
    assert unet.config.in_channels == 4
    assert torch.equal(unet.conv_in.bias, net.conv_in.bias)
    with torch.no_grad():
        assert torch.equal(predict(loaded.host, INPUTS[form]), predict(wider_unet.read(folder).host, INPUTS[form]))
    views = Pipeline(replace(loaded, image_size=(48, 64)))(
        frame(), num_inference_steps=1, inputs={"concat": INPUTS[form]}, output_type="latent"
    )
    assert all(torch.isfinite(views[channel]).all() for channel in views)


def folder_with(tmp_path: Path, channels: int) -> Path:
    tiny_backbone().save(tmp_path / "model")
    wide(channels).save_pretrained(tmp_path / "model" / "unet")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("channels", "words"), [(4, "a plain model needs no conversion"), (7, "joins 3 channels to 4 latents")]
)
def test_other_unets_are_refused_by_what_they_are(tmp_path, channels: int, words: str) -> None:
    folder = folder_with(tmp_path, channels)
    with pytest.raises(InputError, match=words):
        wider_unet.read(folder)
    with pytest.raises(InputError, match="no kind of plugin reads it" if channels == 4 else words):
        released.read(folder / "unet")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"form": "joined"}, "form 'joined' is unknown"),
        ({"picture": "layout_channels"}, "pictures of 3 channels"),
        ({"picture": "boxes", "form": "masked"}, "needs pictures with masks"),
        ({"picture": "lines"}, "no picture 'lines'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, words: str) -> None:
    with pytest.raises(InputError, match=words):
        registry.load("concat")(**options)


def test_unscaled_latents_are_those_of_the_vae() -> None:
    hosts = [Host(tiny_backbone(), {"concat": registry.load("concat")(scaled=s)}) for s in (True, False)]
    values = [host.plugin("concat")._joined(torch.rand(2, 3, 48, 64, generator=torch.manual_seed(1))) for host in hosts]
    assert torch.allclose(values[0], values[1] * hosts[0].backbone.vae.config.scaling_factor)
