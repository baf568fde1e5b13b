"""What lies between the layers of a CLIP encoder, of text or of pictures."""

from __future__ import annotations

from threading import get_ident
from typing import Any

from torch import Tensor


def before_last_layers(encoder: Any, count: int, x: Tensor) -> Tensor:
    """Return what enters the last `count` layers of an encoder: its ``hidden_states[-(count + 1)]``.

    Asked for hidden states, transformers would leave hooks behind that can be neither copied nor pickled.

    Args:
        encoder: one of transformers' CLIP models.
        count: how many of its layers are left out, from 1.
        x: what it reads, ids (B, S) or pictures (B, 3, s, s).
    """
    layers: Any = next(module for name, module in encoder.named_modules() if name.endswith("encoder.layers"))
    seen: list[Tensor] = []
    thread = get_ident()

    def note(module: Any, args: Any, kwargs: Any) -> None:
        if get_ident() == thread:  # two models may share the encoder, and compute at once
            seen.append(args[0] if args else kwargs["hidden_states"])

    hook = layers[-count].register_forward_pre_hook(note, with_kwargs=True)
    try:
        encoder(x)
    finally:
        hook.remove()
    return seen[0]


def final_norm(encoder: Any) -> Any:
    """Return the norm behind the last layer of a text encoder."""
    return next(module for name, module in encoder.named_modules() if name.endswith("final_layer_norm"))
