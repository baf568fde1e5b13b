"""Recorded frames changed: objects inserted, removed, moved, replaced in every camera; the rest stays as recorded."""

from drivegen.edit.areas import Area, areas
from drivegen.edit.changes import Change, Edits, Insert, Move, Replace
from drivegen.edit.paint import Edited, edit

__all__ = ["Area", "Change", "Edited", "Edits", "Insert", "Move", "Replace", "areas", "edit"]
