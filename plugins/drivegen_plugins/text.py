"""Text: a prompt template over the frame's description, through the backbone's text encoder, as tokens or as one vector."""

from __future__ import annotations

import string
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from drivegen.plugin import Arrays, Input, Now, Plugin, Signal, per_row, select_or_null
from drivegen.plugin.control_branch import zero
from drivegen.plugin.prompt_weights import weigh, words
from drivegen.plugin.prompts import PromptReader, pooled_text, text_states
from drivegen.scene import Frame
from drivegen.support.errors import InputError


class Text(Plugin):
    """The prompt's tokens, of every text encoder that the model has; null is the empty prompt, or the negative one.

    Where a model takes no text at all for an empty prompt (SDXL's base), null without a negative prompt is zeros.

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
        Input("prompt_2", "text", "what a second text encoder reads, in place of the prompt"),
        Input("negative_2", "text", "what null is for a second text encoder, in place of the negative prompt"),
    )

    def __init__(self, template: str = "{description}", weighted: bool = False, clip_skip: int | None = None) -> None:
        super().__init__()
        self.template, self.weighted, self.clip_skip = template, weighted, clip_skip
        self.pieces = _pieces(template)
        self.layers: int | None = None
        self.empty_is_zero = False
        self.readers: dict[str, PromptReader] = {}
        """How prompts are read, by the end of the arrays' names: "" for the first text encoder, "_2" for a second one."""
        _flag(weighted)
        self._skipped(clip_skip)

    def attach(self, backbone: Any) -> None:
        towers = self._towers(backbone)
        self.empty_is_zero = backbone.empty_is_zero
        tables = {"": backbone.words.table, "_2": backbone.words_2.table}
        self.readers = {_end(tower): PromptReader(tower.tokenizer, tables[_end(tower)]) for tower in towers}
        self.layers = min(tower.layers - tower.penultimate for tower in towers)
        self._skipped(self.clip_skip)

    def _towers(self, backbone: Any) -> list[Any]:
        """The text encoders whose states are appended."""
        return list(backbone.texts)

    def prepare(self, frame: Frame, user_input: Any = None) -> dict[str, np.ndarray]:
        given = user_input or {}
        for name in ("prompt_2", "negative_2"):
            if given.get(name) and not any(self.readers):
                raise InputError(f"{name} is for a second text encoder, and this model has one alone; leave it out")
        values = {"description": given.get("prompt", frame.description), "location": frame.location}
        prompt = "".join(values[piece] if is_name else piece for piece, is_name in self.pieces)
        negative = given.get("negative", "")
        weighted = _flag(given.get("weighted", self.weighted))
        prompts = {"": (prompt, negative), "_2": (given.get("prompt_2") or prompt, given.get("negative_2") or negative)}
        arrays: dict[str, np.ndarray] = {}
        for end, reader in self.readers.items():
            for begin, said in zip(("", "null_"), prompts[end], strict=True):
                arrays |= {f"{begin}{key}{end}": array for key, array in self._read(reader, said, weighted).items()}
        if self.empty_is_zero:
            arrays["null_zero"] = np.array(not any(prompts[end][1] for end in self.readers))
        skipped = self._skipped(given.get("clip_skip", self.clip_skip))
        return arrays | {"clip_skip": np.array(skipped, dtype=np.int64)} if skipped else arrays

    def _read(self, reader: PromptReader, prompt: str, weighted: bool) -> dict[str, np.ndarray]:
        return reader.read(prompt, weighted)

    def _skipped(self, value: Any) -> int:
        """Return a number of layers to leave out; raises InputError where the text encoder has fewer."""
        most = self.layers
        whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value % 1 == 0
        if value is None or (whole and 0 <= value <= (most if most is not None else value)):
            return int(value or 0)
        upto = "" if most is None else f" to {most}, the text encoder's layers"
        raise InputError(f"clip_skip {value!r} must be a whole number from 0{upto}")

    def collate(self, items: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        longest = max((len(array) for item in items for key, array in item.items() if "ids" in key), default=0)
        return {key: np.stack([self._filled(key, item[key], longest) for item in items]) for key in items[0]}

    def _filled(self, key: str, array: np.ndarray, length: int) -> np.ndarray:
        """Fill an array of a frame up to what the longest prompt needs: with empty chunks on its right, of weight 1."""
        end = "_2" if key.endswith("_2") else ""
        plain = key.removeprefix("null_").removesuffix("_2")
        return self.readers[end].filled(plain, array, length) if plain in ("ids", "weights") else array

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        if "states" in arrays:
            return Signal(select_or_null(keep, arrays["states"], arrays["null_states"]))
        parts = [self._tower_states(tower, _own(arrays, _end(tower)), keep) for tower in self._towers(self.backbone)]
        states = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return Signal(self._without_text(states, arrays, keep))

    def _tower_states(self, tower: Any, arrays: Arrays, keep: Tensor) -> Tensor:
        """Encode the prompts with one tower: (B, S, D)."""
        # Where a row is null the prompt's ids are not read at all.
        ids = select_or_null(keep, arrays["ids"], arrays["null_ids"])
        if "weights" not in arrays and "clip_skip" not in arrays:
            distinct, rows = torch.unique(ids, dim=0, return_inverse=True)
            return self._states(tower, distinct)[rows]
        weights = select_or_null(keep, arrays["weights"], arrays["null_weights"]) if "weights" in arrays else None
        none = ids.new_zeros(len(ids))  # null is read by all layers, as diffusers' pipelines have it
        skipped = select_or_null(keep, arrays["clip_skip"], none) if "clip_skip" in arrays else none
        return self._in_chunks(tower, ids, weights, skipped)

    def _without_text(self, states: Tensor, arrays: Arrays, keep: Tensor) -> Tensor:
        """Set the states (B, …) of null to zero where it has no negative prompt and the model takes no text then."""
        if "null_zero" not in arrays:
            return states
        empty = ~keep & arrays["null_zero"].to(keep.device)
        return torch.where(empty.view(-1, *[1] * (states.ndim - 1)), 0.0, states)

    def _in_chunks(self, tower: Any, ids: Tensor, weights: Tensor | None, skipped: Tensor) -> Tensor:
        """Encode rows of chunks, each with its number of layers left out: (B, C·L, D).

        Args:
            tower: whose encoder it is.
            ids: (B, C·L).
            weights: (B, C·L), None for none.
            skipped: (B,).
        """
        scenes, length = len(ids), self.readers[_end(tower)].length
        skipped = skipped.repeat_interleave(ids.shape[1] // length)
        ids = ids.reshape(-1, length)
        states: Tensor | None = None
        for count in skipped.unique().tolist():
            chosen = skipped == count
            some = self._states(tower, ids[chosen], count)
            states = some.new_zeros(len(ids), *some.shape[1:]) if states is None else states
            states[chosen] = some
        assert states is not None
        if weights is not None:
            states = weigh(states, weights.reshape(-1, length))
        return states.reshape(scenes, -1, states.shape[-1])

    def precompute(self, arrays: Arrays) -> Arrays | None:
        towers = self._towers(self.backbone)
        learns = any(self.backbone.learns(tower.name) for tower in towers)
        taught = any(reader.table for reader in self.readers.values())
        # Words may be others the next time; rows of chunks differ in length from frame to frame.
        if learns or taught or any(key.startswith("weights") for key in arrays) or "clip_skip" in arrays:
            return None
        keep = torch.ones(len(next(iter(arrays.values()))), dtype=torch.bool, device=next(iter(arrays.values())).device)
        found = {}
        for name, kept in (("states", keep), ("null_states", ~keep)):
            parts = [self._states(tower, arrays[f"{'' if kept is keep else 'null_'}ids{_end(tower)}"]) for tower in towers]
            found[name] = self._without_text(torch.cat(parts, dim=-1), arrays, kept)
        return found

    def _states(self, tower: Any, ids: Tensor, skipped: int = 0) -> Tensor:
        """Run a tower's encoder on ids (B, S): what is appended (B, S, D).

        Args:
            tower: whose encoder it is.
            ids: (B, S).
            skipped: layers left out.
        """
        self.readers[_end(tower)].check(ids)
        return self._encoded(tower, ids, skipped)

    def _encoded(self, tower: Any, ids: Tensor, skipped: int) -> Tensor:
        return text_states(tower, ids, skipped)


def _end(tower: Any) -> str:
    """The end of the names of a tower's arrays."""
    return "_2" if tower.is_second else ""


def _own(arrays: Arrays, end: str) -> Arrays:
    """Return the arrays that one tower reads, without the end of their names; the number of layers left out is for all."""
    own = {key.removesuffix(end): value for key, value in arrays.items() if key.endswith("_2") == bool(end)}
    return {**own, **({"clip_skip": arrays["clip_skip"]} if "clip_skip" in arrays else {})}


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
    """The last text encoder's state at the end of the prompt, as one vector beside the time.

    Tokens reach a network at its cross-attentions, the time embedding reaches each of its residual blocks: so what a prompt
    says of the whole picture (its light, its weather) affects all resolutions (Podell et al. 2023, section 2.2). A network that
    takes a pooled text by itself, as SDXL, is given it; in any other it goes through two layers to a term of the time
    embedding. Null is the empty prompt, or the negative one. A prompt with weights is read without them: weights apply to
    tokens.
    """

    accepts = tuple(one for one in Text.accepts or () if one.name != "clip_skip")

    def __init__(self, template: str = "{description}", weighted: bool = False) -> None:
        super().__init__(template, weighted)

    def attach(self, backbone: Any) -> None:
        super().attach(backbone)
        self.given = "text_embeds" in backbone.family.added
        if self.given:
            return
        width = self._towers(backbone)[-1].width

        def build(site: Any) -> nn.Module:
            self.project = nn.Sequential(nn.Linear(width, site.width), nn.SiLU(), zero(nn.Linear(site.width, site.width)))
            return _Vector()

        self.tap_sites("time_vector", build)

    def _towers(self, backbone: Any) -> list[Any]:
        return list(backbone.texts)[-1:]

    def _read(self, reader: PromptReader, prompt: str, weighted: bool) -> dict[str, np.ndarray]:
        # With weights nothing is said of what does not fit: one vector is of the first tokens, and `text` reads the others too.
        return reader.read(words(prompt) if weighted else prompt, False, warn=not weighted)

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        pooled = super().encode(arrays, keep).tokens
        assert pooled is not None
        return Signal(added={"text_embeds": pooled}) if self.given else Signal(data=self.project(pooled))

    def _encoded(self, tower: Any, ids: Tensor, skipped: int) -> Tensor:
        return pooled_text(tower, ids)


class _Vector(nn.Module):
    """The vector of each scene, for all of its views."""

    def forward(self, x: Tensor, y: Tensor, now: Now) -> Tensor:
        return per_row(now.signal.data, now.grid)
