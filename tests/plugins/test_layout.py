"""Layout's picture: what autocast would make of it, and nothing of a scene that does not have it."""

from __future__ import annotations

import torch
from drivegen_plugins.layout import CHANNELS, expand

from drivegen.catalog import registry
from drivegen.host.host import Host
from drivegen.testing import tiny_backbone
from drivegen.testing.models import randomize


def arrays() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def whole(below: int) -> torch.Tensor:
        return torch.randint(below, (3, 2, 48, 64), generator=generator).to(torch.uint8)

    box = whole(12)
    return {
        "map_bits": whole(256), "box_class": torch.where(box == 11, 255, box), "side": whole(6), "visibility": whole(5),
        "heading": torch.rand(3, 2, 2, 48, 64, generator=generator).half(),
        "depth_m": (60 * torch.rand(3, 2, 48, 64, generator=generator) - 10).clamp(min=0).half(),
    }  # fmt: skip


def test_it_is_rounded_once() -> None:
    whole = expand(arrays())
    assert whole.shape == (3, 2, CHANNELS, 48, 64)
    assert whole.abs().max() <= 1
    assert torch.equal(expand(arrays(), torch.bfloat16), whole.bfloat16())


def test_scenes_with_it_and_without_are_each_what_they_are_alone() -> None:
    host = Host(tiny_backbone(), {"layout": registry.load("layout")(channels=(8, 16))})
    plugin, told = host.plugin("layout"), arrays()
    randomize(plugin, 1)
    keep = torch.tensor([True, False, True])
    with torch.no_grad():
        mixed = plugin.encode(told, keep).data
        one_by_one = [plugin.encode({k: v[i : i + 1] for k, v in told.items()}, keep[i : i + 1]).data for i in range(3)]
        zeros = {k: torch.zeros_like(v) for k, v in told.items()}
        empty = plugin.encode(zeros, torch.ones(3, dtype=torch.bool)).data
        with torch.autocast("cpu", torch.bfloat16):
            rounded = plugin.encode(told, keep).data
    torch.testing.assert_close(mixed, torch.cat(one_by_one))
    assert torch.equal(mixed[2:4], empty[2:4])
    assert float((rounded.float() - mixed).norm() / mixed.norm()) < 0.02
