"""Networks and plugins together: one prediction from a backbone and everything that plugins add."""
