"""Which plugins are available: found by entry point, listed without importing any, constructed from plain settings."""
