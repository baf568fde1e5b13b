"""Text: a prompt template over the frame's description, through the backbone's text encoder, as tokens or as one vector."""

from __future__ import annotations

import string
import warnings
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from drivegen.plugin import Arrays, Input, Now, Plugin, Signal, per_row, select_or_null
from drivegen.plugin.clip_layers import before_last_layers, final_norm
from drivegen.plugin.control_branch import zero
from drivegen.plugin.prompt_weights import MAX_CHARACTERS, Special, chunks, parse, weigh, words
from drivegen.scene import Frame
from drivegen.support.errors import InputError

_LONGEST = 77
"""Ids of a prompt that CLIP reads, its two ends among them."""


class Text(Plugin):
    """The prompt's tokens; null is the empty prompt, or the negative one.

    Args:
        template: text that may name {description} and {location}.
        weighted: read `(word:1.3)`, `[word]` and prompts of any length, in chunks (`drivegen.plugin.prompt_weights`).
        clip_skip: how many of the text encoder's last layers are left out, for the prompt and not for null, as in diffusers;
            None = 0.
    """

    takes_prompt: ClassVar[bool] = True
    accepts: tuple[Input, ...] | None = (
        Input("prompt", "text", "in place of the frame's description"),
        Input("negative", "text", "what null is, in place of the empty prompt"),
        Input("weighted", "json", "true or false: read (word:1.3), [word] and more than 77 tokens"),
        Input("clip_skip", "number", "how many of the text encoder's last layers are left out for the prompt"),
    )

    def __init__(self, template: str = "{description}", weighted: bool = False, clip_skip: int | None = None) -> None:
        super().__init__()
        self.template, self.weighted, self.clip_skip = template, weighted, clip_skip
        self.pieces = _pieces(template)
        self.layers: int | None = None
        self.table: Any = None
        """Words beside the tokenizer's."""
        _flag(weighted)
        self._skipped(clip_skip)

    def attach(self, backbone: Any) -> None:
        self.tokenizer, self.table = backbone.tokenizer, backbone.words.table
        self.layers = int(backbone.text_encoder.config.num_hidden_layers)
        self._skipped(self.clip_skip)

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        given = user_input or {}
        values = {"description": given.get("prompt", frame.description), "location": frame.location}
        prompt = "".join(values[piece] if is_name else piece for piece, is_name in self.pieces)
        weighted = _flag(given.get("weighted", self.weighted))
        arrays = self._read(prompt, weighted) | {
            f"null_{key}": value for key, value in self._read(given.get("negative", ""), weighted).items()
        }
        skipped = self._skipped(given.get("clip_skip", self.clip_skip))
        return arrays | {"clip_skip": np.array(skipped, dtype=np.int64)} if skipped else arrays

    def _read(self, prompt: str, weighted: bool) -> dict[str, np.ndarray]:
        """Give ids (S,) of a prompt, and weights (S,) where it has such: S is a multiple of a chunk's length then."""
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the prompt {prompt!r:.80} has half of a surrogate pair; write the letter itself") from error
        if not weighted:
            return {"ids": self.tokenize(prompt)}
        tokenizer = self.tokenizer
        special = Special(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)

        ids, weights = chunks(parse(prompt), self._ids, special, self._length)
        return {"ids": np.array(ids, dtype=np.int64), "weights": np.array(weights, dtype=np.float32)}

    def _ids(self, text: str) -> list[int]:
        """Return the ids of a text, without its two ends."""
        if self.table is not None and len(self.table):
            found: list[int] = self.table.tokenize(self.tokenizer, text)
        else:
            found = self.tokenizer(text, truncation=False, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    @property
    def _length(self) -> int:
        return min(int(self.tokenizer.model_max_length), _LONGEST)

    def _skipped(self, value: Any) -> int:
        """Return a number of layers to leave out; raises InputError where the text encoder has fewer."""
        most = self.layers
        whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value % 1 == 0
        if value is None or (whole and 0 <= value <= (most if most is not None else value)):
            return int(value or 0)
        upto = "" if most is None else f" to {most}, the text encoder's layers"
        raise InputError(f"clip_skip {value!r} must be a whole number from 0{upto}")

    def tokenize(self, prompt: str) -> np.ndarray:
        """Return the (S,) ids of a prompt, padded; warns with the text that does not fit."""
        length = self._length
        if len(prompt) > MAX_CHARACTERS:  # far more than fits, and slow to take apart
            dropped = f"all after the first {MAX_CHARACTERS} are dropped"
            warnings.warn(f"the prompt has {len(prompt)} characters; {dropped}", stacklevel=2)
            prompt = " ".join(prompt.split())[:MAX_CHARACTERS]
        tokenizer = self.tokenizer
        whole = [tokenizer.bos_token_id, *self._ids(prompt), tokenizer.eos_token_id]
        if len(whole) > length:
            cut = whole[length - 1 : -1]
            lost = tokenizer.decode(cut) if self.table is None else self.table.decode(tokenizer, cut)
            warnings.warn(f"the prompt has {len(whole)} tokens and {length} fit; dropped: {lost!r}", stacklevel=2)
        # Cut and filled by hand: asked for either, a tokenizer keeps it as a setting, which threads would take from each other.
        ids = whole if len(whole) <= length else [*whole[: length - 1], whole[-1]]
        return np.array([*ids, *[tokenizer.pad_token_id] * (length - len(ids))], dtype=np.int64)

    def collate(self, items: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        longest = max((len(item[key]) for item in items for key in ("ids", "null_ids") if key in item), default=0)
        return {key: np.stack([self._filled(key, item[key], longest) for item in items]) for key in items[0]}

    def _filled(self, key: str, array: np.ndarray, length: int) -> np.ndarray:
        """Fill an array of a frame up to what the longest prompt needs: with empty chunks on its right, of weight 1."""
        if key in ("ids", "null_ids") and len(array) < length:
            empty = self.tokenize("")
            return np.concatenate([array, *[empty] * ((length - len(array)) // len(empty))])
        if key in ("weights", "null_weights"):
            return np.concatenate([array, np.ones(length - len(array), dtype=np.float32)])
        return array

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        if "states" in arrays:
            return Signal(select_or_null(keep, arrays["states"], arrays["null_states"]))
        # Where a row is null the prompt's ids are not read at all.
        ids = select_or_null(keep, arrays["ids"], arrays["null_ids"])
        if "weights" not in arrays and "clip_skip" not in arrays:
            distinct, rows = torch.unique(ids, dim=0, return_inverse=True)
            return Signal(self._states(distinct)[rows])
        weights = select_or_null(keep, arrays["weights"], arrays["null_weights"]) if "weights" in arrays else None
        none = ids.new_zeros(len(ids))  # null is read by all layers, as diffusers' pipelines have it
        skipped = select_or_null(keep, arrays["clip_skip"], none) if "clip_skip" in arrays else none
        return Signal(self._in_chunks(ids, weights, skipped))

    def _in_chunks(self, ids: Tensor, weights: Tensor | None, skipped: Tensor) -> Tensor:
        """Encode rows of chunks, ids (B, C·L) and weights alike, each with its number of layers left out: (B, C·L, D)."""
        scenes, length = len(ids), self._length
        skipped = skipped.repeat_interleave(ids.shape[1] // length)
        ids = ids.reshape(-1, length)
        states: Tensor | None = None
        for count in skipped.unique().tolist():
            chosen = skipped == count
            some = self._states(ids[chosen], count)
            states = some.new_zeros(len(ids), *some.shape[1:]) if states is None else states
            states[chosen] = some
        assert states is not None
        if weights is not None:
            states = weigh(states, weights.reshape(-1, length))
        return states.reshape(scenes, -1, states.shape[-1])

    def precompute(self, arrays: Arrays) -> Arrays | None:
        learns = self.backbone.learns("text_encoder")
        # Words may be others the next time; rows of chunks differ in length from frame to frame.
        if learns or self.table or "weights" in arrays or "clip_skip" in arrays:
            return None
        return {"states": self._states(arrays["ids"]), "null_states": self._states(arrays["null_ids"])}

    def _states(self, ids: Tensor, skipped: int = 0) -> Tensor:
        """Run the text encoder on ids (B, S): what is appended (B, S, D)."""
        encoder = self.backbone.text_encoder
        if skipped:
            return final_norm(encoder)(before_last_layers(encoder, skipped, ids))
        states: Tensor = encoder(ids).last_hidden_state
        return states


def _pieces(template: Any) -> tuple[tuple[str, bool], ...]:
    """Take a template apart into text and the names of what it is filled with; raises InputError for anything else in it."""
    try:
        parsed = list(string.Formatter().parse(template))
    except (ValueError, TypeError) as error:
        shown = str(template)[:80]
        raise InputError(f"text template {shown!r} may use {{description}} and {{location}} only: {error}") from error
    pieces: list[tuple[str, bool]] = []
    for text, name, form, conversion in parsed:
        pieces += [(text, False)] if text else []
        if name is None:
            continue
        if name not in ("description", "location") or form or conversion:
            part = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            only = "may use {description} and {location} only, as they are"
            raise InputError(f"text template {template[:80]!r} {only}; not {{{part[:40]}}}")
        pieces.append((name, True))
    return tuple(pieces)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"weighted {value!r} must be true or false")
    return value


class PooledText(Text):
    """The text encoder's state at the end of the prompt, through two layers, as a term of the time embedding.

    Tokens reach a UNet at its cross-attentions, the time embedding reaches each of its residual blocks: so what a prompt says
    of the whole picture (its light, its weather) affects all resolutions, as in SDXL (Podell et al. 2023, section 2.2). Null is
    the empty prompt, or the negative one. A prompt with weights is read without them: weights apply to tokens.
    """

    accepts = tuple(one for one in Text.accepts or () if one.name != "clip_skip")

    def __init__(self, template: str = "{description}", weighted: bool = False) -> None:
        super().__init__(template, weighted)

    def attach(self, backbone: Any) -> None:
        super().attach(backbone)
        width = int(backbone.text_encoder.config.hidden_size)

        def build(site: Any) -> nn.Module:
            self.project = nn.Sequential(nn.Linear(width, site.width), nn.SiLU(), zero(nn.Linear(site.width, site.width)))
            return _Vector()

        self.tap_sites("time_vector", build)

    def _read(self, prompt: str, weighted: bool) -> dict[str, np.ndarray]:
        if not weighted:
            return super()._read(prompt, False)
        with warnings.catch_warnings():  # one vector is of the first tokens; that text reads the others too
            warnings.simplefilter("ignore")
            return super()._read(words(prompt), False)

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        return Signal(data=self.project(super().encode(arrays, keep).tokens))

    def _states(self, ids: Tensor, skipped: int = 0) -> Tensor:
        pooled: Tensor = self.backbone.text_encoder(ids).pooler_output
        return pooled


class _Vector(nn.Module):
    """The vector of each scene, for all of its views."""

    def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor:
        return per_row(now.signal.data, now.grid)
