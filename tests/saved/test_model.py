from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.pipeline.pipeline import Pipeline
from drivegen.plugin import Plugin
from drivegen.sampling import Sampling
from drivegen.saved import model, plugin_folder
from drivegen.support.errors import InputError
from drivegen.support.files import sha256
from tests.hostile import Hostile
from tests.street import street_frame
from tests.tiny_hosts import ALL, SIZE, tiny_host
from tests.tiny_models import tiny_backbone

SAMPLING = Sampling(sampler="ddim", steps=2, guidance=3.0, null=("text", "boxes"), noise="shared")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return model.save(tiny_host(), tmp_path_factory.mktemp("models") / "m", SAMPLING, image_size=SIZE, about={"data": "none"})


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "modèle 1"))


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.slow
def test_saved_and_loaded_is_the_same(saved: Path) -> None:
    loaded = model.load(saved)
    assert list(loaded.host.plugins) == list(ALL)
    assert (loaded.sampling, loaded.image_size, dict(loaded.about)) == (SAMPLING, SIZE, {"data": "none"})
    before, after = tiny_host().state_dict(), loaded.host.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(p.requires_grad for p in loaded.host.parameters())
    pictures = [
        Pipeline(m)(street_frame(), seed=1)["CAM_FRONT"].tobytes() for m in (loaded, model.Model(tiny_host(), SAMPLING, SIZE))
    ]
    assert pictures[0] == pictures[1]


def test_the_folder_is_as_promised(saved: Path) -> None:
    index = json.loads((saved / "drivegen.json").read_text())
    assert [(p["name"], p["kind"]) for p in index["plugins"]] == [(name, name) for name in ALL]
    files = [p.relative_to(saved).as_posix() for p in saved.rglob("*.safetensors")]
    assert {f: sha256(saved / f) for f in files} == index["sha256"]
    assert {f"plugins/{name}/model.safetensors" for name in ALL} < set(files)
    assert sorted(p.name for p in saved.parent.iterdir()) == ["m"]
    own = tiny_host().backbone.state_dict()
    for name in ALL:  # no plugin carries the backbone's weights
        state = load_file(saved / "plugins" / name / "model.safetensors")
        assert not any(key.startswith(("unet.", "_backbone")) for key in state)
        assert not {id(v) for v in state.values()} & {id(v) for v in own.values()}


@pytest.mark.slow
@pytest.mark.parametrize("limit", [None, 100_000])
def test_diffusers_opens_the_base(tmp_path: Path, saved: Path, limit: int | None) -> None:
    from diffusers import StableDiffusionPipeline

    folder = saved if limit is None else model.save(tiny_host(), tmp_path / "m", SAMPLING, image_size=SIZE, shard=limit)
    shards = list((folder / "unet").glob("*-of-*.safetensors"))
    assert bool(shards) == (limit is not None)
    assert all(len(load_file(path)) == 1 or path.stat().st_size < 1.1 * (limit or 0) for path in shards)
    assert model.load(folder).host.backbone.unet.state_dict().keys() == tiny_host().backbone.unet.state_dict().keys()
    theirs = StableDiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    own = tiny_host().backbone
    for name in ("unet", "vae", "text_encoder"):
        state = getattr(own, name).state_dict()
        assert all(torch.equal(value, state[key]) for key, value in getattr(theirs, name).state_dict().items())
    assert theirs.tokenizer("night")["input_ids"] == own.tokenizer("night")["input_ids"]


def test_a_plugin_is_loadable_by_itself(saved: Path) -> None:
    host = tiny_host(("text",))
    plugin = plugin_folder.load_plugin(host, "picture", saved / "plugins" / "layout")
    assert list(host.plugins) == ["text", "picture"]
    state = tiny_host().plugin("layout").state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plugin.state_dict().items())


