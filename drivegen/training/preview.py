"""Preview sheets: pictures of held-out scenes at fixed seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image

from drivegen.pipeline.views import save_png
from drivegen.support.files import make_subfolder
from drivegen.training.ema import EMA

Rows = Sequence[Sequence[Image.Image]]


class Preview(pl.Callback):
    """Draws rows of pictures before the first step and after every N steps, into a folder and into TensorBoard.

    Args:
        folder: where the sheets go.
        every: N.
        draw: returns the rows.
        ema: the moving average, which replaces the trained parameters while drawing; None for none.
    """

    def __init__(self, folder: Path, every: int, draw: Callable[[], Rows], ema: EMA | None = None) -> None:
        self.folder, self.every, self.draw, self.ema = folder, every, draw, ema
        self._step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._step = trainer.global_step
        if trainer.global_step == 0:
            self.show(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        due = trainer.global_step != self._step and trainer.global_step % self.every == 0
        if due and not trainer.should_stop:  # who stops the run is not kept waiting
            self.show(trainer, pl_module)
        self._step = trainer.global_step

    @torch.no_grad()
    def show(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Draw now."""
        if not trainer.is_global_zero:
            return
        with self.ema.applied(pl_module) if self.ema is not None else nullcontext():
            picture = grid(self.draw())
        pl_module.train()
        folder = make_subfolder(self.folder.parent, self.folder.name)
        save_png(picture, folder / f"step-{trainer.global_step:08d}.png")
        for logger in trainer.loggers:
            board: Any = getattr(logger, "experiment", None)
            if hasattr(board, "add_image"):
                board.add_image("preview", np.asarray(picture), trainer.global_step, dataformats="HWC")
            elif hasattr(logger, "log_image"):
                logger.log_image("preview", [picture], trainer.global_step)


def grid(rows: Rows, gap_px: int = 2) -> Image.Image:
    """Put rows of pictures on one sheet, those of a row of equal size."""
    width = max((picture.width + gap_px) * len(row) for row in rows for picture in row[:1]) - gap_px
    sheet = Image.new("RGB", (width, sum(row[0].height + gap_px for row in rows) - gap_px), (255, 255, 255))
    top = 0
    for row in rows:
        for column, picture in enumerate(row):
            sheet.paste(picture, (column * (picture.width + gap_px), top))
        top += row[0].height + gap_px
    return sheet
