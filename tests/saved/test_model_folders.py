"""Model folders that were edited by hand or written by something else: a sentence that names the file, never a traceback."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drivegen.backbones.networks import build_model
from drivegen.catalog import registry
from drivegen.cli.main import app
from drivegen.plugin import Plugin
from drivegen.saved import model
from drivegen.saved.contents import contents
from drivegen.saved.sharing import Extensions
from drivegen.support.errors import InputError
from tests.tiny_hosts import SIZE, tiny_host

NAMES = ("camera", "layout")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return model.save(tiny_host(NAMES), tmp_path_factory.mktemp("models") / "m", image_size=SIZE, about={"data": "none"})


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "m"))


def info(folder: Path, status: int) -> str:
    result = CliRunner().invoke(app, ["info", str(folder)])
    assert result.exit_code == status, (result.output, result.exception)
    return result.output if status == 0 else result.stderr


def change(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; ... takes one out."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))


@pytest.mark.slow
def test_info_does_without_what_it_only_prints(folder: Path) -> None:
    change(folder / "drivegen.json", versions=..., about=...)
    assert "saved with: versions that are not recorded" in info(folder, 0)
    change(folder / "drivegen.json", sampling={"steps": 7})
    assert "7 steps" in info(folder, 0)
    assert model.load(folder).about == {}


@pytest.mark.parametrize("name", ["drivegen.json", "model_index.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("text", ["[]", "3", '"x"', "null", "{"])
def test_a_file_of_another_form_is_named(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    error = info(folder, 2)
    assert name in error
    assert len(error.strip().splitlines()) == 1
    for read in (model.load, contents):
        with pytest.raises(InputError, match=name):
            read(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"about": [1]}, {"about": "x"}, {"versions": 3}, {"sampling": []}, {"sampling": None}, {"plugins": 5},
        {"plugins": [1]}, {"plugins": ["text"]}, {"plugins": [{"name": "type", "kind": "camera"}]}, {"sha256": []},
        {"image_size": 8}, {"image_size": [1, 2, 3]},
    ],
)  # fmt: skip
def test_an_index_with_values_of_other_types_is_named(folder: Path, changes: dict[str, Any]) -> None:
    change(folder / "drivegen.json", **changes)
    assert "drivegen.json" in info(folder, 2)
    with pytest.raises(InputError, match=r"drivegen\.json"):
        model.load(folder)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("unet/config.json", {"down_block_types": ["CrossAttnDownBlock2D", "NoSuchBlock"]}),
        ("unet/config.json", {"block_out_channels": "wide"}),
        ("vae/config.json", {"up_block_types": 3}), ("text_encoder/config.json", {"hidden_size": "wide"}),
        ("scheduler/scheduler_config.json", {"beta_schedule": "crooked"}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": "many"}),
        ("plugins/camera/config.json", {"arguments": []}), ("plugins/camera/config.json", {"base": [1]}),
        ("plugins/camera/config.json", {"base": {"sizes": 3}}), ("plugins/camera/config.json", {"training": "yes"}),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_built_is_named(folder: Path, name: str, changes: dict[str, Any]) -> None:
    change(folder / name, **changes)
    with pytest.raises(InputError, match=name):
        model.load(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("camera", {"frequencies": "many"}, "arguments.frequencies = 'many' must be a whole number"),
        ("camera", {"frequencies": 0}, "arguments: frequencies = 0 is out of range; allowed: >= 1"),
        ("camera", {"normalised": 1}, "arguments.normalised = 1 must be true or false"),
        ("camera", {"freqencies": 4}, "arguments.freqencies = 4 is unknown (did you mean 'frequencies'?); CameraTokens takes"),
        ("camera", {"frequencies": {"_target_": "os.system"}}, "arguments.frequencies._target_ names code to run"),
        *(("camera", f'{{"half": {"[" * depth}{"]" * depth}}}', " nested too deeply") for depth in (5_000, 100_000)),
        ("layout", {"channels": 3}, "arguments.channels = 3 must be a list"),
        ("layout", {"channels": [8, "a"]}, "arguments.channels[1] = 'a' must be a whole number"),
        ("layout", {"channels": []}, "arguments: layout: channels is empty"),
        ("layout", {"attends_to": "text"}, "arguments.attends_to = 'text' must be a list"),
        ("layout", {"width": math.nan}, "arguments.width = nan must be finite"),
    ],
)  # fmt: skip
def test_arguments_of_a_plugin_are_of_their_types(folder: Path, name: str, arguments: Any, said: str) -> None:
    path = folder / "plugins" / name / "config.json"
    written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    path.write_text(f'{{"kind": "{name}", "arguments": {written}}}')
    with pytest.raises(InputError) as caught:
        model.load(folder)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)


def test_a_plugin_with_unfit_arguments_ends_generation_with_status_two(folder: Path, tmp_path: Path) -> None:
    change(folder / "plugins" / "camera" / "config.json", arguments={"half": "no"})
    done = CliRunner().invoke(app, ["generate", "--model", str(folder), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert done.stderr.strip().splitlines()[-1].endswith("arguments.half = 'no' must be true or false")
    assert "Traceback" not in done.output


def test_a_plugin_without_annotations_gets_what_it_was_saved_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lists are lists, whatever else it takes by name is given by name, and what it refuses is said in a sentence."""

    class Plain(Plugin):
        def __init__(self, sizes, mode=None, *rest, **others) -> None:  # type: ignore[no-untyped-def]
            super().__init__()
            self.sizes, self.total = sizes.copy(), sum(sizes)

    monkeypatch.setitem(registry._local, "plain_of_a_test", Plain)
    host = tiny_host(("camera",))
    host.add_plugin("plain", Plain([1, 2], colour="red"))
    saved = model.save(host, tmp_path / "m", image_size=SIZE)
    made: Any = model.load(saved).host.plugin("plain")
    assert made.config == {"sizes": [1, 2], "mode": None, "colour": "red"}
    assert made.sizes == [1, 2]
    assert made.weightless().config == made.config
    change(saved / "plugins" / "plain" / "config.json", arguments={"sizes": ["a"]})
    with pytest.raises(InputError, match=r"plain/config\.json: arguments: Plain refuses these settings: TypeError"):
        model.load(saved)
    change(saved / "plugins" / "plain" / "config.json", arguments={})
    with pytest.raises(InputError, match=r"plain/config\.json: arguments: Plain refuses these settings: .*'sizes'"):
        model.load(saved)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "plugins/camera"])