@pytest.mark.slow
def test_half_precision_files(tmp_path: Path) -> None:
    folder = model.save(tiny_host(), tmp_path / "m", SAMPLING, torch.float16, SIZE)
    for path in folder.rglob("*.safetensors"):
        assert all(v.dtype == torch.float16 for v in load_file(path).values() if v.is_floating_point())
    loaded = model.load(folder)
    assert all(p.dtype == torch.float32 for p in loaded.host.parameters())


def test_a_plain_diffusers_folder_generates_from_text(tmp_path: Path) -> None:
    host = tiny_host(("text",))
    host.backbone.save(tmp_path / "sd")
    pipe = Pipeline.from_pretrained(tmp_path / "sd", dtype="float32", device="cpu")
    assert list(pipe.host.plugins) == ["text"]
    assert pipe.model.image_size == (128, 128)  # sample_size 16, VAE factor 8
    assert pipe.ignored(street_frame()) == ("cameras", "boxes", "map")
    night, day = (pipe(street_frame(), prompt=prompt, num_inference_steps=1)["CAM_FRONT"] for prompt in ("night", "day"))
    assert night.tobytes() != day.tobytes()


def pickled(folder: Path, how: str) -> None:
    """Put transformers' pickles in place of the safetensors of a network; its older ones have position ids."""
    state = load_file(folder / "model.safetensors") | {"text_model.embeddings.position_ids": torch.arange(16)[None]}
    (folder / "model.safetensors").unlink()
    if how == "pytorch_model.bin.index.json":
        parts = {"pytorch_model-00001-of-00002.bin": list(state)[::2], "pytorch_model-00002-of-00002.bin": list(state)[1::2]}
        for name, keys in parts.items():
            torch.save({key: state[key] for key in keys}, folder / name)
        (folder / how).write_text(json.dumps({"weight_map": {key: name for name, keys in parts.items() for key in keys}}))
    else:
        half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        torch.save(half if "fp16" in how else state, folder / how)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["pytorch_model.bin", "pytorch_model.fp16.bin", "pytorch_model.bin.index.json"])
def test_pickles_of_transformers_hold_the_same(tmp_path: Path, how: str) -> None:
    """Of a folder's text encoder and image encoder, and of an image encoder that is brought."""
    own = tiny_backbone(image_encoder=True)
    own.save(tmp_path)
    for name in ("text_encoder", "image_encoder"):
        pickled(tmp_path / name, how)
    loaded = Backbone.from_folder(tmp_path, ["image_encoder"])
    loaded.add_component("brought", tmp_path / "image_encoder")
    for name in ("text_encoder", "image_encoder", "brought"):
        before = own.component(name.replace("brought", "image_encoder")).state_dict()
        after = loaded.component(name).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(v.half().float() if "fp16" in how else v, after[key]) for key, v in before.items())


@pytest.mark.parametrize("name", ["text_encoder", "image_encoder"])
def test_a_hostile_pickle_of_transformers_is_never_run(tmp_path: Path, name: str) -> None:
    tiny_backbone(image_encoder=True).save(tmp_path)
    state = load_file(tmp_path / name / "model.safetensors")
    (tmp_path / name / "model.safetensors").unlink()
    torch.save({**state, "more": Hostile(tmp_path / "mark")}, tmp_path / name / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin was refused: it is not a file of plain tensors"):
        Backbone.from_folder(tmp_path, ["image_encoder"])
    assert not (tmp_path / "mark").exists()


def test_saving_again_replaces_and_a_failed_save_keeps(folder: Path) -> None:
    model.save(tiny_host(("text",)), folder, Sampling(steps=7), image_size=SIZE)
    assert list(model.load(folder).host.plugins) == ["text"]
    before = sorted(folder.parent.rglob("*"))

    class Nameless(Plugin):
        pass

    host = tiny_host(("text",))
    host.add_plugin("nameless", Nameless())
    with pytest.raises(InputError, match="registered under no kind"):
        model.save(host, folder, image_size=SIZE)
    assert sorted(folder.parent.rglob("*")) == before
    assert model.load(folder).sampling.steps == 7


def test_no_folder_of_another_kind_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="not a drivegen model"):
        model.save(tiny_host(("text",)), tmp_path, image_size=SIZE)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_every_bit_flip_is_refused(folder: Path) -> None:
    path = folder / "plugins" / "camera" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"camera/model.safetensors is damaged or was changed"):
        model.load(folder)


