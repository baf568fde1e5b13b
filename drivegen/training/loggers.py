"""Loggers of a run: TensorBoard files in its folder, Weights & Biases, both or neither."""

from __future__ import annotations

import importlib.util
import os
import secrets
from pathlib import Path

from pytorch_lightning.loggers import Logger

from drivegen.support import files
from drivegen.support.errors import InputError
from drivegen.training.config import Config


def check_loggers(config: Config) -> None:
    """Raise InputError for a logger that is not installed."""
    if "wandb" in config.logger and importlib.util.find_spec("wandb") is None:
        raise InputError("logger names wandb, which is not installed; run `pip install 'drivegen[wandb]'`, or leave it out")


def make_loggers(config: Config, folder: Path) -> list[Logger]:
    """Make the loggers of a run that writes into a folder.

    A resumed run continues the curves of its first part. Weights & Biases needs no network with ``WANDB_MODE=offline``, and is
    offline when nobody is logged in, rather than asking in the middle of a script.
    """
    made: list[Logger] = []
    for name in dict.fromkeys(config.logger):
        if name == "tensorboard":
            from pytorch_lightning.loggers import TensorBoardLogger

            made.append(TensorBoardLogger(folder, files.refuse_link(folder / "tensorboard").name, ""))
        else:
            made.append(_wandb(folder))
    return made


def _wandb(folder: Path) -> Logger:
    from pytorch_lightning.loggers import WandbLogger

    offline = os.environ.get("WANDB_MODE") == "offline"
    if "WANDB_MODE" not in os.environ and not _has_login():
        offline = True
        print("wandb: no API key is set (WANDB_API_KEY, or `wandb login`); the run is kept offline", flush=True)
    files.refuse_link(folder / "wandb")
    return WandbLogger(name=folder.name, save_dir=folder, project="drivegen", id=_identity(folder), offline=offline)


def _has_login() -> bool:
    netrc = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return "WANDB_API_KEY" in os.environ or (netrc.is_file() and "wandb" in netrc.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return False


def _identity(folder: Path) -> str:
    """Return the name that a run has for Weights & Biases, kept in its folder."""
    file = folder / ".wandb_run"
    if not file.is_file():
        files.write_atomically(file, secrets.token_hex(4).encode())
    return file.read_text(encoding="ascii", errors="replace").strip()
