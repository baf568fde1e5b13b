"""A converted MagicDrive model: what its folder says, that it generates, trains on, and takes other plugins; its recipe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from drivegen import Pipeline, training
from drivegen.catalog import registry
from drivegen.convert import magicdrive
from drivegen.datasets import nuscenes
from drivegen.host import batch as data
from drivegen.saved import model
from drivegen.scene import ResizeCrop
from drivegen.support.errors import InputError
from drivegen.training import config
from drivegen.training.config import DropGroup, TrainConfig
from drivegen.training.frames import TrainBatch
from drivegen.training.module import DriveModule
from tests.convert.test_magicdrive import GOLDEN, ROOT, golden
from tests.street import street_frame, street_scene
from tests.tiny_models import randomize, tiny_backbone


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd") / "base"
    folder.mkdir()
    tiny_backbone(vae_factor=8).save(folder)
    return folder


@pytest.fixture(scope="module")
def converted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from drivegen.cli.main import app

    out = tmp_path_factory.mktemp("converted") / "model"
    result = CliRunner().invoke(
        app, ["convert", "magicdrive", str(GOLDEN / "golden_a_bin"), str(out), "--base", str(base), "--no-half"]
    )
    assert result.exit_code == 0, result.output
    return out


@golden
def test_the_folder_has_magicdrives_defaults(converted: Path) -> None:
    index = json.loads((converted / "drivegen.json").read_text())
    assert [plugin["name"] for plugin in index["plugins"]] == ["camera", "text", "boxes", "bev_map", "cross_view"]
    expected = {"sampler": "unipc", "steps": 20, "guidance": 2.0, "null": ["camera", "text", "boxes"], "noise": "shared"}
    assert expected.items() <= index["sampling"].items()
    assert index["image_size"] == [64, 80]


@golden
@torch.no_grad()
def test_the_saved_model_gives_magicdrives_numbers(converted: Path) -> None:
    host = model.load(converted).host
    i, step = (load_file(GOLDEN / "golden_a" / f"{name}.safetensors") for name in ("inputs", "step"))
    ring = torch.tensor([[(k - 1) % 6, (k + 1) % 6] for k in range(6)])[None]
    arrays: dict[str, dict[str, Tensor]] = {
        "camera": {"camera_param": i["camera_param"]},
        "text": {"states": i["prompt_embeds"], "null_states": i["negative_prompt_embeds"]},
        "boxes": {"corners": i["bboxes"], "classes": i["classes"], "mask": i["masks"]},
        "bev_map": {"map": i["map"]},
        "cross_view": {"neighbours": ring},
    }
    ours = host(i["view_latents"][0], i["timestep"], host.encode(arrays, data.Grid(1, 1, 6)))
    assert float((ours - step["noise_pred"]).norm() / step["noise_pred"].norm()) <= 1e-5


@golden
def test_it_takes_another_plugin_and_both_train_on(converted: Path) -> None:
    pipe = Pipeline.from_pretrained(converted, device="cpu", dtype="float32")
    frame = street_frame()
    before = pipe(frame, num_inference_steps=1, output_type="latent", seed=3)
    pipe.host.add_plugin("layout", registry.load("layout")(width=0.5))
    same = pipe(frame, num_inference_steps=1, output_type="latent", seed=3)
    assert all(torch.allclose(before[c], same[c], atol=1e-6) for c in frame.channels)
    randomize(pipe.host.plugin("layout"), 5)
    other = pipe(frame, num_inference_steps=1, output_type="latent", seed=3)
    assert not any(torch.allclose(before[c], other[c], atol=1e-3) for c in frame.channels)

    host = pipe.host.requires_grad_(True)
    groups = [DropGroup(names=("camera", "text"), probability=0.25)]
    module = DriveModule(host, TrainConfig(steps=1, precision="32", seed=1), {}, groups).train()
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    plugins = {name: host.plugin(name) for name in host.plugins}
    batch = data.collate([data.prepare(frame.resized(80, 64), plugins)], plugins, 6)
    moments = torch.cat([torch.randn(6, 4, 8, 10), torch.ones(6, 4, 8, 10)], dim=1)
    module.training_step(TrainBatch(batch, moments=moments), 0).backward()
    for name in ("camera", "boxes", "bev_map", "cross_view", "layout"):
        gradients = [p.grad for p in plugins[name].parameters() if p.grad is not None]
        assert gradients, name
        assert any(bool(g.abs().sum() > 0) for g in gradients), name
    assert all(p.grad is None for p in host.backbone.parameters())


@golden
def test_a_base_of_another_width_is_refused(base: Path, tmp_path: Path) -> None:
    settings = json.loads((base / "vae" / "config.json").read_text())
    assert settings["latent_channels"] == 4
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    tiny_backbone(vae_factor=8, latent_channels=8).save(wrong)
    with pytest.raises(InputError, match="8 latent channels"):
        magicdrive.convert(GOLDEN / "golden_a", tmp_path / "out", wrong)


RECIPE = ROOT / "configs" / "magicdrive_224x400.yaml"


def test_the_recipe_is_magicdrives() -> None:
    recipe = config.load(RECIPE)
    assert model.Sampling.from_dict(recipe.sampling, "recipe") == magicdrive.SAMPLING
    assert tuple(recipe.plugins) == ("camera", "text", "boxes", "bev_map", "cross_view")


@golden
def test_the_recipe_describes_the_released_structure() -> None:
    from tests.convert.test_magicdrive import BEV, SD15

    described = magicdrive.magicdrive_config.describe(SD15, BEV)
    recipe = config.load(RECIPE)
    for name, options in described.options.items():
        cls = registry.load(name)
        ours, theirs = cls(**recipe.plugins[name].options), cls(**options)
        widths = {"position_width": 768, "class_width": 768}  # SD 1.5's own, which the recipe leaves to the backbone
        plain = {**theirs.config, **{k: ours.config[k] for k in widths if k in ours.config}}
        assert json.dumps(ours.config) == json.dumps(plain), name


@pytest.mark.slow
def test_two_steps_of_the_recipe(base: Path, tmp_path: Path) -> None:
    nuscenes.write([street_scene(2, "one"), street_scene(1, "two")], tmp_path / "data")
    overrides = [
        f"output={tmp_path / 'run'}", f"model.base={base}", f"data.roots=[{tmp_path / 'data'}]", "data.version=v1.0-mini",
        "data.size=[64,80]", "data.val_scenes=[two]", f"data.cache={tmp_path / 'cache'}", "data.workers=0", "train.steps=2",
        "train.images=6", "train.accumulate=1", "train.precision=32", "train.device=cpu", "preview.every=0",
        "plugins.boxes.options.hidden=[24,24]", "plugins.bev_map.options.channels=[4,4,8,8]",
        "plugins.bev_map.options.pixels=[40,40]",
    ]  # fmt: skip
    assert training.run(RECIPE, overrides) == 0
    trained = model.load(tmp_path / "run" / "model")
    assert tuple(trained.host.plugins) == ("camera", "text", "boxes", "bev_map", "cross_view")
    assert trained.sampling == magicdrive.SAMPLING
    new = load_file(tmp_path / "run" / "model" / "plugins" / "cross_view" / "model.safetensors")
    moved = [v for k, v in new.items() if k.endswith("connector.weight")]
    assert moved
    assert all(bool(v.abs().max() > 0) for v in moved)  # zero-initialised, so these two steps moved them
    old = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    kept = load_file(tmp_path / "run" / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(kept[k], v.half()) for k, v in old.items())


def test_magicdrives_wide_crop_stays_when_a_frame_is_set_to_its_size() -> None:
    """272x736 is resized by a half and cut on all sides but the lower, which no cover of that size is."""
    frame = street_frame()
    camera = replace(frame.cameras[0], width_px=1600, height_px=900, resize=ResizeCrop(0.5, 32, 178, 736, 272))
    assert camera.resized(736, 272).resize == camera.resize
    assert camera.resized(400, 224).resize == ResizeCrop(0.25, 0, 1, 400, 224)
    assert camera.resized(800, 424).resize == ResizeCrop(0.5, 0, 26, 800, 424)
