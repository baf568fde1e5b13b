"""Pictures as features: networks that others trained, whose weights come with a package or from a file."""
