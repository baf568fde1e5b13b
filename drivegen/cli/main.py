"""The command line: which commands there are, in the order of `drivegen --help`."""

from __future__ import annotations

import typer

from drivegen.cli.commands.convert import convert
from drivegen.cli.commands.dataset import crops, synthesize, validate, verify, world
from drivegen.cli.commands.evaluate import compare, evaluate, evaluate_condition
from drivegen.cli.commands.export import export, exporters
from drivegen.cli.commands.generate import edit, generate
from drivegen.cli.commands.merge import merge
from drivegen.cli.commands.plugins import plugins
from drivegen.cli.commands.show import info, models, objectives, samplers, tuners
from drivegen.cli.commands.train import train

app = typer.Typer(
    name="drivegen", help="Camera images of driving scenes, under many conditions at once.", no_args_is_help=True,
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip

for command in (
    generate, edit, world, train, synthesize, verify, evaluate, export, compare, exporters, crops, validate, samplers,
    objectives, tuners, merge, evaluate_condition, models, info,
):  # fmt: skip
    app.command()(command)
for group in (convert, plugins):
    app.add_typer(group)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
