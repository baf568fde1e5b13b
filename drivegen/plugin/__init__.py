"""Everything that an author of a plugin imports: the contract here, ready-made parts in the modules beside it."""

from drivegen.plugin.contract import Plugin
from drivegen.plugin.inputs import Input
from drivegen.plugin.released import Released, ReleasedFile
from drivegen.plugin.signals import Arrays, Context, Denoiser, Grid, Now, Residuals, Signal, per_row, select_or_null
from drivegen.plugin.training_step import ToX0, TrainingStep
from drivegen.plugin.unknown import Unknown

__all__ = [
    "Arrays", "Context", "Denoiser", "Grid", "Input", "Now", "Plugin", "Released", "ReleasedFile", "Residuals", "Signal",
    "ToX0", "TrainingStep", "Unknown", "per_row", "select_or_null",
]  # fmt: skip
