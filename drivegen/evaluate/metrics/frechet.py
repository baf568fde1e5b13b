"""Fréchet distance between two sets of features, each taken as a Gaussian (Heusel et al. 2017)."""

from __future__ import annotations

import numpy as np

from drivegen.scene.geometry import Array
from drivegen.support.errors import InputError


def frechet_distance(a: Array, b: Array) -> float:
    """Return |μa − μb|² + tr(Ca + Cb − 2 (Ca^½ Cb Ca^½)^½) of features (N, D) and (M, D); both need two rows."""
    if min(len(a), len(b)) < 2 or a.ndim != 2 or a.shape[1] != b.shape[1]:
        raise InputError(f"features {a.shape} and {b.shape} cannot be compared; (N, D) and (M, D), N, M >= 2, are needed")
    root = _root(np.atleast_2d(np.cov(a, rowvar=False)))
    other = np.atleast_2d(np.cov(b, rowvar=False))
    # The product's symmetric form has the same trace and keeps the eigenvalues real.
    cross = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(root @ root) + np.trace(other) - 2 * cross)


def _root(symmetric: Array) -> Array:
    values, vectors = np.linalg.eigh(symmetric)
    root: Array = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root
