"""Datasets in the nuScenes schema: read, check, write.

Nothing of it imports nuscenes-devkit before that is needed: for its lists of splits, its count of points, `Dataset.devkit`.
"""

from drivegen.datasets.nuscenes.problems import Problem
from drivegen.datasets.nuscenes.read import Dataset, open
from drivegen.datasets.nuscenes.validate import validate
from drivegen.datasets.nuscenes.write import write

__all__ = ["Dataset", "Problem", "open", "validate", "write"]
