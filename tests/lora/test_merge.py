"""Merged LoRAs give what all of them give together, as one file and within a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from drivegen import lora, words
from drivegen.catalog import registry, tuners
from drivegen.cli.main import app
from drivegen.host.host import Host
from drivegen.lora.changes import Shift
from drivegen.saved import model as models
from drivegen.saved.brought import recognise
from drivegen.support import weights
from drivegen.support.errors import InputError
from tests.tiny_models import tiny_backbone
from tests.tuners.test_layouts import predict
from tests.tuners.test_ziplora import made

NEAR = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("three")
    return [made(folder, kind, seed) for seed, kind in enumerate(("lora", "loha", "dora"))]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(host(), tmp_path_factory.mktemp("base") / "model", image_size=(64, 64))


def host() -> Host:
    return Host(tiny_backbone(), {"text": registry.load("text")()}).eval().requires_grad_(False)


def run(*words: Any) -> Any:
    return CliRunner().invoke(app, ["merge", *map(str, words)])


SCALES = (0.7, -0.4, 1.0)


def test_one_file_and_one_model_are_what_all_give_together(three: list[str], base: Path, tmp_path: Path) -> None:
    together = host()
    lora.apply(together, [(lora.read(file), scale) for file, scale in zip(three, SCALES, strict=True)])
    wanted = predict(together.backbone)
    given = [f"{file}={scale}" for file, scale in zip(three, SCALES, strict=True)]
    for more in ([], ["--whole"]):
        out = run(*given, "--model", base, "--out", tmp_path / f"out{len(more)}", *more)
        assert out.exit_code == 0, out.output
    one = host()
    lora.apply(one, [(lora.read(tmp_path / "out0"), 1.0)])
    torch.testing.assert_close(predict(one.backbone), wanted, **NEAR)
    whole = models.load(tmp_path / "out1")
    torch.testing.assert_close(predict(whole.host.backbone), wanted, **NEAR)
    told = json.loads(weights.metadata(tmp_path / "out0" / lora.FILE)["drivegen.merged_of"])
    assert [(entry["scale"], len(entry["sha256"])) for entry in told] == [(scale, 64) for scale in SCALES]
    assert told == whole.about["merged_of"]
    assert "merged of" in str(recognise(tmp_path / "out0" / lora.FILE))
    assert run(*given, "--model", base, "--out", tmp_path / "out0").exit_code == 0  # a LoRA's folder is replaced


def test_biases_and_norms_go_into_a_model_alone() -> None:
    layer = "mid_block.resnets.0.norm1"
    shape = host().backbone.unet.get_submodule(layer).weight.shape
    shifted = lora.LoRA({}, {"unet": {layer: Shift(torch.full(shape, 0.3), torch.full(shape, -0.2))}})
    beside, within = host(), host()
    lora.apply(beside, [(shifted, 0.5)])
    lora.fuse(within.backbone, [(shifted, 0.5)])
    torch.testing.assert_close(predict(within.backbone), predict(beside.backbone), **NEAR)
    with pytest.raises(InputError, match="biases or norms, which diffusers' layout"):
        lora.merged(within.backbone, [(shifted, 1.0)])


def test_what_is_refused(three: list[str], base: Path, tmp_path: Path) -> None:
    word = words.save({"<cat>": torch.ones(1, 32)}, tmp_path / "word")
    save_file({**weights.load_file(Path(three[0])), "bundle_emb.cat.emb_params": torch.ones(1, 32)}, tmp_path / "w.safetensors")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    sdxl, tuner = Host(tiny_backbone(family="sdxl"), {}), tuners.make("lora", {"rank": 2})
    sdxl.add_tuner("it", tuner)
    other = tuner.save(tmp_path / "sdxl")
    for given, said in (
        ([three[0], f"{three[0]}=0.5"], "is given twice"), ([word], "is a textual inversion"),
        ([tmp_path / "w.safetensors"], "brings the word 'cat'"), ([f"{three[0]}=1000"], "scale"),
        ([tmp_path / "nothing.safetensors"], "nothing.safetensors"), ([other], "weights.safetensors: the LoRA changes unet."),
        ([three[0], "--out", tmp_path / "full"], "is no folder of a LoRA alone"),
        ([three[0], "--whole", "--out", tmp_path / "full"], "is not a drivegen model"),
    ):  # fmt: skip
        target = [] if "--out" in given else ["--out", tmp_path / "new"]
        out = run(*given, "--model", base, *target)
        assert out.exit_code == 2, out.output
        assert said in " ".join(out.output.split()), out.output
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
