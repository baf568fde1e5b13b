"""Text embeddings of the detection classes' names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drivegen.scene import DETECTION_CLASSES


@torch.no_grad()
def class_tokens(backbone: Any, width: int) -> Tensor:
    """Return the (10, width) pooled text embeddings of the bare class names; random where the text encoder has another
    width.
    """
    encoder = backbone.text_encoder
    if encoder.config.hidden_size != width:
        return torch.randn(len(DETECTION_CLASSES), width)
    ids = backbone.tokenizer(
        list(DETECTION_CLASSES), padding="max_length", truncation=True, max_length=min(backbone.tokenizer.model_max_length, 77)
    )
    pooled: Tensor = encoder(torch.tensor(ids["input_ids"], device=next(encoder.parameters()).device)).pooler_output
    return pooled.float().cpu().clone()
