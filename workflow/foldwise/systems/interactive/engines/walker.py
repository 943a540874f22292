"""Random walks with priors: probabilities that are smooth except across edges of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

# Relative residual and iterations at which a solution is good enough: far below a grey value of the answer.
TOLERANCE, ITERATIONS = 1e-3, 200
# The smallest conductance of an edge, so that no voxel is cut off.
LEAST = 1e-3


def walk(
    image: np.ndarray, prior: np.ndarray, trust: np.ndarray | float, spacing: Sequence[float], contrast: float
) -> np.ndarray:
    """The probability that a voxel belongs to an object: a random walk with priors (Grady 2005).

    It minimises, over probabilities p, the sum of trust · (p − prior)² over voxels and of
    conductance · (difference of p)² over neighbours. The conductance is a Gaussian of the difference of grey
    values, and falls with the square of the distance.

    Args:
        image: (channels, ...) grey values in units of noise, in two or three dimensions.
        prior: (...) probability without regard to neighbours.
        trust: weight of the prior, per voxel or for all.
        spacing: mm along each axis.
        contrast: difference of grey values at which the conductance has fallen to exp(-1).
    """
    axes = range(prior.ndim)
    weights = []
    for axis in axes:
        steps = (np.diff(image, axis=axis + 1) ** 2).sum(0)
        scale = (min(spacing) / spacing[axis]) ** 2
        weights.append(((np.exp(-steps / contrast**2) + LEAST) * scale).astype(np.float32))
    trust = np.broadcast_to(np.asarray(trust, np.float32), prior.shape)
    diagonal = trust.copy()
    for axis, weight in zip(axes, weights, strict=True):
        low, high = _pair(diagonal, axis)
        low += weight
        high += weight

    def applied(flat: np.ndarray) -> np.ndarray:
        values = flat.reshape(prior.shape)
        product = diagonal * values
        for axis, weight in zip(axes, weights, strict=True):
            low, high = _pair(values, axis)
            low_product, high_product = _pair(product, axis)
            low_product -= weight * high
            high_product -= weight * low
        return product.ravel()

    size = prior.size
    system = LinearOperator((size, size), applied, dtype=np.float32)
    inverse = (1 / diagonal).ravel()
    jacobi = LinearOperator((size, size), lambda flat: inverse * flat.ravel(), dtype=np.float32)
    known = (trust * prior).astype(np.float32).ravel()
    found, _ = cg(
        system, known, prior.astype(np.float32).ravel(), rtol=TOLERANCE, maxiter=ITERATIONS, M=jacobi
    )
    return np.asarray(found.reshape(prior.shape).clip(0, 1))


def _pair(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Views of all but the last, and of all but the first, along an axis."""
    along = np.moveaxis(values, axis, 0)
    return np.moveaxis(along[:-1], 0, axis), np.moveaxis(along[1:], 0, axis)
