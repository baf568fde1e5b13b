"""Tuners in a run: folders, cards, previews, resuming, runs of before there were tuners, faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from drivegen import training
from drivegen.saved import tuners as saved
from drivegen.support.errors import InputError
from drivegen.training import config as configs
from drivegen.training.checkpoint_file import read

FROZEN = ["train.unet=false", "plugins={}", "drop_groups=[]", "train.noise_offset=0", "train.accumulate=1"]
WORD = [
    *FROZEN, "data.prompt='{description}, <tanker>'", "tuners.tanker.kind=textual_inversion",
    "tuners.tanker.options={word: <tanker>, initial: truck}",
]  # fmt: skip
LORA = [*FROZEN, "lora.rank=2", "lora.text_encoder=true"]


def leaves(state: dict[str, Any]) -> dict[str, Any]:
    ema = next(value for key, value in state["callbacks"].items() if "EMA" in key)
    return {**state["state_dict"], **{f"ema {name}": value for name, value in ema["average"].items()}}


@pytest.mark.slow
def test_a_run_writes_the_tuner_alone_with_its_card_and_previews_without_it(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert training.run(config, [*WORD, "train.steps=2", "preview={every: 2, frames: 1}", "sampling.steps=2"]) == 0
    assert sorted(path.name for path in (run / "tanker").iterdir()) == ["README.md", "learned_embeds.safetensors", "tuner.json"]
    assert not (run / "model").exists()
    about = saved.read(run / "tanker")
    assert (about.kind, about.options["word"]) == ("textual_inversion", "<tanker>")
    card = (run / "tanker" / "README.md").read_text()
    assert "| steps | 2 |" in card
    assert "| lr | 0.0001 |" in card
    from PIL import Image

    before, after = (Image.open(run / "previews" / f"step-0000000{step}.png") for step in (0, 2))
    assert before.height == after.height == 3 * 32 + 2 * 2  # recorded, without the tuner, with it
    (run / "tanker" / "learned_embeds.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match="is damaged or was changed"):
        saved.read(run / "tanker")


@pytest.mark.slow
def test_a_run_of_before_there_were_tuners_goes_on_to_the_same_bits(config: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert training.run(config, [*LORA, f"output={whole}"]) == 0
    old = tmp_path / "old.ckpt"
    state = read(whole / "step-00000003.ckpt")
    assert any(".B" in name for name in state["state_dict"])
    state["drivegen_config"] |= {"lora": state["drivegen_config"]["tuners"]["lora"]["options"]}
    del state["drivegen_config"]["tuners"]

    def as_before(name: str) -> str:
        network, _, rest = name.removeprefix("host.tuners.lora.changes.").partition("-")
        layer, _, part = rest.rpartition(".")
        layer = layer.replace("to_out-0", "to_out.0").replace("-", ".")
        return f"host.backbone.{network}.{layer}.lora_{part}.default.weight"

    ema = next(value for key, value in state["callbacks"].items() if "EMA" in key)
    ema["average"] = {as_before(name): value for name, value in ema["average"].items()}
    state["state_dict"] = {as_before(name): value for name, value in state["state_dict"].items()}
    del state["sealed"]
    state["frozen"]["unet"] = "of layers with other names"
    torch.save(state, old)
    assert training.run(config, [*LORA, f"output={tmp_path / 'again'}"], resume=old) == 0
    a, b = (leaves(read(folder / "last.ckpt")) for folder in (whole, tmp_path / "again"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (tmp_path / "again" / "lora" / "pytorch_lora_weights.safetensors").is_file()


def test_a_description_lists_layers_and_its_patterns_are_not_run(config: Path, tmp_path: Path) -> None:
    from drivegen.training.stages import ModelStage

    stage = ModelStage(configs.load(config, [*FROZEN, "tuners.mine.kind=lokr", "tuners.mine.options.targets='.*attn2.to_k'"]))
    folder = stage.write(tmp_path / "first", 1).parent
    options = saved.read(folder).options
    assert options["targets"] == [name for _, name, _ in stage.host.tuner("mine").sites]
    from drivegen.catalog import tuners
    from drivegen.host.host import Host
    from tests.tiny_models import tiny_backbone

    again = tuners.make("lokr", options)
    Host(tiny_backbone()).add_tuner("mine", again)
    again.load(folder)
    assert again.sites == stage.host.tuner("mine").sites
    about = json.loads((folder / "tuner.json").read_text())
    (folder / "tuner.json").write_text(json.dumps({**about, "options": {**about["options"], "targets": "(a+)+$"}}))
    with pytest.raises(InputError, match="targets is a pattern, and none from a file is run"):
        saved.read(folder)


def test_lora_is_short_for_a_tuner_of_that_name(config: Path) -> None:
    found = configs.load(config, LORA)
    assert found.lora is None
    assert found.tuners["lora"].kind == "lora"
    assert found.tuners["lora"].options["rank"] == 2


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["tuners.model.kind=lora"], "tuners.model would be written where the run keeps its own model"),
        (["tuners.a b.kind=lora"], "tuner name 'a b' must be an identifier"),
        (["tuners.lora.kind=lora", "lora.rank=2"], "lora is short for the tuner `lora`"),
        (["tuners.mine.kind=lora", "train.unet=true"], "mine trains inside frozen networks"),
        (["tuners.mine.kind=lroa"], "no tuner 'lroa'; .*did you mean 'lora'"),
        (["tuners.mine.kind=lora", "tuners.mine.options={rnak: 2}"], "tuners.mine.options.rnak = 2 is unknown"),
        (["tuners.mine.kind=lora", "tuners.mine.options={rank: 0}"], "tuners.mine.options: .*rank = 0"),
        (["tuners.mine.kind=lora", "tuners.mine.options={targets: nothing}"], "targets = 'nothing' matches no linear layer"),
        (["tuners.mine.kind=lokr", "tuners.mine.options={factor: 0}"], "factor = 0 is out of range"),
        (["tuners.word.kind=textual_inversion"], "tuners.word.options"),
        (["tuners.mine.kind=lora", "tuners.mine.weights=nowhere.safetensors"], "nowhere.safetensors"),
    ],
)  # fmt: skip
def test_what_is_refused_before_any_work(config: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        training.describe(config, [*FROZEN, *overrides])


def test_a_word_that_no_prompt_has_is_refused(config: Path) -> None:
    with pytest.raises(InputError, match=r"no prompt has the word '<tanker>'.* say it in data.prompt"):
        training.run(config, [*WORD, "data.prompt=null"])
    with pytest.raises(InputError, match=r"data.prompt = .* may name {description} and {location}, not {word}"):
        training.run(config, [*WORD, "data.prompt='<tanker> {word}'"])


def test_what_trains_is_told(config: Path) -> None:
    told = training.describe(config, [*WORD, "lora.rank=2"])
    assert "\n  tuner tanker: 32 of 32\n" in told
    assert "\n  tuner lora: " in told
    assert "\n  unet: 0 of " in told


def test_a_saved_tuner_is_gone_on_with(config: Path, tmp_path: Path) -> None:
    from drivegen.training.stages import ModelStage

    stage = ModelStage(configs.load(config, WORD))
    with torch.no_grad():
        stage.host.tuner("tanker").vectors.fill_(0.5)
    folder = stage.write(tmp_path / "first", 1).parent
    again = ModelStage(configs.load(config, [*WORD, f"tuners.tanker.weights={folder}"]))
    assert (again.host.tuner("tanker").vectors == 0.5).all()
    about = json.loads((folder / "tuner.json").read_text())
    assert about["training"]["lr"] == 1e-4
    assert about["base"]["sizes"]["cross_attention_dim"] == 32
