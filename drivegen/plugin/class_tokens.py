"""Text embeddings of the detection classes' names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drivegen.plugin.prompts import LONGEST, text_states
from drivegen.scene import DETECTION_CLASSES


@torch.no_grad()
def class_tokens(backbone: Any, width: int) -> Tensor:
    """Return the (10, width) text embeddings of the bare class names, those of several text encoders joined.

    Each is an encoder's state at the end of the name, as the network attends to it. They are random where the encoders have
    another width than is asked for.
    """
    if sum(tower.width for tower in backbone.texts) != width:
        return torch.randn(len(DETECTION_CLASSES), width)
    return torch.cat([_ends(tower) for tower in backbone.texts], dim=1)


def _ends(tower: Any) -> Tensor:
    tokenizer, encoder = tower.tokenizer, tower.encoder
    length = min(tokenizer.model_max_length, LONGEST)
    found = tokenizer(list(DETECTION_CLASSES), padding="max_length", truncation=True, max_length=length)["input_ids"]
    ids = torch.tensor(found, device=next(encoder.parameters()).device)
    ends = (ids == tokenizer.eos_token_id).int().argmax(1)
    return text_states(tower, ids)[torch.arange(len(ids)), ends].float().cpu().clone()
