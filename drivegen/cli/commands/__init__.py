"""The commands: their arguments and options; the work of each is imported when it runs."""
