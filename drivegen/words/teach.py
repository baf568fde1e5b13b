"""Words taught to the text encoder of a model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.support.errors import InputError


def teach(backbone: Backbone, words: Mapping[str, Tensor]) -> None:
    """Teach words to a model's text encoder: all of them, or none where one cannot be.

    Args:
        backbone: of one text encoder.
        words: the vectors (n, D) of each.

    Raises InputError where one is there already or has another width, and for a model of several text encoders.
    """
    if len(backbone.texts) != 1 or backbone.text_encoder is None:
        raise InputError(
            f"words of a textual inversion are for models of one text encoder, as Stable Diffusion 1.x and 2.x; this one is of "
            f"{backbone.family.name}"
        )
    backbone.words.add(backbone.text_encoder, words)
