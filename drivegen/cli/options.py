"""Options of the commands that generate: those of the model, and those made from the fields of `GenerationSettings`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

import typer

from drivegen.cli.arguments import (
    AddedPlugins,
    ConfigFolder,
    Embeddings,
    Fast,
    Loras,
    PredictionType,
    Refiner,
    Tuners,
    Vae,
    Variant,
)
from drivegen.pipeline.option import About
from drivegen.pipeline.settings import GenerationSettings, options

_OF_MODEL: dict[str, tuple[str, Any, Any]] = {
    "config": ("config_folder", ConfigFolder, None), "vae": ("vae", Vae, None), "variant": ("variant", Variant, None),
    "prediction_type": ("prediction_type", PredictionType, None), "refiner": ("refiner", Refiner, None),
    "plugin": ("plugins", AddedPlugins, None), "fast": ("fast", Fast, False), "lora": ("loras", Loras, None),
    "tuner": ("tuners", Tuners, None), "embedding": ("embeddings", Embeddings, None),
}  # fmt: skip
"""What a model is loaded with, by the option's name: the field of `generate.Where`, its annotation, its default."""
_REPEATED = ("plugin", "lora", "tuner", "embedding")


def generation_options(without: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return what replaces a command's ``**given`` by the options of the model and one per field, but for those that it has.

    The command divides what it is given by `split`.

    Args:
        without: fields of which it has no option.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        left = {name: a for name, a in on_command_line().items() if name not in (*without, *signature.parameters)}
        kind = inspect.Parameter.KEYWORD_ONLY
        made = [inspect.Parameter(name, kind, default=d, annotation=a) for name, (_, a, d) in _OF_MODEL.items()]
        made += [inspect.Parameter(name, kind, default=None, annotation=_option(name, a)) for name, a in left.items()]
        command.__signature__ = signature.replace(parameters=[p.replace(kind=kind) for p in own] + made)  # type: ignore[attr-defined]
        return command

    return decorate


def split(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide what a command was given into fields of `generate.Where`, and what `read` reads."""
    where = {}
    for name, (field, _, default) in _OF_MODEL.items():
        value = given.get(name, default)
        where[field] = tuple(value or ()) if name in _REPEATED else value
    return where, {name: value for name, value in given.items() if name not in _OF_MODEL}


def on_command_line() -> dict[str, About]:
    """Return the options that the command line has, by the name of their field."""
    return {name: about for name, about in options().items() if not about.python_only}


def flag(name: str, about: About) -> str:
    """Return an option's flag on the command line."""
    return about.flag or f"--{name.replace('_', '-')}"


def read(given: Mapping[str, Any]) -> GenerationSettings:
    """Build settings from the options of the command line; raises InputError that names the option."""
    known = on_command_line()
    # An option that may be repeated is an empty list where it is not given.
    values = {name: known[name].read(words) for name, words in given.items() if words is not None and words != []}
    return GenerationSettings(**values)


def _option(name: str, about: About) -> Any:
    kind: Any = list[str] if about.kind is list else about.kind
    default = GenerationSettings.__dataclass_fields__[name].default
    said = f" Default: {default}." if isinstance(default, int) else ""
    return Annotated[kind | None, typer.Option(flag(name, about), metavar=about.metavar, help=about.help + said)]
