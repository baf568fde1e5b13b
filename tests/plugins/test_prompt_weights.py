"""Prompt weights, long prompts and clip_skip: equal to a plain computation of the field's algorithm, and to diffusers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from drivegen.catalog import registry
from drivegen.host import batch as batches
from drivegen.host.host import Host
from drivegen.pipeline.pipeline import Pipeline
from drivegen.plugin import Plugin
from drivegen.plugin.prompt_weights import MAX_CHARACTERS, parse, words
from drivegen.plugin.prompts import PromptReader
from drivegen.sampling import Sampling, build_scheduler, camera_generators, draw_noise
from drivegen.saved.model import Model
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame
from tests.tiny_models import randomize, tiny_backbone

SCENE = frame(0, views=2)
CHUNK = 14
"""Tokens of the tiny tokenizer's chunk, which has 16 with its ends."""


def deep_backbone():
    """A text encoder of three layers, for clip_skip."""
    from transformers import CLIPTextModel

    backbone = tiny_backbone()
    settings = {**backbone.text_encoder.config.to_dict(), "num_hidden_layers": 3}
    backbone.text_encoder = randomize(CLIPTextModel(type(backbone.text_encoder.config)(**settings)), 8).eval()
    return backbone


@pytest.fixture(scope="module")
def host() -> Host:
    return Host(deep_backbone(), {"text": registry.load("text")(), "pooled": registry.load("pooled_text")()}).eval()


@torch.no_grad()
def tokens(host: Host, inputs: Sequence[dict[str, Any]], keep: Any = True, name: str = "text") -> Tensor:
    plugins = {name: host.plugin(name)}
    prepared = [batches.prepare(SCENE, plugins, {name: given}) for given in inputs]
    batch = batches.collate(prepared, plugins, 2)
    signal = host.encode_one(name, batch.arrays[name], batch.grid, keep)
    return signal.tokens if name == "text" else signal.data


def plainly(host: Host, pieces: Sequence[tuple[str, float]], chunks: int | None = None, skip: int = 0) -> Tensor:
    """Chunks of 75 (here 14) between the ends, states times weights, each chunk's mean brought back: (C·L, D)."""
    tokenizer, encoder = host.backbone.tokenizer, host.backbone.text_encoder
    pairs = [(token, w) for text, w in pieces for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    rows = [pairs[i : i + CHUNK] for i in range(0, len(pairs), CHUNK)] or [[]]
    rows += [[]] * ((chunks or len(rows)) - len(rows))
    out = []
    for row in rows:
        ids = [tokenizer.bos_token_id, *(token for token, _ in row), *[tokenizer.eos_token_id] * (CHUNK + 1 - len(row))]
        weights = torch.tensor([1.0, *(w for _, w in row), *[1.0] * (CHUNK + 1 - len(row))])
        z = encoder(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1 - skip]
        z = next(m for n, m in encoder.named_modules() if n.endswith("final_layer_norm"))(z)[0]
        mean = z.mean()
        z = z * weights[:, None]
        out.append(z * (mean / z.mean()))
    return torch.cat(out)


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


LONG = "a narrow street in the rain at night"

CASES = [
    ("plain", [("plain", 1.0)]),
    ("a (red:1.5) car", [("a ", 1.0), ("red", 1.5), (" car", 1.0)]),
    ("((a)) [b] c", [("a", 1.1 * 1.1), (" ", 1.0), ("b", 1 / 1.1), (" c", 1.0)]),
    ("((a:1.3) b:0.5)", [("a", 1.3 * 0.5), (" b", 0.5)]),
    (r"\(a\) \[b\] \\c", [(r"(a) [b] \c", 1.0)]),
    ("(a", [("a", 1.1)]), ("[a", [("a", 1 / 1.1)]), ("a) b]", [("a) b]", 1.0)]), ("a: b:1.2) c", [("a: b:1.2) c", 1.0)]),
    ("(a:-1.5)", [("a", -1.5)]), ("(a: .5 )", [("a", 0.5)]), ("", [("", 1.0)]), ("()", [("", 1.0)]),
    ("(a [b) c]", [("a ", 1.1), ("b", 1.1 / 1.1), (" c", 1 / 1.1)]),
    (f"({LONG}:1.2), {LONG}", [(LONG, 1.2), (f", {LONG}", 1.0)]),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "pieces"), CASES, ids=[str(i) for i in range(len(CASES))])
