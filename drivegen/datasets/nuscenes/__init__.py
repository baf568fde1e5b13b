"""Datasets in the nuScenes schema: read, check, write.

``open`` reads through nuscenes-devkit, which is imported on first use; everything else is light.
"""

from drivegen.datasets.nuscenes.problems import Problem
from drivegen.datasets.nuscenes.read import Dataset, open
from drivegen.datasets.nuscenes.validate import validate
from drivegen.datasets.nuscenes.write import write

__all__ = ["Dataset", "Problem", "open", "validate", "write"]
