"""Quicker kernels while a picture is generated on a processor: the same numbers."""
