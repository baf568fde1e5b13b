"""The properties of an option besides its default, and its name in diffusers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from drivegen.pipeline import record
from drivegen.support.errors import InputError, nearest

DIFFUSERS_WORDS = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "num_images_per_prompt": "repeats",
}
"""Words of diffusers for options that have another name here; Python takes both."""

ELSEWHERE = {
    "height": "size=(height, width) is for both sides",
    "width": "size=(height, width) is for both sides",
    "sigmas": "give timesteps= instead",
    "eta": "the samplers 'ddim' (0) and 'ddpm' (1) are its ends",
    "cross_attention_kwargs": "a LoRA has its scale from load_lora, a plugin from scales=",
    "prompt_embeds": "give prompt= as text",
    "negative_prompt_embeds": "give negative_prompt= as text",
    "ip_adapter_image": "give inputs={'image_prompt': picture}",
    "control_image": "give inputs={name of the ControlNet: picture}",
    "controlnet_conditioning_scale": "give scales={name of the ControlNet: x}",
    "control_guidance_start": "give ranges={name of the ControlNet: (start, end)}",
    "control_guidance_end": "give ranges={name of the ControlNet: (start, end)}",
    "mask_image": "give image= and mask={camera: picture}, white where something is drawn anew",
    "masked_image_latents": "give image= and mask=, of which they are made",
    "padding_mask_crop": "drivegen.edit blends into the recorded pictures at their own size",
    "return_dict": "views are a mapping by camera",
    "callback": "give callback_on_step_end=",
    "callback_steps": "callback_on_step_end is called after each step",
    "callback_on_step_end_tensor_inputs": "callback_on_step_end is given the latents",
}
"""Words of diffusers for what is asked for otherwise here, and how."""


@dataclass(frozen=True)
class About:
    """The properties of an option besides its default.

    Args:
        help: one sentence for the command line and the documentation.
        check: returns the stored form of a value, from the value and the option's name; raises InputError.
        kind: type on the command line: str, int, float, or list (the option may be repeated).
        flag: its flag where that is not the field's name, as for lists, which are named once per item.
        metavar: its placeholder in the help.
        read: converts the words of the command line to a value.
        python_only: why the command line has no such option; "" where it has.
        note: what the manifest and `Views.settings` record of a value.
    """

    help: str
    check: Callable[[Any, str], Any]
    kind: type = str
    flag: str = ""
    metavar: str | None = None
    read: Callable[[Any], Any] = lambda words: words
    python_only: str = ""
    note: Callable[[Any], Any] = record.same


def option(help: str, check: Callable[[Any, str], Any], default: Any = None, **about: Any) -> Any:
    """Make a field of `GenerationSettings` that is an option.

    Args:
        help: one sentence for the command line and the documentation.
        check: returns the stored form of a value, from the value and the option's name; raises InputError.
        default: None is the model's own default.
        about: the further fields of `About`.
    """
    return field(default=default, metadata={"about": About(help, check, **about)})


def named(given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Replace diffusers' names of options by those here; raises InputError for unknown and repeated ones.

    Args:
        given: values by the names here or those of diffusers; None counts as not given.
        known: the available options, by name.
    """
    out: dict[str, Any] = {}
    for word, value in given.items():
        name = DIFFUSERS_WORDS.get(word, word)
        if name not in known:
            hint = f"; {ELSEWHERE[word]}" if word in ELSEWHERE else nearest(word, [*known, *DIFFUSERS_WORDS])
            raise InputError(f"there is no option {word!r} of generation{hint}")
        if value is None:
            continue
        if name in out:
            raise InputError(f"{name!r} is given twice, as {word!r} too; give one of them")
        out[name] = value
    return out
