"""Which plugins there are: found by entry point, listed without importing any, made from plain settings."""
