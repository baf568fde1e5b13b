"""Words that are put into a loaded model and taken out again, and what is recorded of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from drivegen import words
from drivegen.pipeline.pipeline import Pipeline
from drivegen.sampling import Sampling
from drivegen.saved.model import Model
from drivegen.support.errors import InputError
from drivegen.support.files import sha256
from drivegen.testing.frames import frame
from tests.tiny_hosts import SIZE, tiny_host
from tests.tiny_models import WIDTH

SCENE = frame(views=2)


def pipeline() -> Pipeline:
    return Pipeline(Model(tiny_host(), Sampling(sampler="ddim", steps=1, guidance=2.0), SIZE))


def pictures(pipe: Pipeline, prompt: str) -> np.ndarray:
    return np.stack(list(pipe(SCENE, prompt=prompt, seed=1, output_type="latent").values()))


def test_words_come_and_go_and_are_recorded(tmp_path: Path) -> None:
    vectors = torch.randn(2, WIDTH)
    file = words.save({"<cat>": vectors}, tmp_path)
    pipe = pipeline()
    before = pictures(pipe, "a <cat>")
    assert pipe.load_embedding(tmp_path) == ("<cat>",)
    assert pipe.load_embedding(file, "rainy") == ("rainy",)
    assert pipe.words == {"<cat>": 2, "rainy": 2}
    assert pipe.extensions.sha256 == {"<cat>": sha256(file), "rainy": sha256(file)}
    after = pictures(pipe, "a <cat>")
    assert not np.array_equal(before, after)
    used = pipe(SCENE, prompt="rainy", seed=1).settings
    assert used.to_dict()["words"] == {"<cat>": 2, "rainy": 2}
    assert np.array_equal(pictures(pipe, "a <cat>"), after)
    assert pipe(SCENE, used, seed=1).settings.words == used.words
    pipe.unload_embedding("rainy")
    assert pipe.words == {"<cat>": 2}
    assert np.array_equal(pictures(pipe, "a <cat>"), after)
    pipe.unload_embedding()
    assert pipe.words == {}
    assert np.array_equal(pictures(pipe, "a <cat>"), before)
    assert "words" not in pipe(SCENE, seed=1).settings.to_dict()


def test_misfits_are_refused_and_change_nothing(tmp_path: Path) -> None:
    pipe = pipeline()
    file = words.save({"<cat>": torch.randn(2, WIDTH)}, tmp_path / "fine")
    wide = words.save({"<dog>": torch.randn(2, 768)}, tmp_path / "wide")
    save_file({"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280)}, tmp_path / "xl.safetensors")
    pipe.load_embedding(file)
    for source, word, said in (
        (wide, None, "another text encoder: its vectors have 768"), (tmp_path / "xl.safetensors", None, "is for SDXL"),
        (file, None, "already"), (file, 7, "word of an embedding"), (7, None, "source of an embedding"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            pipe.load_embedding(source, word)
        assert pipe.words == {"<cat>": 2}
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    matrices = {f"unet.{layer}.lora_A.weight": torch.ones(2, 64), f"unet.{layer}.lora_B.weight": torch.ones(64, 2)}
    save_file(matrices, tmp_path / "some.safetensors")
    for load in (pipe.load_embedding, pipe.load_tuner):
        with pytest.raises(InputError, match="is a file of LoRA; add it with --lora"):
            load(tmp_path / "some.safetensors")
    for load in (pipe.load_lora, pipe.load_tuner):
        with pytest.raises(InputError, match="is a textual inversion; add it with --embedding"):
            load(file)
    for word in ("<dog>", 7):
        with pytest.raises(InputError, match="there are <cat>"):
            pipe.unload_embedding(word)
    plan = next(pipe.plans(SCENE, pipe.settings(prompt="a <cat>")))
    pipe.load_embedding(file, "other")
    pipe.unload_embedding("<cat>")
    with pytest.raises(InputError, match="taken out since"):
        pipe.run(plan)
