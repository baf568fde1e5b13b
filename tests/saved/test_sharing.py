"""Plugins saved alone: folders, cards, grafting and removing, released files, the hub's boundary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from drivegen.catalog import registry
from drivegen.host.host import Host
from drivegen.pipeline.pipeline import Pipeline
from drivegen.plugin import Plugin, Released, ReleasedFile
from drivegen.sampling import Sampling
from drivegen.saved import model as models
from drivegen.saved.model import Model
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame
from drivegen.testing.models import randomize, tiny_backbone

SCENE = frame(0, views=1)
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def pipe(names: tuple[str, ...] = ("text",), seed: int = 0, sampling: Sampling | None = None, **backbone: Any) -> Pipeline:
    plugins = {name: registry.load(name)() for name in names}
    host = Host(tiny_backbone(seed, image_encoder="image_prompt" in names, **backbone), plugins)
    for i, name in enumerate(names):
        randomize(host.plugin(name), 7 + i)
    return Pipeline(Model(host.eval().requires_grad_(False), sampling or Sampling(steps=2), (48, 64), about={"steps": 5}))


def latents(p: Pipeline, **inputs: Any) -> Tensor:
    views = p(SCENE, output_type="latent", inputs=inputs)
    return torch.stack(list(views.values()))


@pytest.fixture(scope="module")
def source() -> Pipeline:
    return pipe(("text", "image_prompt"))


@pytest.fixture(scope="module")
def folder(source: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder and, beside it, its image prompt alone."""
    root = tmp_path_factory.mktemp("shared")
    models.save(source.host, root / "model", source.model.sampling, image_size=(48, 64))
    return source.save_plugin("image_prompt", root / "photo")


def test_the_folder_says_what_it_is(source: Pipeline, folder: Path) -> None:
    config, readme = json.loads((folder / "config.json").read_text()), (folder / "README.md").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert config["kind"] == "image_prompt"
    assert config["arguments"]["plus"] is False
    assert config["sha256"] in readme
    assert config["base"]["sha256_fp16"]["unet"] in readme
    assert config["base"]["sizes"]["image_encoder"]["projection_dim"] == 20
    assert not any("image_encoder" in key for key in load_file(folder / "model.safetensors"))


def test_grafted_and_removed(source: Pipeline, folder: Path) -> None:
    """On another copy of the base it does what it did; removed, every bit is as before."""
    other = pipe(sampling=Sampling(steps=2, null=("text",)))
    before = {name: value.clone() for name, value in other.host.state_dict().items()}
    modules, plain, sampling = [id(m) for m in other.host.modules()], latents(other), other.model.sampling
    name = other.add_plugin(folder, components={"image_encoder": folder.parent / "model" / "image_encoder"})
    assert name == "image_prompt"
    assert other.model.sampling.null == ("text", "image_prompt")
    assert torch.equal(latents(other, image_prompt=PHOTO), latents(source, image_prompt=PHOTO))
    assert torch.equal(latents(other), plain)  # without a picture it is absent
    removed = other.remove_plugin(name)
    assert type(removed) is registry.load("image_prompt")
    after = other.host.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [id(m) for m in other.host.modules()] == modules
    assert not any(m._forward_hooks for n, m in other.host.backbone.unet.named_modules() if n.endswith("attn2"))
    assert torch.equal(latents(other), plain)
    assert other.model.sampling == sampling


def test_a_plugin_is_guided_where_the_others_have_weights(folder: Path) -> None:
    """It takes the weight of the last before it; with equal weights that is plain guidance. Removed, all is as before."""
    kinds, weights = ("camera", "text"), {"camera": 3.0, "text": 3.0}
    weighed, plain = (pipe(kinds, sampling=Sampling(steps=2, guidance=guidance)) for guidance in (weights, 3.0))
    before = weighed.model.sampling
    for each in (weighed, plain):
        each.add_plugin(folder, components={"image_encoder": folder.parent / "model" / "image_encoder"})
    assert weighed.model.sampling.guidance == weights | {"image_prompt": 3.0}
    assert torch.equal(latents(weighed, image_prompt=PHOTO), latents(plain, image_prompt=PHOTO))
    weighed.remove_plugin("image_prompt")
    assert weighed.model.sampling == before


