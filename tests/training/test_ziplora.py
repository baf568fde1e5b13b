"""ZipLoRA in a run: a dataset and a prompt for each LoRA, resumed to the same bits, an ordinary LoRA as its result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drivegen import training
from drivegen.saved import tuners as saved
from drivegen.support.errors import InputError
from drivegen.training import config as configs
from drivegen.training.checkpoint_file import read
from drivegen.training.stages import ModelStage
from tests.training.test_train import same_bits
from tests.tuners.test_ziplora import made

FROZEN = ["train.unet=false", "plugins={}", "drop_groups=[]", "train.noise_offset=0", "train.accumulate=1"]


def merging(config: Path, city: Path, folder: Path) -> list[str]:
    """Two LoRAs for the tiny model, and a second dataset: the same city."""
    other = folder / "other_city"
    if not other.exists():
        other.symlink_to(city)
    files = [made(folder, "lora", seed, text_encoder=False) for seed in (0, 1)]
    return [
        *FROZEN, f"data.roots=['{city}', '{other}']", "data.prompt=['{description}, a tanker', 'winter in {location}']",
        "objective.kind=merging", "tuners.both.kind=ziplora", f"tuners.both.options={{loras: {files}}}", "train.images=6",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_run_is_resumed_to_the_same_bits_and_writes_a_lora(config: Path, city: Path, tmp_path: Path) -> None:
    given = merging(config, city, tmp_path)
    run, again = tmp_path / "run", tmp_path / "again"
    assert training.run(config, [*given, "train.steps=4", "train.checkpoint_every=2"]) == 0
    assert training.run(
        config, [*given, "train.steps=4", "train.checkpoint_every=2", f"output={again}"], resume=run / "step-00000002.ckpt"
    ) == 0  # fmt: skip
    same_bits(run / "last.ckpt", again / "last.ckpt")
    state = read(run / "last.ckpt")["state_dict"]
    assert all(".mergers." in name for name in state)
    assert not all(torch.equal(value, torch.ones_like(value)) for value in state.values())
    assert saved.read(run / "both").kind == "lora"
    assert "| sha256 of " in (run / "both" / "README.md").read_text()
    made(tmp_path, "lora", 1, text_encoder=False, alpha=0.5)
    with pytest.raises(InputError, match="other frozen parts than those here: tuner 'both'"):
        training.run(config, [*given, "train.steps=4", f"output={again}"], resume=run / "step-00000002.ckpt")


def test_batches_have_as_many_frames_of_each_dataset_with_its_prompt(config: Path, city: Path, tmp_path: Path) -> None:
    stage = ModelStage(configs.load(config, merging(config, city, tmp_path)))
    stage.data.setup()
    sources = stage.data.sources
    assert sources is not None
    assert {(ref.root, sources.frame(ref).description[:9]) for ref in sources.train} >= {(1, "winter in")}
    assert all(sources.frame(ref).description.endswith(", a tanker") for ref in sources.train if ref.root == 0)
    keys = {ref.key("text") for ref in sources.train}
    assert len(keys) == len(sources.train)  # the prompt is part of what a cache is asked by
    batch = next(iter(stage.data.train_dataloader()))
    assert batch.root.sum() * 2 == len(batch.root)
    told = training.describe(config, merging(config, city, tmp_path))
    assert "\n  tuner both: " in told


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["data.roots=[x]", "data.prompt=null"], "objective merging tells 2 datasets apart, and data.roots has 1"),
        (["data.prompt=[a]"], "prompt has 1 texts for 2 roots"),
        (["objective.kind=noise"], None),
        (["tuners.both.kind=lora", "tuners.both.options={rank: 1}"], "here none is made of parts"),
        (["tuners.both.options.loras=[one]"], "must be two files of LoRAs"),
        (["tuners.both.options.overlap=-1"], "overlap = -1 is out of range"),
    ],
)
def test_what_is_refused(config: Path, city: Path, tmp_path: Path, change: list[str], said: str | None) -> None:
    given = [*merging(config, city, tmp_path), *change]
    if said is None:
        assert training.describe(config, given)
        return
    with pytest.raises(InputError, match=said):
        training.describe(config, given)