def test_a_configuration_that_is_a_list_is_named(folder: Path, part: str) -> None:
    (folder / part / "config.json").write_text("[]")
    with pytest.raises(InputError, match=f"{part}/config.json"):
        model.load(folder)


@pytest.mark.parametrize("listed", [[], {}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}])
def test_shards_that_are_not_told_are_named(folder: Path, listed: Any) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(listed))
    (folder / "drivegen.json").unlink()
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.safetensors\.index\.json must hold a weight_map"):
        model.load(folder)


def test_pictures_of_a_size_that_fills_the_memory_are_refused(folder: Path) -> None:
    change(folder / "drivegen.json", image_size=[8, 10**9])
    with pytest.raises(InputError, match="is too large; a side may have 8192 pixels"):
        model.load(folder)


def test_a_network_of_wrong_settings_is_refused() -> None:
    with pytest.raises(InputError, match="must be a mapping"):
        build_model("AutoencoderKL", [])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="AutoencoderKL cannot be built as configured"):
        build_model("AutoencoderKL", {"down_block_types": ["nothing"]})


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_plugin_is_not_written_where_nothing_may_be(saved: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match=r"cannot write the plugin to .*: Permission denied"):
            Extensions(model.load(saved)).save_plugin("camera", tmp_path / "new")
    finally:
        tmp_path.chmod(0o700)


def test_a_plugin_is_not_written_below_a_file(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for write in (model.save_own_plugin, lambda m, name, to: Extensions(m).save_plugin(name, to)):
        with pytest.raises(InputError, match=r"cannot write the plugin to .*: Not a directory"):
            write(model.load(saved), "camera", tmp_path / "file" / "new")
    assert (tmp_path / "file").read_text() == "mine"
