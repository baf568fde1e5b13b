"""Annotation files of detectors' training code, from a dataset in the nuScenes schema; formats are found by entry point."""

from drivegen.catalog.formats import load
from drivegen.export.contract import Exporter
from drivegen.export.part import Part
from drivegen.export.run import Report, export

__all__ = ["Exporter", "Part", "Report", "export", "load"]
