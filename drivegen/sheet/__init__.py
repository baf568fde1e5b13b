"""Pictures for people to look at: the contact sheet, the scene from above, boxes drawn into the views."""

from drivegen.sheet.above import bird_eye
from drivegen.sheet.before_after import before_after
from drivegen.sheet.contact import contact_sheet, contact_sheets
from drivegen.sheet.overlay import draw_boxes

__all__ = ["before_after", "bird_eye", "contact_sheet", "contact_sheets", "draw_boxes"]
