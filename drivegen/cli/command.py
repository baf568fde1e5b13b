"""What every command has: errors become one line and an exit status, warnings a line, other libraries' remarks nothing."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import typer

from drivegen.cli.screen import Screen, complain
from drivegen.support.cores import limit_threads
from drivegen.support.errors import CannotGoOn, InputError
from drivegen.support.signals import INTERRUPTED

FAILED, BAD_INPUT = 1, 2


def screen() -> Screen:
    """Return standard output; made when asked for, as tests and callers exchange it."""
    return Screen()


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn bad input into one line and status 2, Ctrl-C into status 130; anything else is a bug and shows where it is."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        warnings.showwarning = _Warn()
        limit_threads()
        try:
            command(*args, **kwargs)
        except InputError as error:
            complain(f"error: {error}")
            raise typer.Exit(BAD_INPUT) from error
        except OSError as error:
            where = f" {error.filename}" if error.filename else ""
            complain(f"error: {error.strerror or error}{where}")
            raise typer.Exit(BAD_INPUT) from error
        except CannotGoOn as error:
            complain(f"error: {error}")
            raise typer.Exit(FAILED) from error
        except KeyboardInterrupt as error:
            complain("interrupted")
            raise typer.Exit(INTERRUPTED) from error

    return guarded


class _Warn:
    """Says each warning once, as the same one may come of every frame; `warnings` itself forgets where filters change."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        # Deprecations are for developers; what a user can act on is a UserWarning.
        if issubclass(category, UserWarning) and str(message) not in self._said:
            self._said.add(str(message))
            complain(f"warning: {message}")


def quiet() -> None:
    """Keep transformers' and diffusers' remarks about themselves off the screen."""
    import transformers
    from diffusers.utils import logging

    transformers.logging.set_verbosity_error()
    logging.set_verbosity_error()
