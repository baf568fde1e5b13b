"""Faster kernels for generation on a CPU, with the same results."""
