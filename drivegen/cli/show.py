"""Tables of the command line: installed plugins, the contents of a model, the problems of a dataset."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drivegen.catalog.listing import Listed, listed, listed_exporters, listed_objectives, listed_samplers, listed_tuners
from drivegen.cli.screen import Screen, text
from drivegen.saved.contents import Contents, Part, contents


def show_plugins(screen: Screen) -> None:
    """Print every plugin kind with its summary; broken ones with the reason."""
    rows = [(text((plugin.kind, "bold")), _about(plugin), plugin.origin) for plugin in listed()]
    screen.table(("kind", "hooks, parameters", "origin"), rows)


def show_samplers(screen: Screen) -> None:
    """Print every sampler with what it does and its options; the broken ones with why."""
    _show_offers(screen, "sampler", listed_samplers())


def show_objectives(screen: Screen) -> None:
    """Print every objective with what it minimises and its options; the broken ones with why."""
    _show_offers(screen, "objective", listed_objectives())


def show_tuners(screen: Screen) -> None:
    """Print every tuner with what it learns and its options; the broken ones with why."""
    _show_offers(screen, "tuner", listed_tuners())


def show_exporters(screen: Screen) -> None:
    """Print every format of `drivegen export` with its options; the broken ones with why."""
    _show_offers(screen, "format", listed_exporters())


def _show_offers(screen: Screen, what: str, found: Sequence[Listed]) -> None:
    rows = [(text((each.kind, "bold")), _about(each, "no options"), each.origin) for each in found]
    screen.table((what, "options", "origin"), rows)


def show_plugin(screen: Screen, kind: str) -> None:
    """Print what a kind of plugin does, its parameters, and what a caller may give it.

    It is imported; raises InputError where that cannot be done.
    """
    from drivegen.catalog import registry

    cls = registry.load(kind)
    about = next((each for each in listed() if each.kind == kind and not each.problem), Listed(kind))

    line = screen.line
    line((kind, "bold"), f" {about.origin}")
    for row in inspect.cleandoc(cls.__doc__ or "").splitlines():
        line(row)
    line(f"hooks: {' '.join(about.hooks) or 'none'}")
    line(f"parameters: {', '.join(about.parameters) or 'none'}")
    if cls.requires:
        line(f"requires: {', '.join(cls.requires)}")
    if cls.accepts is None:
        line("input: not declared; what is given with --input or inputs= reaches it as it is")
    elif not cls.accepts:
        line("input: none, it reads the frame")
    for each in cls.accepts or ():
        key = f"{kind}.{each.name}" if len(cls.accepts or ()) > 1 else kind
        needed = "required" if each.required else "optional"
        line(f"input {each.name} ({needed}): {each.what}; {each.accepted}")
        example = f"{kind}=FOLDER, or --input {kind}.CAMERA=" if each.per_camera else f"{key}="
        line(f"  --input {example}{'FILE' if each.type in ('picture', 'array', 'file') else each.type.upper()}")


def _about(plugin: Listed, without: str = "no parameters") -> Any:
    if plugin.problem:
        return text((f"disabled: {plugin.problem}", "red"))
    doubt = (f"not checked: {plugin.unchecked}\n" if plugin.unchecked else "", "yellow")
    if plugin.unchecked and not plugin.hooks:
        return text(doubt)
    parameters = ", ".join(plugin.parameters) or without
    hooks = (" ".join(plugin.hooks) + "\n" if plugin.hooks else "", "cyan")
    return text(doubt, f"{plugin.summary}\n", hooks, (f"{parameters}\n", "dim"))


HEADLINES = {
    "drivable_control": "drivable control", "vehicle_control": "vehicle control", "time_of_day_relative": "time of day",
    "weather_relative": "weather", "consistency": "cross-view error", "people_recall_relative": "people found",
    "frechet": "Fréchet distance",
}  # fmt: skip
"""Figures of the list of models, and how they are called there."""


def show_models(screen: Screen) -> None:
    """Print the models that come with the package: size, image size, plugins, measured figures. Reads no weights."""
    from drivegen.saved.embedded import embedded, read_figures
    from drivegen.saved.index import read_index

    rows = []
    for name, folder in embedded().items():
        index, found, measured = read_index(folder), contents(folder), read_figures(folder)
        parts = (*found.parts, *found.plugins)
        count, size = sum(part.parameters for part in parts), sum(part.size_bytes for part in parts)
        height, width = index.image_size
        about = [f"plugins: {', '.join(plugin.name for plugin in index.plugins) or 'none'}"]
        figures = [f"{said} {measured[key]:.3f}" for key, said in HEADLINES.items() if key in measured]
        about.append(f"measured: {', '.join(figures) or 'nothing yet'}")
        sizes = f"{count / 1e6:.1f} M parameters\n{size / 1e6:.1f} MB"
        rows.append((text((name, "bold")), sizes, f"{height}x{width}", "\n".join(about)))
    screen.table(("model", "size", "images", "conditions, figures"), rows)


def show_model(screen: Screen, folder: Path) -> None:
    """Print the contents of a model folder, after comparing its weights with their recorded hashes."""
    index = None
    if (folder / "drivegen.json").exists():
        from drivegen.saved.index import read_index
        from drivegen.saved.integrity import check_hashes

        index = read_index(folder)
        check_hashes(folder, index.sha256)
    found = contents(folder)
    screen.line((str(folder), "bold"))
    screen.line(f"family: {found.family}")
    _parts_table(screen, found)
    screen.line(f"scheduler: {found.scheduler}")
    if index is None:
        from drivegen.saved import wide

        if wide.is_inpainting(folder):
            screen.line("nine channels: it inpaints recorded pictures within a mask (drivegen edit, generate --mask)")
        screen.line("no plugins: it generates from text and ignores cameras, boxes and map")
        return
    height, width = index.image_size
    s = index.sampling
    null = "all plugins" if s.null is None else ", ".join(s.null) or "none"
    screen.line(f"images: {height}x{width} (height x width)")
    options = "".join(f" {name}={value}" for name, value in s.sampler_options.items())
    settings = f"{s.sampler}{options}, {s.steps} steps, guidance {s.guidance} (nulls {null}), rescale {s.guidance_rescale}"
    if s.guidance_range is not None:
        settings += ", at {:g} to {:g} of the steps".format(*s.guidance_range)
    screen.line(f"sampling: {settings}, noise {s.noise}, agreement {s.agreement}")
    versions = ", ".join(f"{k} {v}" for k, v in index.versions.items()) or "versions that are not recorded"
    screen.line(f"saved with: {versions}")
    for key, value in index.about.items():
        said = "settings recorded in drivegen.json" if isinstance(value, (dict, list)) else str(value)
        screen.line(f"{key}: {said}")
    screen.line(f"sha256 of all {len(index.sha256)} weight files agree")


def show_brought(screen: Screen, source: Path) -> None:
    """Print what a file is that somebody brings, and how it is loaded; raises InputError where that cannot be told."""
    from drivegen.saved.brought import recognise

    found = recognise(source)
    screen.line((str(source), "bold"))
    screen.line(f"{found.kind}; {found.use}")
    for what, said in found.facts.items():
        screen.line(f"{what}: {said}")
    screen.line(f"size: {found.size_bytes:,} bytes")
    screen.line(f"sha256: {found.sha256}")


def _parts_table(screen: Screen, found: Contents) -> None:
    def row(part: Part, name: str) -> tuple[Any, ...]:
        size = f"{part.size_bytes / 1e6:.2f} MB"
        return name, part.kind, f"{part.parameters:,}", " ".join(part.dtypes), size

    rows = [row(part, part.name) for part in found.parts] + [row(part, f"plugins/{part.name}") for part in found.plugins]
    everything = (*found.parts, *found.plugins)
    total, count = sum(part.size_bytes for part in everything), sum(part.parameters for part in everything)
    rows.append((text(("all", "bold")), "", text((f"{count:,}", "bold")), "", f"{total / 1e6:.2f} MB"))
    screen.table(("part", "class or kind", "parameters", "dtype", "size"), rows, right=(2, 4))


def show_problems(screen: Screen, problems: Sequence[object], root: Path) -> bool:
    """Print a dataset's problems; returns whether any of them is an error.

    Args:
        screen: where they are printed.
        problems: of `validate`.
        root: the dataset.
    """
    errors, found = 0, 0
    for problem in problems:
        severity, count = getattr(problem, "severity", "error"), getattr(problem, "count", 1)
        errors, found = errors + count * (severity == "error"), found + count
        screen.line((severity, "red" if severity == "error" else "yellow"), f" {problem}")
    verdict = f"{errors:,} errors, {found - errors:,} warnings" if problems else "nothing wrong"
    screen.line(f"{root}: {verdict}")
    return errors > 0