def test_missing_and_foreign_weight_files_are_refused(folder: Path) -> None:
    extra = folder / "unet" / "other.bin"
    extra.write_bytes(b"x")
    with pytest.raises(InputError, match=r"other\.bin is not listed"):
        model.load(folder)
    extra.unlink()
    (folder / "plugins" / "boxes" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"boxes/model\.safetensors is missing"):
        model.load(folder)


def test_missing_extra_and_misshapen_tensors_are_listed(folder: Path) -> None:
    path = folder / "plugins" / "layout" / "model.safetensors"
    state = load_file(path)
    shaped, gone = sorted(state)[:2]
    save_file(
        {k: v for k, v in state.items() if k not in (shaped, gone)} | {"new": torch.zeros(1), shaped: torch.zeros(9, 9, 9)},
        path,
    )
    index = json.loads((folder / "drivegen.json").read_text())
    edit(folder / "drivegen.json", sha256=index["sha256"] | {"plugins/layout/model.safetensors": sha256(path)})
    with pytest.raises(InputError) as error:
        model.load(folder)
    assert all(part in str(error.value) for part in (f"missing {gone}", "unexpected new", f"{shaped} is (9, 9, 9)"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99"), ({"image_size": [63, 112]}, "multiples of 8"),
        ({"image_size": None}, "not a model index"),
        ({"sampling": {"sampler": "ddimm"}}, "no sampler 'ddimm'"), ({"sampling": {"stepz": 3}}, "did you mean 'steps'"),
        ({"sampling": {"null": ["txet"]}}, "did you mean 'text'"),
        ({"plugins": [{"name": "../../x", "kind": "text"}]}, "must be an identifier"),
        ({"plugins": [{"name": "text", "kind": "os.system"}]}, "no plugin kind 'os.system'"),
        ({"plugins": [{"name": "text", "kind": "layout"}]}, "says kind 'text'"), ({"plugins": [{}]}, "not a model index"),
    ],
)  # fmt: skip
def test_bad_indices_are_named(folder: Path, change, message) -> None:
    edit(folder / "drivegen.json", **change)
    with pytest.raises(InputError, match=message):
        model.load(folder)


def test_bad_plugin_configs_are_named(folder: Path) -> None:
    path = folder / "plugins" / "text" / "config.json"
    edit(path, arguments={"colour": "red"})
    with pytest.raises(InputError, match=r"text/config\.json: arguments\.colour = 'red' is unknown; \w+ takes template"):
        model.load(folder)
    path.write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        model.load(folder)


def test_names_that_are_no_model() -> None:
    with pytest.raises(InputError, match="there is no model at"):
        model.load("/nowhere/at/all")


def test_a_required_component_is_saved_beside_the_plugin(tmp_path: Path, monkeypatch) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from drivegen.catalog import registry

    class Photo(Plugin):
        requires = ("image_encoder",)

        def attach(self, backbone) -> None:
            self.width = backbone.component("image_encoder").config.hidden_size

    monkeypatch.setitem(registry._local, "photo_of_a_test", Photo)
    host = tiny_host(("text",))
    with pytest.raises(InputError, match="requires image_encoder"):
        host.add_plugin("photo", Photo())
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    host.backbone.components["image_encoder"] = CLIPVisionModelWithProjection(config)
    host.add_plugin("photo", Photo())
    folder = model.save(host, tmp_path / "m", image_size=SIZE)
    assert load_file(folder / "plugins" / "photo" / "model.safetensors") == {}
    loaded = model.load(folder)
    assert loaded.host.plugin("photo").width == 16  # type: ignore[comparison-overlap]
    saved = host.backbone.components["image_encoder"].state_dict()
    assert all(torch.equal(v, saved[k]) for k, v in loaded.host.backbone.component("image_encoder").state_dict().items())
