"""Tables of the command line: installed plugins, the inside of a model, the problems of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from drivegen.catalog.listing import Listed, listed
from drivegen.saved.contents import Contents, Part, contents


def show_plugins(console: Console) -> None:
    """Print every plugin kind with what it does; the broken ones with why."""
    table = Table("kind", "hooks, parameters", "origin", box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for plugin in listed():
        table.add_row(f"[bold]{escape(plugin.kind)}[/bold]", _about(plugin), escape(plugin.origin))
    console.print(table)


def _about(plugin: Listed) -> str:
    if plugin.problem:
        return f"[red]disabled: {escape(plugin.problem)}[/red]"
    hooks = f"[cyan]{' '.join(plugin.hooks)}[/cyan]"
    parameters = escape(", ".join(plugin.parameters)) or "no parameters"
    doubt = f"[yellow]not checked: {escape(plugin.unchecked)}[/yellow]\n" if plugin.unchecked else ""
    if doubt and not plugin.hooks:
        return doubt
    return f"{doubt}{escape(plugin.summary)}\n{hooks}\n[dim]{parameters}[/dim]\n"


def show_model(console: Console, folder: Path) -> None:
    """Print what is inside a model folder, after comparing its weights with their recorded hashes."""
    index = None
    if (folder / "drivegen.json").exists():
        from drivegen.saved.model import check_hashes, read_index

        index = read_index(folder)
        check_hashes(folder, index.sha256)
    found = contents(folder)
    console.print(f"[bold]{escape(str(folder))}[/bold]", highlight=False, soft_wrap=True)
    console.print(_parts_table(found))
    console.print(f"scheduler: {found.scheduler}", highlight=False, soft_wrap=True)
    if index is None:
        console.print("no plugins: it generates from text and ignores cameras, boxes and map")
        return
    height, width = index.image_size
    s = index.sampling
    null = "all plugins" if s.null is None else ", ".join(s.null) or "none"
    console.print(f"images: {height}x{width} (height x width)", highlight=False, soft_wrap=True)
    settings = escape(f"{s.sampler}, {s.steps} steps, guidance {s.guidance} (nulls {null}), rescale {s.guidance_rescale}")
    console.print(f"sampling: {settings}, noise {s.noise}, agreement {s.agreement}", highlight=False, soft_wrap=True)
    versions = ", ".join(f"{k} {v}" for k, v in index.versions.items()) or "versions that are not recorded"
    console.print(f"saved with: {escape(versions)}", highlight=False, soft_wrap=True)
    for key, value in index.about.items():
        said = "settings recorded in drivegen.json" if isinstance(value, (dict, list)) else escape(str(value))
        console.print(f"{escape(str(key))}: {said}", highlight=False, soft_wrap=True)
    console.print(f"sha256 of all {len(index.sha256)} weight files agree")


def _parts_table(found: Contents) -> Table:
    table = Table("part", "class or kind", "parameters", "dtype", "size", box=None, pad_edge=False, header_style="bold")
    for column in (2, 4):
        table.columns[column].justify = "right"

    def add(part: Part, name: str) -> None:
        size = f"{part.size_bytes / 1e6:.2f} MB"
        table.add_row(name, part.kind, f"{part.parameters:,}", " ".join(part.dtypes), size)

    for part in found.parts:
        add(part, part.name)
    for part in found.plugins:
        add(part, f"plugins/{part.name}")
    everything = (*found.parts, *found.plugins)
    total = sum(part.size_bytes for part in everything)
    table.add_row(
        "[bold]all[/bold]", "", f"[bold]{sum(p.parameters for p in everything):,}[/bold]", "", f"{total / 1e6:.2f} MB"
    )
    return table


def show_problems(console: Console, problems: Sequence[object], root: Path) -> bool:
    """Print a dataset's problems; returns whether any of them is an error."""
    errors = 0
    for problem in problems:
        severity = getattr(problem, "severity", "error")
        errors += severity == "error"
        colour = "red" if severity == "error" else "yellow"
        console.print(f"[{colour}]{severity}[/{colour}] {escape(str(problem))}", highlight=False, soft_wrap=True)
    verdict = f"{errors} errors, {len(problems) - errors} warnings" if problems else "nothing wrong"
    console.print(f"{escape(str(root))}: {verdict}", highlight=False, soft_wrap=True)
    return errors > 0
