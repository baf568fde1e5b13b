"""Checks of the folders and files that a config names, before anything is written into them."""

from __future__ import annotations

from pathlib import Path

from drivegen.support.errors import InputError
from drivegen.training.config import Config


def place(text: str, setting: str) -> Path:
    """Return a path, ``~`` expanded; raises InputError naming the setting for an impossible path."""
    try:
        path = Path(text).expanduser()
        path.resolve()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{setting} = {text[:200]!r} is no path here: {getattr(error, 'strerror', None) or error}") from error
    return path


def check_places(config: Config) -> None:
    """Raise InputError for an output that would overwrite something else: a file, the root, a home, a dataset, the base."""
    output = place(config.output, "output")
    written = {"output": output}
    if config.data.cache is not None:
        written["data.cache"] = place(config.data.cache, "data.cache")
    roots = {place(root, "data.roots").resolve() for root in config.data.roots}
    if config.prior is not None:
        written["prior.folder"] = place(config.prior.folder, "prior.folder")
    for setting, folder in written.items():
        at = folder.resolve()
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{setting} = {str(folder)!r} is a file; choose a folder")
        if at in (Path(at.anchor), Path.home().resolve()):
            raise InputError(f"{setting} = {str(folder)!r} is {at}, which is not to be written into; choose a folder below it")
        if at in roots:
            raise InputError(f"{setting} = {str(folder)!r} is a dataset of data.roots; choose another folder")
    made = {(output / name).resolve() for name in ("model", "vae", *config.tuners)}
    read = {"model.base": config.model.base, "model.vae": config.model.vae}
    read |= {f"plugins.{name}.weights": plugin.weights for name, plugin in config.plugins.items()}
    read |= {f"tuners.{name}.weights": tuner.weights for name, tuner in config.tuners.items()}
    if config.autoencoder is not None:
        redrawn = config.autoencoder.redrawn
        read |= {"autoencoder.weights": config.autoencoder.weights}
        read |= {"autoencoder.redrawn.model": redrawn.model if redrawn is not None else None}
    for setting, source in read.items():
        if source is None or source == "tiny":
            continue
        at = place(source, setting).resolve()
        if any(folder in (at, *at.parents) for folder in made):
            raise InputError(f"{setting} = {source!r} is what the end of this run would replace; choose another output")
