"""A text tower: a text encoder with its tokenizer, and which of its states a denoising network was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drivegen.support.weights import unwrapped


@dataclass(frozen=True, eq=False)
class TextTower:
    """One of the text encoders of a model.

    Args:
        name: of the encoder's folder, such as "text_encoder_2".
        tokenizer: which reads prompts for it.
        encoder: one of transformers' CLIP text models.
        penultimate: whether the network attends to what enters the last layer, without the final norm (SDXL), rather than to
            the normalised output of the last.
    """

    name: str
    tokenizer: Any
    encoder: Any
    penultimate: bool = False

    @property
    def width(self) -> int:
        """D of its states."""
        return int(unwrapped(self.encoder).config.hidden_size)

    @property
    def layers(self) -> int:
        """Number of its layers."""
        return int(unwrapped(self.encoder).config.num_hidden_layers)

    @property
    def is_second(self) -> bool:
        """Whether it is a model's second tower, which may have a prompt of its own; a refiner has that one alone."""
        return self.name.endswith("_2")
