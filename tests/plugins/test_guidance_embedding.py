"""The scale of guidance as an input: equal to diffusers' UNets that have it, one pass per step, the scale of the generation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, UNet2DConditionModel
from drivegen_plugins.guidance_embedding import embedded
from safetensors.torch import save_file

from drivegen.catalog import registry
from drivegen.host.host import Host
from drivegen.pipeline.pipeline import Pipeline
from drivegen.plugin import Grid
from drivegen.sampling import Sampling
from drivegen.saved import model, released
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame
from tests.tiny_models import WIDTH, randomize, tiny_backbone


def with_embedding() -> UNet2DConditionModel:
    settings = {k: v for k, v in tiny_backbone().unet.config.items() if not k.startswith("_")}
    return randomize(UNet2DConditionModel(**{**settings, "time_cond_proj_dim": 256}), 4).eval()


def hosted(net: UNet2DConditionModel) -> Host:
    """The same weights, the projection in the plugin."""
    backbone = tiny_backbone()
    state = net.state_dict()
    backbone.unet.load_state_dict({k: v for k, v in state.items() if "cond_proj" not in k})
    host = Host(backbone, {"scale": registry.load("guidance_embedding")()})
    with torch.no_grad():
        host.plugin("scale").proj.weight.copy_(state["time_embedding.cond_proj.weight"])
    return host.eval().requires_grad_(False)


def test_it_is_diffusers_embedding_and_unet() -> None:
    w = torch.tensor([0.0, 3.5, 11.0])
    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, w, 256)  # type: ignore[arg-type]
    torch.testing.assert_close(embedded(w, 256), theirs, rtol=1e-5, atol=1e-5)
    net = with_embedding()
    host, grid = hosted(net), Grid(3, 1, 2)
    x, context = torch.randn(6, 4, 8, 12, generator=torch.manual_seed(0)), torch.zeros(6, 1, WIDTH)
    conditions = host.encode({"scale": {"guidance": w + 1}}, grid)
    null = host.encode({"scale": {"guidance": w + 1}}, grid, {"scale": False})
    given = theirs.repeat_interleave(2, 0)
    with torch.no_grad():
        for t in (999, 1):
            expected = net(x, t, encoder_hidden_states=context, timestep_cond=given, return_dict=False)[0]
            torch.testing.assert_close(host(x, torch.tensor(t), conditions), expected, rtol=1e-5, atol=1e-5)
            without = net(x, t, encoder_hidden_states=context, return_dict=False)[0]
            torch.testing.assert_close(host(x, torch.tensor(t), null), without, rtol=1e-5, atol=1e-5)
            assert float((expected - without).abs().max()) > 1e-2


def test_released_weights_and_saved_ones(tmp_path: Path) -> None:
    net = with_embedding()
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, tmp_path / "lcm.safetensors")
    found = released.read(tmp_path / "lcm.safetensors", "guidance_embedding", {})
    assert torch.equal(found.released.state["proj.weight"], net.time_embedding.cond_proj.weight)
    host = hosted(net)
    folder = model.save(host, tmp_path / "model", Sampling("lcm", 2, 4.0), image_size=(32, 48))
    again = model.load(folder).host.plugin("scale")
    assert torch.equal(again.proj.weight, host.plugin("scale").proj.weight)


def test_a_fresh_one_changes_nothing() -> None:
    host = Host(tiny_backbone()).eval()
    x, grid = torch.randn(2, 4, 8, 12, generator=torch.manual_seed(0)), Grid(1, 1, 2)
    with torch.no_grad():
        before = host(x, torch.tensor(500), host.encode({}, grid))
        host.add_plugin("scale", registry.load("guidance_embedding")())
        after = host(x, torch.tensor(500), host.encode({"scale": {"guidance": torch.tensor([7.5])}}, grid))
    assert torch.equal(before, after)


def test_a_generation_gives_it_the_scale_and_takes_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    host = hosted(with_embedding())
    pipe = Pipeline(model.Model(host, Sampling("lcm", 2, 4.0), (32, 48)))
    seen: list[float] = []
    forward = Host.forward

    def counted(self, x, t, conditions, progress=0.0):
        seen.append(float(conditions.signals["scale"].data.abs().sum()))
        return forward(self, x, t, conditions, progress)

    monkeypatch.setattr(Host, "forward", counted)
    four = pipe(frame(0, 2), output_type="latent")
    assert len(seen) == 2
    expected = host.plugin("scale").proj(embedded(torch.tensor([3.0]), 256))
    assert seen[0] == pytest.approx(float(expected.abs().sum()), rel=1e-4)
    given = pipe(frame(0, 2), output_type="latent", guidance=7.0, inputs={"scale": 4.0})
    other = pipe(frame(0, 2), output_type="latent", guidance=7.0)
    assert len(seen) == 6
    first = frame(0, 2).channels[0]
    assert torch.equal(four[first], given[first])
    assert not torch.equal(four[first], other[first])
    pipe(frame(0, 2), output_type="latent", without=("scale",))
    assert len(seen) == 10  # guidance as always
    with pytest.raises(InputError, match="guidance_range is given, and 'scale' tells the network one scale"):
        pipe(frame(0, 2), guidance_range=(0.5, 1))
    with pytest.raises(InputError, match="'scale' tells the network one scale"):
        pipe(frame(0, 2), guidance={"scale": 2.0})


@pytest.mark.parametrize("width", [3, 0, 7])
def test_an_odd_width_is_refused(width: int) -> None:
    with pytest.raises(InputError, match="even"):
        registry.load("guidance_embedding")(width=width)
