"""Code used only for measurements and for training the referee; not part of the installed package."""