@pytest.mark.parametrize("weights", [{"text": 3.0, "camera": 1.5}, {"camera": 2.0}])
def test_a_plugin_that_guidance_weighs_is_removed(weights: dict[str, float]) -> None:
    """The model goes on with the other weights, as one that never had the plugin does."""
    other, left = pipe(("text", "camera"), sampling=Sampling(steps=2, guidance=weights)), {"text": 3.0}
    other.remove_plugin("camera")
    assert other.model.sampling.guidance == {n: w for n, w in left.items() if n in weights}
    assert torch.equal(latents(other), latents(pipe(sampling=other.model.sampling)))


@pytest.mark.slow
def test_another_name_and_a_lora_beside(folder: Path, tmp_path: Path) -> None:
    """A plugin that copies the UNet's layers is added as if no LoRA were there, and the LoRA stays."""
    from drivegen import lora

    other = pipe()
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    a, b = torch.randn(2, 64), torch.randn(64, 2)
    other.load_lora(lora.save(lora.LoRA({"unet": {layer: (a, b)}}), tmp_path), name="style")
    changed = latents(other)
    branch = pipe(("bev_map",))
    branch.save_plugin("bev_map", tmp_path / "map")
    assert other.add_plugin(tmp_path / "map", "birdseye") == "birdseye"
    assert other.loras == {"style": 1.0}
    assert not any("lora" in key for key in other.host.plugin("birdseye").state_dict())
    other.remove_plugin("birdseye")
    assert torch.equal(latents(other), changed)


def test_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    """--plugin, --lora and --input."""
    from drivegen import lora
    from drivegen.cli.generate import Where, parse_lora
    from drivegen.pipeline.spelling import read_inputs

    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    file = lora.save(lora.LoRA({"unet": {layer: (torch.randn(2, 64), torch.randn(64, 2))}}), tmp_path)
    where = Where(str(folder.parent / "model"), "cpu", "float32", plugins=(f"second={folder}",), loras=(f"{file}=0.5",))
    made = where.pipeline()
    assert list(made.host.plugins) == ["text", "image_prompt", "second"]
    assert made.loras == {file.stem: 0.5}
    assert parse_lora("a=b/c.safetensors") == ("a=b/c.safetensors", 1.0)
    assert read_inputs(["image_prompt=x=y.jpg"]) == {"image_prompt": "x=y.jpg"}
    with pytest.raises(InputError, match="--input names 'image_prompt' twice"):
        read_inputs(["image_prompt=a.jpg", "image_prompt=b.jpg"])


def test_misfits_are_refused(folder: Path, tmp_path: Path) -> None:
    encoder = {"image_encoder": folder.parent / "model" / "image_encoder"}
    narrow = pipe(unet={"cross_attention_dim": 16, "block_out_channels": (16, 32)}, seed=1)
    with pytest.raises(InputError, match=r"made for another base.*cross_attention_dim 32 there and 16 here"):
        narrow.add_plugin(folder, components=encoder)
    assert list(narrow.host.plugins) == ["text"]
    assert not narrow.host.backbone.components
    same = pipe()
    (tmp_path / "alone").mkdir()
    for file in folder.iterdir():
        (tmp_path / "alone" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match=r"requires 'image_encoder', which is not in .*give components="):
        same.add_plugin(tmp_path / "alone")
    with pytest.raises(InputError, match="is not required"):
        same.add_plugin(folder, components={**encoder, "depth_network": tmp_path})
    with pytest.raises(InputError, match="not 'boxes'"):
        same.add_plugin(folder, kind="boxes")
    with pytest.raises(InputError, match="no plugin at"):
        same.add_plugin(tmp_path / "nothing" / "at" / "all")
    damaged = tmp_path / "alone" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(InputError, match="was changed: its sha256"):
        same.add_plugin(tmp_path / "alone", components=encoder)
    with pytest.warns(UserWarning, match="the weights of unet are others here"):
        assert pipe(seed=3).add_plugin(folder, "photo", components=encoder) == "photo"
    with pytest.raises(InputError, match="is not a plugin's folder"):
        same.save_plugin("text", folder.parent)


