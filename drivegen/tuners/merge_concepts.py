"""Several subjects of Custom Diffusion in one: a least-squares problem with constraints (Kumari et al. 2023, sec. 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from drivegen.plugin.tuner import own_layers
from drivegen.support.errors import InputError
from drivegen.tuners.custom_diffusion import CustomDiffusion


@torch.no_grad()
def merge(backbone: Any, subjects: Mapping[str, CustomDiffusion], texts: Sequence[str]) -> CustomDiffusion:
    """Return one Custom Diffusion that gives each subject's phrase what its own gave it, and other text nearly what it was.

    It is attached to the backbone, and may be added to a host of it, or saved.

    Args:
        backbone: with the subjects' words in its table.
        subjects: by the phrase of each, such as ``<new1> van``; attached to this backbone.
        texts: prompts that have nothing to do with the subjects; a few hundred, so that their tokens span the text's width.

    Raises InputError where there is none, or one changes queries and outputs, which have no text to hold them.
    """
    if not subjects or not texts:
        raise InputError("merging needs at least one subject and one other text")
    if any(tuner.query_and_output for tuner in subjects.values()):
        raise InputError("a subject changes queries and outputs too; those of keys and values alone can be merged")
    made = CustomDiffusion()
    made.bind(backbone)
    phrases = {phrase: states_of(backbone, phrase) for phrase in subjects}
    kept = torch.cat([states_of(backbone, text) for text in texts])
    for _, name, key in made.sites:
        change: Any = made.changes[key]
        each: Any = [(tuner.changes[key], phrases[phrase]) for phrase, tuner in subjects.items()]
        base = dict(own_layers(backbone.unet))[name].weight.float()
        change.weight.copy_(merged(base, [(own.weight, states) for own, states in each], kept))
    return made


def states_of(backbone: Any, text: str) -> Tensor:
    """Return the text encoder's states (n, D) of a text's tokens, without its two ends."""
    tokenizer, most = backbone.tokenizer, int(backbone.text_encoder.config.max_position_embeddings) - 2
    ids = backbone.words.table.tokenize(tokenizer, text)[:most]
    whole = [tokenizer.bos_token_id, *ids, *[tokenizer.eos_token_id] * (most + 1 - len(ids))]
    device = next(backbone.text_encoder.parameters()).device
    states: Tensor = backbone.text_encoder(torch.tensor([whole], device=device)).last_hidden_state
    return states[0, 1 : 1 + len(ids)].float()


def merged(weight: Tensor, learned: Sequence[tuple[Tensor, Tensor]], kept: Tensor) -> Tensor:
    """Return the weight that gives each subject's words what its own weight gives them, and other text nearly what it gave.

    It minimises ‖(W − W₀)·C_regᵀ‖ under W·Cᵀ = V (eq. 4 and 5), where V has W_i·c for the words c of subject i.

    Args:
        weight: W₀ (out, D), of keys or values.
        learned: of each subject its weight W_i (out, D), and states (n, D) of its words, from prompts about it.
        kept: states C_reg (m, D) of other text, m well above D or so that their products can be inverted with a small ridge.

    Raises InputError where the words of subjects are the same, or depend on each other.
    """
    c = torch.cat([states for _, states in learned]).double()
    v = torch.cat([states.double() @ own.double().T for own, states in learned])
    base, text = weight.double(), kept.double()
    gram = text.T @ text
    gram += 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    d = torch.linalg.solve(gram, c.T).T
    inner = d @ c.T
    if torch.linalg.matrix_rank(inner) < len(c):
        raise InputError(f"the {len(c)} states of the subjects' words depend on each other; give fewer, or other words")
    return (base + torch.linalg.solve(inner, v - c @ base.T).T @ d).to(weight.dtype)
