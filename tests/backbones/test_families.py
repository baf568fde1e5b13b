"""Families of networks: which places there are, what a layer is given there, and what is refused by its name."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drivegen.backbones.families import family_class
from drivegen.backbones.family import KINDS
from drivegen.host.host import Host
from drivegen.plugin import Arrays, Grid, Now, Plugin, Signal
from drivegen.saved import model
from drivegen.saved.contents import contents
from drivegen.support.errors import InputError
from drivegen.testing import tiny_backbone

GLOBS = {
    "input": "conv_in", "time_features": "time_proj", "time_vector": "time_embedding",
    "self_attention": "*.transformer_blocks.*.attn1", "cross_attention": "*.attn2", "between": "*.transformer_blocks.*.attn2",
}  # fmt: skip


@pytest.mark.parametrize("kind", GLOBS)
def test_places_of_a_unet_are_those_of_its_modules(kind: str) -> None:
    backbone = tiny_backbone()
    names = [name for name, _ in backbone.unet.named_modules()]
    assert [site.name for site in backbone.family.sites(kind)] == fnmatch.filter(names, GLOBS[kind])


class Look(Plugin):
    """Keeps what layers at the places of a kind are given."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def attach(self, backbone: Any) -> None:
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}
        self.tap_sites(self.kind, lambda site: _Keep(self.seen, site))

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        return Signal()


class _Keep(nn.Module):
    def __init__(self, seen: dict[str, tuple[Tensor, Tensor]], site: Any) -> None:
        super().__init__()
        self.__dict__["given"] = (seen, site)

    def forward(self, x: Tensor, y: Tensor, now: Now) -> None:
        seen, site = self.given
        assert y.shape[1 if y.ndim == 4 else -1] == site.width
        seen[site.name] = (x, y)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_kind_of_place_is_reached_and_as_wide_as_it_says(kind: str) -> None:
    host = Host(tiny_backbone(), {"look": Look(kind)}).eval()
    host(torch.randn(6, 4, 8, 8), torch.tensor(5), host.encode({"look": {}}, Grid(1, 2, 3)))
    assert sorted(host.plugin("look").seen) == sorted(site.name for site in host.backbone.family.sites(kind))
    assert host.plugin("look").seen


@torch.no_grad()
def test_between_gives_the_stream_that_the_feed_forward_reads() -> None:
    host = Host(tiny_backbone(), {"look": Look("between")}).eval()
    read: dict[str, Tensor] = {}
    for name, module in host.backbone.unet.named_modules():
        if name.endswith(".norm3"):
            module.register_forward_pre_hook(lambda m, args, name=name: read.__setitem__(name, args[0]))
    host(torch.randn(6, 4, 8, 8), torch.tensor(5), host.encode({"look": {}}, Grid(1, 2, 3)))
    for name, (stream, _) in host.plugin("look").seen.items():
        assert torch.equal(stream, read[name.replace(".attn2", ".norm3")])


def test_a_network_without_such_places_is_refused_where_the_plugin_is_attached() -> None:
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    plain = tiny_backbone(unet={**blocks, "mid_block_type": "UNetMidBlock2D"})
    with pytest.raises(InputError, match=r"Look cannot be attached: the UNet2DConditionModel of .* no place of the kind"):
        Host(plain, {"look": Look("between")})
    with pytest.raises(InputError, match=r"there is no kind of site 'betwen'.*did you mean 'between'"):
        Host(tiny_backbone(), {"look": Look("betwen")})


def test_a_vector_that_the_network_does_not_take_is_refused() -> None:
    class Gives(Plugin):
        def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
            return Signal(added={"text_embeds": torch.zeros(len(keep), 8)})

    host = Host(tiny_backbone(), {"gives": Gives()})
    with pytest.raises(InputError, match="'text_embeds', which this model's network does not take; it takes none"):
        host.encode({"gives": {}}, Grid(1, 1, 2))


@pytest.mark.parametrize(
    ("part", "network", "said"),
    [
        ("transformer", "SD3Transformer2DModel", "a Stable Diffusion 3 model"),
        ("transformer", "FluxTransformer2DModel", "FLUX.1"), ("transformer", "PixArtTransformer2DModel", "a PixArt model"),
        ("unet", "UNetMotionModel", "AnimateDiff"), ("unet", "UNetSpatioTemporalConditionModel", "Stable Video Diffusion"),
        ("transformer", "NewModel", "a NewModel, of a family"),
    ],
)  # fmt: skip
def test_a_folder_of_another_family_is_refused_by_its_name(tmp_path: Path, part: str, network: str, said: str) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "SomePipeline", part: ["diffusers", network]}))
    with pytest.raises(InputError, match=rf"{said}.*not hosted; hosted are Stable Diffusion 1.x or 2.x"):
        model.load(tmp_path)


def test_the_family_of_a_folder_is_read_from_its_configurations(tmp_path: Path) -> None:
    tiny_backbone().save(tmp_path)
    assert contents(tmp_path).family == "Stable Diffusion 1.x or 2.x"
    assert family_class("Linear", {}) is None
