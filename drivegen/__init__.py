"""drivegen: camera images of driving scenes under many conditions at once."""
