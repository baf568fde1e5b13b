"""Words that a tuner teaches: in prompts, with weights, several at once, beside loaded ones; what cannot be a word."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from drivegen.catalog import registry
from drivegen.host.host import Host
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame
from drivegen.testing.models import randomize, tiny_backbone, tiny_tokenizer
from drivegen.tuners.textual_inversion import TextualInversion

TOKENIZER = tiny_tokenizer()


def host_with(*words: TextualInversion) -> Host:
    host = Host(tiny_backbone(), {"text": registry.load("text")()}).eval()
    for i, word in enumerate(words):
        host.add_tuner(f"word{i}", word)
        randomize(word, i)
    return host


def read(text: Any, prompt: str, **given: Any) -> dict[str, np.ndarray]:
    """What a text plugin makes of a prompt."""
    return text.prepare(frame(0, 1), {"prompt": prompt, **given})


def ids_of(text: Any, prompt: str) -> np.ndarray:
    return read(text, prompt)["ids"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("x", "ab"), "is one of the tokenizer's own; choose a new one, such as <x>"),
        (("", "ab"), "is no word for prompts"),
        (("<a>", ""), "initial = '' has no tokens"),
        (("<a>", "ab", 0), "vectors = 0 is out of range; from 1 to 75"),
        (("<a>", "ab", 76), "vectors = 76 is out of range"),
        (("<There>", "ab"), "there is a word '<There>' already"),
    ],
)
def test_what_cannot_be_a_word(options: tuple, said: str) -> None:
    host = host_with(TextualInversion("<there>", "ab"))
    with pytest.raises(InputError, match=said):
        host.add_tuner("another", TextualInversion(*options))
    assert list(host.backbone.words.table) == ["<there>"]
    assert list(host.tuners) == ["word0"]


def test_two_words_beside_a_loaded_one_and_their_pooled_state() -> None:
    """The state at the end of a prompt is that of its end, also where a text encoder looks for the highest id."""
    a, b = TextualInversion("<a>", "x", 2), TextualInversion("<b>", "yz")
    host = host_with(a, b)
    text, encoder, words = host.plugin("text"), host.backbone.text_encoder, host.backbone.words
    loaded = torch.randn(1, 32)
    words.add(encoder, {"<c>": loaded})
    ids = torch.from_numpy(ids_of(text, "o <b> n <c> <a>"))[None]
    table = encoder.get_input_embeddings().weight
    with torch.no_grad():
        wanted = table[ids.clamp(min=0)]
        wanted[0, 2], wanted[0, 4], wanted[0, 5:7] = b.vectors[0], loaded[0], a.vectors
        handle = encoder.get_input_embeddings().register_forward_hook(lambda *_: wanted)
        by_hand = encoder(ids.clamp(min=0)).last_hidden_state
        handle.remove()
        found = encoder(ids)
        assert torch.equal(found.last_hidden_state, by_hand)
        assert torch.equal(found.pooler_output[0], by_hand[0, 7])
        for module in encoder.modules():
            if hasattr(module, "eos_token_id"):
                module.eos_token_id = 2  # what configurations of Stable Diffusion say
        assert torch.equal(encoder(ids).pooler_output[0], by_hand[0, 7])
    host.remove_tuner("word0")
    assert (ids_of(text, "<a>") >= 0).all()
    with pytest.raises(InputError, match="the word '<b>' is a tuner's"):
        words.remove(["<b>"])
    words.remove()
    assert list(words.table) == ["<b>"]


def test_a_word_that_comes_back_has_its_ids() -> None:
    host = host_with(TextualInversion("<a>", "x", 2), TextualInversion("<b>", "y"))
    before = ids_of(host.plugin("text"), "<b> <a>")
    with host.without_tuners():
        assert (ids_of(host.plugin("text"), "<b> <a>") >= 0).all()
    assert (ids_of(host.plugin("text"), "<b> <a>") == before).all()
    assert list(host.tuners) == ["word0", "word1"]


def test_words_have_weights_and_go_to_data_workers() -> None:
    host = host_with(TextualInversion("<a>", "x", 2))
    light = pickle.loads(pickle.dumps(host.plugin("text").weightless()))
    own = list(host.backbone.words.table.ids["<a>"])
    assert ids_of(light, "o <a>")[2:4].tolist() == own
    ids = read(light, "(o <a>:1.5) n", weighted=True)
    assert ids["ids"][2:4].tolist() == own
    assert ids["weights"][1:5].tolist() == [1.5, 1.5, 1.5, 1.0]


def test_a_word_may_begin_as_several() -> None:
    host = Host(tiny_backbone(), {})
    word = TextualInversion("<a>", "xy", 3)
    host.add_tuner("word", word)
    table = host.backbone.text_encoder.get_input_embeddings().weight
    x, y = TOKENIZER("xy", add_special_tokens=False)["input_ids"]
    assert torch.equal(word.vectors, table[[x, y, x]])
