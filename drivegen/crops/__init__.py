"""Objects cut out of recorded frames, as a dataset of their own: pictures of a subject, with its boxes."""

from drivegen.crops.find import Crop, Wanted, find
from drivegen.crops.write import TABLE, VERSION, write

__all__ = ["TABLE", "VERSION", "Crop", "Wanted", "find", "write"]
