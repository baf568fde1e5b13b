"""An inpainting model of nine channels trains on recorded pictures with masks that are drawn: exactly again, and generates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel
from PIL import Image

from drivegen import Pipeline, training
from drivegen.catalog import registry
from drivegen.datasets import nuscenes
from drivegen.host import batch as data
from drivegen.host.array_boundary import augment
from drivegen.host.host import Host
from drivegen.plugin import Plugin
from drivegen.plugin.drawn_masks import KINDS, drawn_masks
from drivegen.raster import box_faces
from drivegen.saved import model
from drivegen.scene import Frame
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame
from drivegen.training import build
from drivegen.training import config as configs
from tests.convert.test_wider_single_file import Wide
from tests.tiny_models import randomize, tiny_backbone


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide") / "model"
    backbone = tiny_backbone()
    backbone.save(folder)
    config = {key: value for key, value in backbone.unet.config.items() if not key.startswith("_")}
    randomize(UNet2DConditionModel.from_config({**config, "in_channels": 9}), 3).save_pretrained(folder / "unet")
    return folder


def settings(tmp_path: Path, city: Path, wide: Path, **train: Any) -> Path:
    values = {
        "output": str(tmp_path / "run"), "model": {"base": str(wide)}, "logger": [], "sampling": {"steps": 1},
        "plugins": {"text": {"kind": "text"}, "boxes": {"kind": "boxes"}, "concat": {"drop": 0.0}},
        "data": {"roots": [str(city)], "size": [32, 56], "val_scenes": ["scene-2"]},
        "train": {"unet": True, "steps": 2, "images": 3, "warmup": 0, "device": "cpu", "checkpoint_every": 1, **train},
    }  # fmt: skip
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def state(folder: Path) -> dict[str, torch.Tensor]:
    return model.load(folder / "model").host.state_dict()


@pytest.mark.slow
def test_it_trains_resumes_to_the_bit_and_generates(tmp_path: Path, city: Path, wide: Path) -> None:
    path = settings(tmp_path, city, wide)
    extra = [f"data.cache={tmp_path / 'cache'}", "preview={every: 1, frames: 1}", "validation={every: 1, frames: 1}"]
    assert training.run(path, extra) == 0
    whole = state(tmp_path / "run")
    assert training.run(path, [*extra, f"output={tmp_path / 'again'}"], tmp_path / "run" / "step-00000001.ckpt") == 0
    again = state(tmp_path / "again")
    before = model.load(wide).host.state_dict()
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert not torch.equal(whole["plugins.concat.conv.weight"], before["plugins.concat.conv.weight"])
    pipe, source = Pipeline.from_pretrained(tmp_path / "run" / "model", dtype="float32"), nuscenes.open(city)
    assert set(pipe.model.sampling.null or ()) == {"text", "boxes"}  # both halves of guidance are told what is joined
    shown = source.frame(source.samples()[0])
    views = pipe(shown, image="recorded", mask=shown.boxes[:1], steps=1, output_type="latent")
    assert all(bool(torch.isfinite(view).all()) for view in views.values())
    with pytest.raises(InputError, match="the model inpaints"):
        pipe(shown, steps=1)


def test_a_plain_folders_weights_stay_whatever_is_listed(tmp_path: Path, city: Path, wide: Path) -> None:
    base = model.load(wide).host.plugin("concat").conv.weight
    for listed in ({"concat": {"drop": 0.0}}, {}, {"concat": {"kind": "concat"}}):
        values = yaml.safe_load(settings(tmp_path, city, wide).read_text())
        values["plugins"] = {"text": {"kind": "text"}, **listed}
        (tmp_path / "other.yaml").write_text(yaml.safe_dump(values))
        host = build.build_model(configs.load(tmp_path / "other.yaml")).host
        assert torch.equal(host.plugin("concat").conv.weight, base)


def test_a_single_file_is_a_base_as_its_folder_is(tmp_path: Path, city: Path) -> None:
    made = Wide(tmp_path, 9, "sdxl")
    values = yaml.safe_load(settings(tmp_path, city, made.folder).read_text())
    values["plugins"] = {"concat": {"drop": 0.0}}
    hosts = []
    for base in ({"base": str(made.folder)}, {"base": str(made.file), "config": str(made.configs[0])}):
        (tmp_path / "other.yaml").write_text(yaml.safe_dump({**values, "model": base}))
        hosts.append(build.build_model(configs.load(tmp_path / "other.yaml")).host.state_dict())
    assert hosts[0].keys() == hosts[1].keys()
    assert all(torch.equal(hosts[0][key], hosts[1][key]) for key in hosts[0])
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({**values, "model": {"config": "x", "unet": {"in_channels": 4}}}))
    with pytest.raises(InputError, match="no base is given"):
        configs.load(tmp_path / "other.yaml")


def test_masks_are_of_objects_of_other_places_and_of_everything() -> None:
    shown = frame(0, views=3).resized(64, 48)
    masks = drawn_masks(shown)
    assert masks.shape == (KINDS, 3, 48, 64)
    assert np.array_equal(masks, drawn_masks(shown))
    assert masks[-1].all()
    assert not masks[:-1].all()
    assert not np.array_equal(masks[0], masks[1])
    seen = [np.concatenate([face.pixels for face in box_faces(camera, box)] or [np.zeros((0, 2))])
            for camera in shown.cameras for box in shown.boxes]  # fmt: skip
    corners = [(i // len(shown.boxes), np.floor(points).astype(int)) for i, points in enumerate(seen)]
    inside = [(v, y, x) for v, points in corners for x, y in points if 0 <= x < 64 and 0 <= y < 48]
    assert any(masks[0][place] for place in inside)


def recorded(folder: Path) -> Frame:
    """The street with pictures of noise."""
    shown, random = frame(0, views=3), np.random.default_rng(0)
    for camera in shown.cameras:
        size = (camera.height_px, camera.width_px, 3)
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{camera.channel}.png")
    paths = {camera.channel: folder / f"{camera.channel}.png" for camera in shown.cameras}
    return shown.with_pictures(paths).resized(64, 48)


def test_each_step_draws_one_set_of_masks_and_all_networks_of_it_see_the_same(tmp_path: Path) -> None:
    host = Host(tiny_backbone(), {"concat": registry.load("concat")(form="masked")}).eval()
    plugin = randomize(host.plugin("concat"), 2)
    shown = recorded(tmp_path)
    plugins = {"concat": plugin}
    (arrays,) = data.collate([data.prepare(shown, plugins, {"concat": "recorded"})], plugins, 3).arrays.values()
    cached = plugin.precompute(arrays)
    keep = torch.ones(1, dtype=torch.bool)
    with torch.no_grad():
        for given in (arrays, cached):
            first, found = plugin.encode(given, keep).data, []
            for seed in range(12):
                torch.manual_seed(seed)
                chosen = augment("concat", plugin, given)
                assert torch.equal(plugin.encode(chosen, keep).data, plugin.encode(chosen, keep).data)
                found.append(plugin.encode(chosen, keep).data)
            assert 1 < len({one.sum().item() for one in found}) <= KINDS
            assert any(torch.equal(one, first) for one in found)
        masked = {c.channel: {"image": np.asarray(p), "mask": m} for c, p, m in zip(
            shown.cameras, arrays["picture"][0].permute(0, 2, 3, 1), arrays["masks"][0, 0].numpy(), strict=True
        )}  # fmt: skip
        (told,) = data.collate([data.prepare(shown, plugins, {"concat": masked})], plugins, 3).arrays.values()
        assert torch.allclose(plugin.encode(told, keep).data, plugin.encode(arrays, keep).data, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda arrays: None, "expected a dict of tensors by name"), (lambda arrays: {"x": [1]}, "expected a torch tensor"),
        (lambda arrays: {"x": arrays["x"][:1]}, "with B = 2"), (lambda arrays: arrays["y"], "KeyError"),
    ],
)  # fmt: skip
def test_what_augment_gives_is_checked(given: Any, said: str) -> None:
    class Odd(Plugin):
        def augment(self, arrays: Any) -> Any:
            return given(arrays)

    with pytest.raises(InputError, match=f"augment.*{said}"):
        augment("odd", Odd(), {"x": torch.zeros(2, 3)})