def test_a_folder_without_a_name_is_checked_too(tmp_path: Path) -> None:
    """It gets its kind's name; arguments that the kind does not take are refused, and nothing has changed."""
    pipe(("text", "camera")).save_plugin("camera", tmp_path)
    path, other = tmp_path / "config.json", pipe()
    saved = json.loads(path.read_text())
    del saved["name"]
    for arguments, said in [
        ({"frequencies": "many"}, r"arguments\.frequencies = 'many' must be a whole number"),
        ({"frequency": 4}, r"arguments\.frequency = 4 is unknown \(did you mean 'frequencies'\?\)"),
        ({"frequencies": 0}, "frequencies = 0 is out of range"),
    ]:
        path.write_text(json.dumps(saved | {"arguments": arguments}))
        with pytest.raises(InputError, match=rf"config\.json: arguments.*{said.removeprefix('arguments')}"):
            other.add_plugin(tmp_path)
        assert list(other.host.plugins) == ["text"]
    path.write_text(json.dumps(saved))
    assert other.add_plugin(tmp_path) == "camera"


def test_a_released_file_of_odd_shapes_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kind reads out of a file is checked as what a config.json says."""

    class Odd(Plugin):
        def __init__(self, width: int = 1) -> None:
            super().__init__()

        @classmethod
        def read_released(cls, file: ReleasedFile) -> Released | None:
            return Released({"width": "wide"}, {}) if "odd" in file.state else None

    monkeypatch.setitem(registry._local, "odd", Odd)
    torch.save({"odd": torch.zeros(1)}, tmp_path / "odd.bin")
    with pytest.raises(InputError, match=r"odd\.bin: arguments\.width = 'wide' must be a whole number"):
        pipe().add_plugin(tmp_path / "odd.bin")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_released_files(source: Pipeline, folder: Path, suffix: str, tmp_path: Path) -> None:
    """The official layout, flat or in groups, with the image encoder beside it, as released folders have it."""
    state = source.host.plugin("image_prompt").state_dict()
    (tmp_path / "image_encoder").symlink_to(folder.parent / "model" / "image_encoder")
    path = tmp_path / f"ip-adapter_tiny{suffix}"
    if suffix == ".bin":
        groups: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for key, value in state.items():
            group, _, rest = key.partition(".")
            groups[group][rest] = value
        torch.save(groups, path)
    else:
        path.write_bytes((folder / "model.safetensors").read_bytes())
    other = pipe()
    assert other.add_plugin(path) == "image_prompt"
    assert torch.equal(latents(other, image_prompt=PHOTO), latents(source, image_prompt=PHOTO))
    with pytest.raises(InputError, match="no kind of plugin reads it"):
        pipe().add_plugin(folder.parent / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def test_the_hub(source: Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent and what is asked for; only the calls over the network are replaced."""
    sent: dict[str, Any] = {}
    api = huggingface_hub.HfApi
    monkeypatch.setattr(api, "create_repo", lambda self, repo_id, **options: sent.update(repo=repo_id, **options) or repo_id)

    def upload(self: Any, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        sent["files"] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}

    monkeypatch.setattr(api, "upload_folder", upload)
    assert source.push_to_hub("image_prompt", "me/photos", private=True) == "me/photos"
    assert sent["repo"] == "me/photos"
    assert sent["private"] is True
    assert sent["files"]["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert set(sent["files"]) == {"config.json", "model.safetensors", "README.md"}
    with pytest.raises(InputError, match="user/name"):
        source.push_to_hub("image_prompt", "photos")

    asked: list[Any] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo_id, **options: asked.append(repo_id) or str(folder))
    other = pipe()
    encoder = {"image_encoder": folder.parent / "model" / "image_encoder"}
    assert other.add_plugin("me/photos", components=encoder) == "image_prompt"
    assert asked == ["me/photos"]

    def offline(repo_id: str, **options: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("the hub cannot be reached")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(InputError, match=r"a folder .*me/photos with config.json and model.safetensors would serve"):
        other.add_plugin("me/photos", "again")
