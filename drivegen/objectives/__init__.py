"""What a training step minimises: the contract of objectives, what they are given, and drivegen's own."""

from drivegen.objectives.contract import GroupOptions, Objective
from drivegen.objectives.lesson import Lesson
from drivegen.objectives.twin import follow, teacher_of, twin

__all__ = ["GroupOptions", "Lesson", "Objective", "follow", "teacher_of", "twin"]
