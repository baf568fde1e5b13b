"""Words beside a tokenizer's: what prompts with them say, and that all others say what they did."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from drivegen.backbones.words import WordTable
from drivegen.catalog import registry
from drivegen.host import batch as data
from drivegen.host.host import Host
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame
from drivegen.tuners.textual_inversion import TextualInversion
from tests.tiny_models import WIDTH, tiny_backbone

VECTORS = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))


def host_with_words(**words: torch.Tensor) -> Host:
    host = Host(tiny_backbone(), {"text": registry.load("text")(), "pooled": registry.load("pooled_text")()}).eval()
    host.backbone.words.add(host.backbone.text_encoder, {f"<{name}>": vectors for name, vectors in words.items()})
    return host


def states(host: Host, *prompts: str, weighted: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """What the two text plugins append and add for prompts of as many scenes of two views."""
    plugins = {name: host.plugin(name) for name in host.plugins}
    scenes = [
        data.prepare(frame(seed=i, views=2), plugins, {n: {"prompt": p, "weighted": weighted} for n in plugins})
        for i, p in enumerate(prompts)
    ]
    made = data.collate(scenes, plugins, views=2)
    with torch.no_grad():
        signals = host.encode(made.arrays, made.grid).signals
    return signals["text"].tokens, signals["pooled"].data


def test_other_prompts_are_as_before_bit_for_bit_and_so_is_the_model_without_words() -> None:
    plain, taught = host_with_words(), host_with_words(cat=VECTORS)
    text = "a cat, wet"
    assert all(map(torch.equal, states(plain, text, "cat>"), states(taught, text, "cat>")))
    assert not torch.equal(states(plain, "a <cat>")[0], states(taught, "a <cat>")[0])
    assert plain.backbone.text_encoder.state_dict().keys() == taught.backbone.text_encoder.state_dict().keys()
    taught.backbone.words.remove()
    assert all(map(torch.equal, states(plain, "a <cat>"), states(taught, "a <cat>")))
    assert plain.state_dict().keys() == taught.state_dict().keys()
    assert not taught.backbone.words.table.words
    hooks = [m for m in taught.backbone.text_encoder.modules() if m._forward_pre_hooks]
    assert not hooks


@pytest.mark.parametrize("prompt", ["a <cat>", "a<cat>b", "<CAT>, <cat>", "<dog> and <cat>"])
def test_states_are_those_of_diffusers(prompt: str, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    host, other = host_with_words(cat=VECTORS, dog=VECTORS[:1] * 2), tiny_backbone()
    for name, vectors in (("cat", VECTORS), ("dog", VECTORS[:1] * 2)):
        save_file({f"<{name}>": vectors.contiguous()}, tmp_path / f"{name}.safetensors")
    pipe = StableDiffusionPipeline(
        vae=other.vae, text_encoder=other.text_encoder, tokenizer=other.tokenizer, unet=other.unet, scheduler=other.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    for name in ("cat", "dog"):
        pipe.load_textual_inversion(str(tmp_path / f"{name}.safetensors"))
    expected, _ = pipe.encode_prompt(prompt.lower(), "cpu", 1, False)
    assert torch.equal(states(host, prompt)[0], expected)


def test_the_end_of_a_prompt_is_found_behind_new_words() -> None:
    """A text encoder whose configuration says eos_token_id 2 takes the highest id for the end."""
    host = host_with_words(cat=VECTORS)
    before = states(host, "a <cat> b")[1]
    host.backbone.text_encoder.config.eos_token_id = 2
    for module in host.backbone.text_encoder.modules():
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = 2
    assert torch.equal(states(host, "a <cat> b")[1], before)


def test_words_are_found_whole_the_longest_first_and_in_weighted_prompts_too() -> None:
    table = WordTable()
    for word, count in (("dog", 1), ("dog two", 2), ("<c>", 1)):
        table.add(word, count)
    tokenizer = tiny_backbone().tokenizer
    plain = tokenizer("hotdogs", add_special_tokens=False)["input_ids"]
    assert table.tokenize(tokenizer, "hotdogs") == plain
    assert [i for i in table.tokenize(tokenizer, "a DOG two, dog x<c>y") if i < 0] == [-2, -3, -1, -4]
    assert table.tokenize(tokenizer, "<c>") == [-4]
    assert table.decode(tokenizer, table.tokenize(tokenizer, "<c> dog two")) == "<c> dog two"
    host = host_with_words(cat=VECTORS)
    assert torch.allclose(states(host, "a <cat>", weighted=True)[0], states(host, "a <cat>")[0], atol=1e-6)
    assert not torch.equal(states(host, "a (<cat>:1.5)", weighted=True)[0], states(host, "a <cat>")[0])


def test_copies_have_words_of_their_own() -> None:
    host = host_with_words(cat=VECTORS)
    for twin in (copy.deepcopy(host), pickle.loads(pickle.dumps(host))):
        assert torch.equal(states(twin, "a <cat>")[0], states(host, "a <cat>")[0])
        twin.backbone.words["<cat>"].data.zero_()
        twin.backbone.words.add(twin.backbone.text_encoder, {"<x>": VECTORS})
        assert not torch.equal(states(twin, "a <cat>")[0], states(host, "a <cat>")[0])
    assert list(host.backbone.words.table) == ["<cat>"]


def test_vectors_learn_and_nothing_else_moves() -> None:
    host = host_with_words()
    words = host.backbone.words
    words.add(host.backbone.text_encoder, {"<new>": VECTORS}, trainable=True)
    plugin = host.plugin("text")
    ids = torch.from_numpy(plugin.prepare(frame(), {"prompt": "a <new>"})["ids"])[None]
    host.backbone.text_encoder(ids).last_hidden_state.square().sum().backward()
    assert words["<new>"].grad is not None
    assert words["<new>"].grad.abs().sum(1).gt(0).all()
    assert all(p.grad is None for p in host.backbone.text_encoder.parameters())


def test_what_cannot_be_a_word_is_refused_and_nothing_is_added() -> None:
    host = host_with_words(cat=VECTORS)
    words, encoder = host.backbone.words, host.backbone.text_encoder
    for word, vectors, said in (
        ("<cat>", VECTORS, "already"), ("<Cat>", VECTORS, "already"), (" x", VECTORS, "space"), ("", VECTORS, "no word"),
        ("a\nb", VECTORS, "printable"), ("x" * 200, VECTORS, "100 characters"), ("x", VECTORS[:, :5], "another text encoder"),
        ("x", torch.zeros(15, WIDTH), "1 to 14 vectors"), ("x", VECTORS[:0], "1 to 14"), ("x", VECTORS[0], "vectors"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            words.add(encoder, {"<fine>": VECTORS, word: vectors})
        assert list(words.table) == ["<cat>"]
        assert len(words.vectors) == 1
    with pytest.raises(InputError, match="did you mean '<cat>'"):
        words.remove(["<cta>"])
    ids = words.table.tokenize(host.backbone.tokenizer, "<cat>")
    words.remove(["<cat>"])
    words.add(encoder, {"<dog>": VECTORS})
    with pytest.raises(InputError, match="taken out since"):
        encoder(torch.tensor([[host.backbone.tokenizer.bos_token_id, *ids, host.backbone.tokenizer.eos_token_id]]))


@pytest.mark.parametrize("kind", ["text", "pooled_text"])
@pytest.mark.parametrize("of_a_tuner", [False, True])
def test_a_prompt_outlives_no_word(kind: str, of_a_tuner: bool) -> None:
    """Also where no word is left, and the text encoder looks none up."""
    host = Host(tiny_backbone(), {"text": registry.load(kind)()}).eval()
    if of_a_tuner:
        host.add_tuner("word", TextualInversion("<cat>", initial="ab", vectors=2))
    else:
        host.backbone.words.add(host.backbone.text_encoder, {"<cat>": VECTORS})
    plugins = {"text": host.plugin("text")}
    scenes = [data.prepare(frame(seed=i, views=2), plugins, {"text": {"prompt": "a <cat>"}}) for i in range(2)]
    made = data.collate(scenes, plugins, views=2)
    host.encode(made.arrays, made.grid)
    if of_a_tuner:
        host.remove_tuner("word")
    else:
        host.backbone.words.remove()
    with pytest.raises(InputError, match="a word that has been taken out since; give it again"):
        host.encode(made.arrays, made.grid)
