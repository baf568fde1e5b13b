"""Changes that are for prompts alone: the tokens of boxes and cameras in the same context stay as they are."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from drivegen.plugin.tuner import Site


def on_prompt(x: Tensor, y: Tensor, site: Site, added: Callable[[Tensor], Tensor]) -> Tensor:
    """Add something to what a layer gives for prompts' tokens.

    Args:
        x: the context (N, S, D).
        y: keys or values (N, S, C).
        site: says where the prompts' tokens are.
        added: gives what is added (N, s, C) for some of the tokens (N, s, D).
    """
    if not site.prompt:
        return y
    y = y.clone()
    for part in site.prompt:
        y[:, part] = y[:, part] + added(x[:, part]).to(y.dtype)
    return y
