"""A model's student of few steps: a LoRA in a folder of the model's, as a training wrote it, with what it is sampled by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from drivegen.sampling.settings import Sampling
from drivegen.saved import card, tuners
from drivegen.saved.integrity import FAST
from drivegen.saved.model import Model
from drivegen.support import weights
from drivegen.support.errors import InputError
from drivegen.support.values import by_name


@dataclass(frozen=True)
class Student:
    """A student of few steps.

    Args:
        folder: of its LoRA.
        sampling: the model's settings with those that it was trained for.
    """

    folder: Path
    sampling: Sampling


def student(model: Model) -> Student:
    """Find the student of a model that was loaded from a folder; raises InputError where it has none, or another model's."""
    folder = None if model.folder is None else model.folder / FAST
    if folder is None or not (folder / tuners.ABOUT).is_file():
        where = "" if folder is None else f" (it would be in {folder})"
        raise InputError(
            f"this model has no student of few steps{where}; leave fast out, or train one: configs/trajectory_lora.yaml"
        )
    path = folder / tuners.ABOUT
    if tuners.read(folder).kind != "lora":
        raise InputError(f"{path} must be a LoRA's; a student of few steps is one")
    about = weights.read_object(path)
    trained, base = (by_name(about.get(key), f"{path}: {key}", "values") for key in ("training", "base"))
    told = by_name(trained.get("sampled_with"), f"{path}: training.sampled_with", "settings")
    if not told:
        raise InputError(f"{path} does not say what the student is sampled with (training.sampled_with)")
    if others := card.other_weights(base, card.base_of(model.host.backbone)):
        raise InputError(f"{folder} is the student of another model: the weights of {', '.join(others)} are not these")
    asked = Sampling.from_dict({**model.sampling.to_dict(), "sampler_options": {}, **told}, str(path))
    return Student(folder, asked)
