"""Textual inversions as they lie around: what each layout teaches, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from drivegen import words
from drivegen.support.errors import InputError
from tests.hostile import Hostile
from tests.tiny_models import WIDTH, tiny_backbone

VECTORS = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))


def a1111(name: Any = "rainy", param: Any = None) -> dict[str, Any]:
    """A file as AUTOMATIC1111's interface saves it."""
    param = {"*": VECTORS} if param is None else param
    return {
        "string_to_token": {"*": 265}, "string_to_param": param, "name": name, "step": 500, "sd_checkpoint": "ab12",
        "sd_checkpoint_name": "v1-5",
    }  # fmt: skip


LAYOUTS = (
    ("learned_embeds.safetensors", {"<cat>": VECTORS}, {"<cat>": VECTORS}),
    ("learned_embeds.bin", {"<cat>": VECTORS[0]}, {"<cat>": VECTORS[:1]}),
    ("two.bin", {"<a>": VECTORS[0].half(), "<b>": VECTORS.half()}, {"<a>": VECTORS[:1].half(), "<b>": VECTORS.half()}),
    ("old.pt", a1111(param=nn.ParameterDict({"*": nn.Parameter(VECTORS)})), {"rainy": VECTORS}),
    ("new.pt", a1111(), {"rainy": VECTORS}),
    ("bad hands.pt", a1111(None), {"bad hands": VECTORS}),
    ("comfy.safetensors", {"emb_params": VECTORS}, {"comfy": VECTORS}),
    ("first.safetensors", {"clip_l": VECTORS}, {"first": VECTORS}),
    ("alone.bin", VECTORS, {"alone": VECTORS}),
)


def write(path: Path, values: Any) -> Path:
    if path.suffix == ".safetensors":
        save_file({key: value.clone().contiguous() for key, value in values.items()}, path)
    else:
        torch.save(values, path)
    return path


@pytest.mark.parametrize(("name", "values", "expected"), LAYOUTS, ids=[name for name, _, _ in LAYOUTS])
def test_every_layout_says_its_words(name: str, values: Any, expected: dict[str, torch.Tensor], tmp_path: Path) -> None:
    found = words.read(write(tmp_path / name, values))
    assert list(found.words) == list(expected)
    assert all(torch.equal(found.words[word], vectors.float()) for word, vectors in expected.items())
    if name.startswith("learned"):
        assert words.find(tmp_path) == tmp_path / name


def test_files_are_those_of_diffusers(tmp_path: Path) -> None:
    from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin, load_textual_inversion_state_dicts

    for name, values, expected in LAYOUTS[:2] + LAYOUTS[4:5]:
        path = write(tmp_path / name, values)
        states = load_textual_inversion_state_dicts([str(path)])
        tokenizer: Any = type("Empty", (), {"get_vocab": lambda self: {}})()
        theirs = TextualInversionLoaderMixin._retrieve_tokens_and_embeddings([None], states, tokenizer)
        assert theirs[0] == list(expected)
        assert torch.equal(theirs[1][0].reshape(-1, WIDTH), words.read(path).words[theirs[0][0]])


def test_written_is_read(tmp_path: Path) -> None:
    path = words.save({"<a>": VECTORS, "<b>": VECTORS[:1]}, tmp_path / "new")
    found = words.read(tmp_path / "new")
    assert torch.equal(found.words["<a>"], VECTORS)
    assert torch.equal(found.words["<b>"], VECTORS[:1])
    assert words.find(tmp_path / "new") == path
    words.save({"<a>": VECTORS}, tmp_path / "half", torch.float16)
    assert torch.equal(words.read(tmp_path / "half", "wet").words["wet"], VECTORS.half().float())


WRONG = (
    ("second.safetensors", {"clip_g": VECTORS}, "of SDXL's second text encoder; a file of those has clip_l too"),
    ("more.safetensors", {"clip_l": VECTORS, "clip_g": VECTORS, "x": VECTORS}, "of SDXL's second text encoder"),
    ("kohya.safetensors", {"lora_unet_mid_block.lora_up.weight": VECTORS}, "a word's vectors"),
    ("whole.safetensors", {f"layer{i}": VECTORS for i in range(1001)}, "words are few"),
    ("kernel.safetensors", {"<a>": torch.zeros(2, 2, 3, 3)}, r"a tensor of shape \(2, 2, 3, 3\)"),
    ("whole_numbers.safetensors", {"<a>": torch.zeros(2, 2, dtype=torch.int64)}, "a word's vectors"),
    ("nan.safetensors", {"<a>": VECTORS * torch.nan}, "NaN"),
    ("two.pt", a1111(param={"*": VECTORS, "+": VECTORS}), "one word"),
    ("text.pt", a1111(param={"*": "x"}), "is str"),
    ("list.pt", [VECTORS], "holds list"),
    ("empty.pt", {}, "no file of textual inversion"),
    ("numbers.pt", {3: VECTORS}, "no word for prompts"),
    ("picture.png", VECTORS, "these end in"),
    ("long.bin", {"x" * 500: VECTORS}, "100 characters"),
)


@pytest.mark.parametrize(("name", "values", "said"), WRONG, ids=[name for name, _, _ in WRONG])
def test_what_is_refused(name: str, values: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        words.read(write(tmp_path / name, values))


def test_words_for_one_text_encoder_are_not_those_of_two(tmp_path: Path) -> None:
    two, one = tiny_backbone(family="sdxl"), tiny_backbone()
    widths = [tower.width for tower in two.texts]
    first, second = ({"<a>": torch.ones(2, width)} for width in widths)
    with pytest.raises(InputError, match=r"for models of one text encoder, .* and this one is of "):
        words.teach(two, first)
    with pytest.raises(InputError, match=r"is for SDXL: it has vectors of two text encoders .* and this one is of "):
        words.teach(one, first, second)
    with pytest.raises(InputError, match="learned for another text encoder"):
        words.teach(two, first, {"<a>": torch.ones(2, 7)})
    assert not words.known(two)
    words.teach(two, first, second)
    assert words.known(two) == {"<a>": 2}
    words.forget(two, ["<a>"])
    assert not words.known(two)
    with pytest.raises(InputError, match="there is no word '<a>'"):
        words.forget(two, ["<a>"])
    found = words.read(write(tmp_path / "rainy.safetensors", {"clip_l": first["<a>"], "clip_g": second["<a>"]}), "wet")
    assert list(found.words) == list(found.second) == ["wet"]


def test_nothing_of_a_file_runs_and_what_is_cut_or_gone_is_said(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save(a1111(name=Hostile(mark)), tmp_path / "hostile.pt")
    (tmp_path / "cut.pt").write_bytes((write(tmp_path / "fine.pt", a1111())).read_bytes()[:400])
    for name in ("hostile.pt", "cut.pt"):
        with pytest.raises(InputError, match="not a file of plain tensors"):
            words.read(tmp_path / name)
    assert not mark.exists()
    circle: dict[str, Any] = {}
    circle["string_to_param"] = circle
    torch.save(circle, tmp_path / "circle.pt")
    with pytest.raises(InputError, match="nested too deeply"):
        words.read(tmp_path / "circle.pt")
    with pytest.raises(InputError, match="there is no file"):
        words.read(tmp_path / "gone.pt")
    with pytest.raises(InputError, match="holds no textual inversion"):
        words.read(tmp_path)
    write(tmp_path / "two.bin", {"<a>": VECTORS, "<b>": VECTORS})
    with pytest.raises(InputError, match="cannot all be called"):
        words.read(tmp_path / "two.bin", "c")