def test_weights_equal_a_plain_computation(host, prompt: str, pieces: list[tuple[str, float]]) -> None:
    found = [(part.text, part.weight) for part in parse(prompt)]
    assert [text for text, _ in found] == [text for text, _ in pieces]
    assert np.allclose([w for _, w in found], [w for _, w in pieces])
    assert words(prompt) == "".join(text for text, _ in pieces)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = tokens(host, [{"prompt": prompt, "weighted": True}])[0]
    close(ours, plainly(host, pieces))


def test_prompts_of_several_lengths_are_filled_on_the_right(host) -> None:
    """Prompt, negative prompt and the frames of a batch each have their own number of chunks."""
    long, short = {"prompt": LONG, "weighted": True}, {"prompt": "(fog:1.4)", "negative": f"{LONG}, {LONG}", "weighted": True}
    both = tokens(host, [long, short])
    close(both[0], plainly(host, [(LONG, 1.0)], 5))
    close(both[1], plainly(host, [("fog", 1.4)], 5))
    null = tokens(host, [long, short], keep=False)
    close(null[0], plainly(host, [("", 1.0)], 5))
    close(null[1], plainly(host, [(f"{LONG}, {LONG}", 1.0)], 5))


@pytest.mark.parametrize("prompt", ["", "a", "night", "a prompt of far more tokens than fit into it", "x" * 14, "x" * 15])
@pytest.mark.filterwarnings("ignore:the prompt")
def test_ids_are_the_tokenizers_and_nothing_is_left_in_it(host, prompt: str) -> None:
    """A setting that was left there, threads would take from each other."""
    tokenizer = host.backbone.tokenizer
    reader = PromptReader(tokenizer)
    expected = tokenizer(prompt, truncation=True, max_length=16, padding="max_length")["input_ids"]
    assert reader.ids(prompt).tolist() == expected
    assert reader.ids(prompt).tolist() == expected
    assert tokenizer.backend_tokenizer.truncation is None
    assert tokenizer.backend_tokenizer.padding is None


def test_break_begins_a_chunk(host) -> None:
    ours = tokens(host, [{"prompt": "(a BREAK b:1.3) BREAKS", "weighted": True}])[0]
    close(ours, torch.cat([plainly(host, [("a", 1.3)]), plainly(host, [("b", 1.3), (" BREAKS", 1.0)])]))
    assert words("a BREAK b") == "a b"


def test_off_everything_is_literal(host) -> None:
    prompt = "(a:1.3) [b]"
    close(tokens(host, [{"prompt": prompt}])[0], plainly(host, [(prompt, 1.0)]))
    with pytest.warns(UserWarning, match=f"the prompt '.* has {len(LONG.replace(' ', '')) + 2} tokens and 16 fit"):
        assert tokens(host, [{"prompt": LONG}]).shape[1] == CHUNK + 2


def test_the_option_is_the_default_of_every_call() -> None:
    plugin = registry.load("text")(weighted=True, clip_skip=1)
    host = Host(deep_backbone(), {"text": plugin}).eval()
    assert plugin.config == {"template": "{description}", "weighted": True, "clip_skip": 1}
    close(tokens(host, [{"prompt": "(a:1.3)"}])[0], plainly(host, [("a", 1.3)], skip=1))
    close(tokens(host, [{"prompt": "(a:1.3)", "weighted": False, "clip_skip": 0}])[0], plainly(host, [("(a:1.3)", 1.0)]))
    assert plugin.precompute({"ids": torch.zeros(1), "weights": torch.ones(1)}) is None


