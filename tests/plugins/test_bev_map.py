"""The embedder "views": each view has of the map what its camera sees of the ground, in whatever precision."""

from __future__ import annotations

import torch

from drivegen import world
from drivegen.catalog import registry
from drivegen.host.host import Host
from drivegen.testing import tiny_backbone
from drivegen.testing.models import randomize


def test_a_view_is_told_of_the_ground_before_its_camera_and_of_no_other() -> None:
    frames = [world.build(seed=11, index=index).scene.frames[0] for index in (1, 3)]
    host = Host(tiny_backbone(), {"bev_map": registry.load("bev_map")(channels=(8, 8, 16), embedder="views")})
    plugin = host.plugin("bev_map")
    randomize(plugin, 1)
    for frame in frames:
        arrays = {name: torch.from_numpy(value)[None] for name, value in plugin.prepare(frame).items()}
        behind = {**arrays, "map": arrays["map"].clone()}
        behind["map"][:, :, :, :90] ^= 1  # all that lies more than 5 m behind the lidar
        keep = torch.ones(1, dtype=torch.bool)
        with torch.no_grad():
            told, changed = (plugin.embedder(*plugin.encode(a, keep).data.values(), (8, 8)) for a in (arrays, behind))
        moved = {c: float((a - b).abs().max()) for c, a, b in zip(frame.channels, told, changed, strict=True)}
        assert moved["CAM_FRONT"] == 0
        assert moved["CAM_BACK"] > 0.01


def test_places_are_not_rounded_to_the_networks_precision() -> None:
    frame = world.build(seed=11, index=1).scene.frames[0]
    host = Host(tiny_backbone(), {"bev_map": registry.load("bev_map")(channels=(8, 8, 16), embedder="views")})
    plugin = host.plugin("bev_map").to(torch.bfloat16)
    arrays = {name: torch.from_numpy(value)[None] for name, value in plugin.prepare(frame).items()}
    ground = plugin.encode(arrays, torch.ones(1, dtype=torch.bool)).data["ground"]
    assert torch.equal(ground, arrays["ground"].float())
    assert not torch.equal(ground, ground.bfloat16().float())
