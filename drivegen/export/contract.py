"""The contract of a format: the names of its files, and their contents for one split of a dataset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from drivegen.export.part import Part


class Exporter(ABC):
    """A format of annotation files; the constructor's arguments are its options.

    A package offers its own by an entry point of the group ``drivegen.exporters``: a name and this subclass.
    """

    needs_lidar: ClassVar[bool] = True
    """Whether boxes are given in the lidar's frame, so that a sample without LIDAR_TOP is refused."""

    def __init__(self) -> None:
        """Take no options; a format that has some names them here, with defaults."""
        super().__init__()

    @abstractmethod
    def names(self, split: str) -> tuple[str, ...]:
        """Return the names of the files of a split (train, val, test), relative to the output folder."""

    @abstractmethod
    def contents(self, part: Part) -> Mapping[str, bytes]:
        """Return the content of each of those files; the same dataset gives the same bytes."""