def test_an_option_of_the_call_goes_to_the_plugins_that_take_it(host) -> None:
    pipe = Pipeline(Model(host, Sampling(sampler="ddim", steps=1, guidance=1.0), (48, 64)))
    said = {"prompt": "(a:1.5) b", "weighted": True}

    def views(**options: Any) -> Tensor:
        made = pipe(SCENE, output_type="latent", **options)
        assert made.settings.prompt_weights == options.get("prompt_weights")
        return torch.stack([made[channel] for channel in made])

    both = views(prompt="(a:1.5) b", prompt_weights=True, clip_skip=1)
    assert torch.equal(both, views(inputs={"text": {**said, "clip_skip": 1}, "pooled": said}))
    assert torch.equal(views(prompt="(a:1.5) b"), views(prompt="(a:1.5) b", inputs={"text": {"weighted": False}}))
    assert torch.equal(
        views(prompt="a", inputs={"text": "(a:1.5) b", "pooled": "(a:1.5) b"}, prompt_weights=True, clip_skip=1), both
    )
    assert not torch.equal(views(prompt="(a:1.5) b"), both)
    bare = Pipeline(Model(Host(tiny_backbone(), {}), Sampling(steps=1), (48, 64)))
    for options in ({"prompt_weights": True}, {"clip_skip": 1}):
        with pytest.raises(InputError, match=r"is given, but no plugin of this model takes one; it has none"):
            bare(SCENE, **options)
    for wrong in ({"prompt_weights": "yes"}, {"clip_skip": -1}, {"clip_skip": 1.5}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            pipe(SCENE, **wrong)


def test_one_vector_is_of_the_words(host) -> None:
    """Weights are of tokens: the pooled prompt is that of the same words without them."""
    plain = tokens(host, [{"prompt": "a red car"}], name="pooled")
    assert torch.equal(tokens(host, [{"prompt": "a (red:1.5) [car]", "weighted": True}], name="pooled"), plain)
    assert not torch.equal(tokens(host, [{"prompt": "a (red:1.5) [car]"}], name="pooled"), plain) or not plain.any()


@pytest.mark.parametrize("skip", [0, 1, 2, 3])
def test_clip_skip_equals_diffusers_pipeline(skip: int) -> None:
    b = deep_backbone()
    host = Host(b, {"text": registry.load("text")()}).eval()
    pipe = Pipeline(Model(host, Sampling(sampler="ddim", steps=2, guidance=3.0), (48, 64)))
    views = pipe(SCENE, prompt="night", negative_prompt="fog", clip_skip=skip, output_type="latent")
    theirs = StableDiffusionPipeline(
        b.vae, b.text_encoder, b.tokenizer, b.unet, build_scheduler("ddim", b.scheduler, 2), None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    theirs.set_progress_bar_config(disable=True)
    b.text_encoder.__dict__["text_model"] = b.text_encoder  # where diffusers looks for the norm; transformers 5 has it one up
    made = theirs(
        ["night"] * 2, negative_prompt=["fog"] * 2, height=48, width=64, num_inference_steps=2, guidance_scale=3.0,
        output_type="latent", clip_skip=skip, latents=draw_noise(camera_generators(0, SCENE.channels), (4, 12, 16)),
    ).images  # fmt: skip
    close(torch.stack([views[channel] for channel in views]), made)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"clip_skip": 4}, "clip_skip 4.0 must be a whole number from 0 to 3"),
        ({"clip_skip": 1.5}, "clip_skip 1.5"), ({"clip_skip": -1}, "clip_skip -1"), ({"weighted": 1}, "must be true or false"),
        ({"prompt": "(a:1.2.3)", "weighted": True}, "the weight '1.2.3'"), ({"prompt": "(a:1000)", "weighted": True}, "'1000'"),
        ({"prompt": "(" * 200 + "a", "weighted": True}, "brackets in a prompt multiply"),
        ({"prompt": "a" * 1_000_000, "weighted": True}, f"1000000 characters; with weights at most {MAX_CHARACTERS}"),
        ({"prompt": ["a", "b"]}, "must be text"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(host, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        tokens(host, [given])


@pytest.mark.parametrize(
    "prompt", ["a" * 1_000_000, "night " + " " * 1_000_000 + "rain", "(" * 500_000, "\U0001f600" * 300_000]
)
def test_a_description_of_megabytes_is_cut_before_it_is_read(host, prompt: str, monkeypatch) -> None:
    read: list[int] = []
    tokenizer = host.backbone.tokenizer
    encode = type(tokenizer).__call__

    def counted(self, text, **options):
        read.append(len(text))
        return encode(self, text, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", counted)
    with pytest.warns(UserWarning, match="characters; all after the first"):
        tokens(host, [{"prompt": prompt}])
    assert max(read) <= MAX_CHARACTERS


@pytest.mark.parametrize(
    "template",
    ["{description:>100000000}", "{description!r}", "{description.__class__}", "{description[0]}", "{}", "{0}", "{frame}", "{",
     "}", "{location:{description}}", 7],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["text", "pooled_text"])
def test_templates_are_plain_replacement(kind: str, template: Any) -> None:
    with pytest.raises(InputError, match=r"may use \{description\} and \{location\} only"):
        registry.load(kind)(template)


def test_templates_fill_in_what_the_frame_says(host) -> None:
    plugin: Plugin = registry.load("text")("{{at}} {location}: {description}")
    Host(tiny_backbone(), {"text": plugin})
    ids = plugin.prepare(SCENE, {"prompt": "{x}"})["ids"]
    assert np.array_equal(ids, PromptReader(host.backbone.tokenizer).ids(f"{{at}} {SCENE.location}: {{x}}"))
