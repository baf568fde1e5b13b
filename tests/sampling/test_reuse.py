"""Reuse between steps: interval 1 is the plain result bit for bit; others equal the package DeepCache."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from drivegen.host import batch as data
from drivegen.host.batch import Batch
from drivegen.host.host import Host
from drivegen.pipeline.pipeline import Pipeline
from drivegen.sampling import HostDenoiser, Reuse, Sampling, build_scheduler, classifier_free, reusing, sample
from drivegen.saved.model import Model
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame
from tests.tiny_hosts import SIZE, tiny_host

DEEPER: dict[str, Any] = {
    "unet": {
        "block_out_channels": (32, 64), "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
}  # fmt: skip
STEPS = 5


def batch_of(host: Host) -> Batch:
    one = frame(0, 2).resized(SIZE[1], SIZE[0])
    plugins = {name: host.plugin(name) for name in host.plugins}
    return data.collate([data.prepare(one, plugins)], plugins, 2, [one.token])


@torch.no_grad()
def sampled(host: Host, reuse: Reuse | None, guidance: float = 3.0) -> tuple[Tensor, int]:
    """Latents after five steps, and the operations that they took."""
    predict = HostDenoiser(host, batch_of(host))
    predict.steps = STEPS
    scheduler = build_scheduler("ddim", host.backbone.scheduler, STEPS)
    x = torch.randn(2, 4, 8, 14, generator=torch.Generator().manual_seed(0))

    def after(i: int, t: Tensor, x: Tensor) -> None:
        predict.step = i + 1

    denoise = classifier_free(predict, guidance, list(host.plugins))
    with FlopCounterMode(display=False) as counter:
        if reuse is None:
            return sample(denoise, scheduler, x, callback=after), counter.get_total_flops()
        with reusing(predict, reuse):
            out = sample(denoise, scheduler, x, callback=after)
    return out, counter.get_total_flops()


@pytest.fixture(scope="module")
def host() -> Host:
    return tiny_host(("text", "boxes", "cross_view", "layout"), **DEEPER)


@pytest.mark.parametrize("depth", [0, 2])
def test_every_step_is_the_plain_result_and_seldom_is_cheaper(host: Host, depth: int) -> None:
    plain, _ = sampled(host, None)
    same, all_of_it = sampled(host, Reuse(1, depth))
    assert torch.equal(same, plain)
    third, cost = sampled(host, Reuse(3, depth))
    once, least = sampled(host, Reuse(100, depth))
    assert least < cost < all_of_it
    assert 0 < float((third - plain).norm() / plain.norm()) < float((once - plain).norm() / plain.norm())


@pytest.mark.parametrize(("interval", "depth"), [(2, 0), (3, 1)])
def test_it_is_the_package_s_result(interval: int, depth: int) -> None:
    from DeepCache import DeepCacheSDHelper

    host = tiny_host(("text",), **DEEPER)
    ours, _ = sampled(host, Reuse(interval, depth), guidance=1.0)
    unet, scheduler = host.backbone.unet, build_scheduler("ddim", host.backbone.scheduler, STEPS)
    tokens = host.encode(batch_of(host).arrays, batch_of(host).grid).signals["text"].tokens
    assert tokens is not None
    states = tokens.repeat_interleave(2, 0)
    x = torch.randn(2, 4, 8, 14, generator=torch.Generator().manual_seed(0))
    helper = DeepCacheSDHelper(pipe=SimpleNamespace(unet=unet, scheduler=scheduler))
    helper.set_params(cache_interval=interval, cache_branch_id=depth)
    helper.enable()
    with torch.no_grad():
        theirs = sample(lambda x, t, known=None: unet(x, t, encoder_hidden_states=states, return_dict=False)[0], scheduler, x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_halves_of_guidance_keep_their_own(host: Host) -> None:
    """With one pair of equal halves nothing tells them apart; with a guided pair the shared cache would."""
    predict = HostDenoiser(host, batch_of(host))
    x, t = torch.randn(2, 4, 8, 14, generator=torch.Generator().manual_seed(0)), torch.tensor(500)
    null = dict.fromkeys(host.plugins, False)
    with torch.no_grad(), reusing(predict, Reuse(2)):
        known, unknown = predict(x, t), predict(x, t, null)
        predict.step = 1
        assert torch.equal(predict(x, t), known)
        assert torch.equal(predict(x, t, null), unknown)
        assert not torch.equal(known, unknown)
        moved = predict(x + 0.1, t)
    assert not torch.equal(moved, known)
    with torch.no_grad():
        assert not torch.equal(predict(x + 0.1, t), moved)  # nothing is kept afterwards


def test_a_generation_takes_it_and_says_so() -> None:
    host = tiny_host(("text", "layout"), **DEEPER)
    pipe = Pipeline(Model(host, Sampling("ddim", 4, 2.0), SIZE))
    given: dict[str, Any] = {"output_type": "latent", "seed": 3}
    plain = pipe(frame(0, 2), **given)
    one, two = pipe(frame(0, 2), reuse={"interval": 1}, **given), pipe(frame(0, 2), reuse={"interval": 2, "depth": 1}, **given)
    first = plain.settings
    assert first.reuse is None
    assert two.settings.reuse == {"interval": 2, "depth": 1}
    again = pipe(frame(0, 2), two.settings)
    for channel in frame(0, 2).channels:
        assert torch.equal(plain[channel], one[channel])
        assert torch.equal(again[channel], two[channel])
        assert not torch.equal(plain[channel], two[channel])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"interval": 0}, "reuse interval"), ({"depth": -1}, "reuse depth"), ({"every": 2}, "reuse has no 'every'"),
        (3, "reuse"), ({"interval": 2.5}, "reuse interval"), ({"depth": 9}, "depth 9 is more than the 2 layers"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(given: Any, said: str) -> None:
    pipe = Pipeline(Model(tiny_host(("text",), **DEEPER), Sampling("ddim", 2, 1.0), SIZE))
    with pytest.raises(InputError, match=said):
        pipe(frame(0, 2), reuse=given)


def test_the_command_line_s_spelling() -> None:
    from drivegen.pipeline.spelling import read_reuse

    assert read_reuse("3") == {"interval": 3}
    assert read_reuse("5:1") == {"interval": 5, "depth": 1}
    for wrong in ("", "3:", "x", "3:1:2", "-1", "2.5"):
        with pytest.raises(InputError, match="--reuse"):
            read_reuse(wrong)
